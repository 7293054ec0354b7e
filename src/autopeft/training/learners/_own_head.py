"""From hidden states to words as a language model does it by itself, without running its layers again.

Between the last hidden state and the logits of a model more may stand than one map: Granite divides the logits, Cohere
multiplies them, Gemma bends them. So the model's own forward pass is run, with something in the place of its layers
that gives hidden states that are known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from autopeft.errors import BackboneError


class _Given(nn.Module):
    """Stands where the layers stand."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden, self.is_asked = hidden, False

    def forward(self, *args: Any, **options: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """What is known, whatever is asked."""
        self.is_asked = True
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)


class OwnHead:
    """What `whole` makes of the hidden states of `inner`, its part without the vocabulary."""

    def __init__(self, whole: PreTrainedModel, inner: nn.Module, name: str) -> None:
        """Raises:
        BackboneError: `whole` does not run `inner` as one part of itself, and its logits are not those of its map to
            the vocabulary alone.
        """
        self._whole, self._inner = whole, inner
        self._place = next((key for key, part in whole.named_children() if part is inner), None)
        self._is_given = self._can_be_given()
        if not self._is_given and not self._is_map_alone():
            raise BackboneError(
                f"{name} cannot be trained to write: its logits are more than a map of its last hidden states, and "
                f"{type(whole).__name__} does not say them without its layers."
            )

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., vocabulary)`` of hidden states ``(..., d)``."""
        if not self._is_given:
            return self._mapped(hidden)
        # One row of as many tokens as there are: the logits of a token are of its own hidden state alone.
        logits = self._said(_Given(hidden.reshape(1, -1, hidden.shape[-1])))
        return logits.reshape(*hidden.shape[:-1], logits.shape[-1])

    def _said(self, given: _Given) -> Tensor:
        assert self._place is not None
        self._whole._modules[self._place] = given
        try:
            logits: Tensor = self._whole(inputs_embeds=given.hidden, use_cache=False, return_dict=True).logits
        finally:
            self._whole._modules[self._place] = self._inner
        return logits

    def _mapped(self, hidden: Tensor) -> Tensor:
        found: Tensor = self._whole.get_output_embeddings()(hidden)
        return found

    @torch.no_grad()
    def _can_be_given(self) -> bool:
        if self._place is None:
            return False
        like = self._whole.get_input_embeddings().weight
        given = _Given(torch.zeros(1, 2, self._whole.config.hidden_size, dtype=like.dtype, device=like.device))
        try:
            return self._said(given).shape[:2] == (1, 2) and given.is_asked
        except (AttributeError, TypeError, ValueError, RuntimeError):
            # Some ask more of their inner part than to be run, as OPT, which runs a part of it.
            return False

    @torch.no_grad()
    def _is_map_alone(self) -> bool:
        ids = torch.tensor([[1, 2, 3, 4]], device=self._whole.device)
        said = self._whole(input_ids=ids, use_cache=False, return_dict=True).logits
        mapped = self._mapped(self._inner(input_ids=ids, use_cache=False, return_dict=True).last_hidden_state)
        return said.shape == mapped.shape and torch.allclose(said, mapped, rtol=1e-3, atol=1e-3)
