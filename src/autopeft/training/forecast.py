"""What a step keeps in memory for its backward pass, told on paper: of a backbone without weights, before any run.

The forward pass is done on the device "meta", where tensors have a shape and no content, and what autograd keeps of it
is counted. On a processor the kernels that run can keep less than the ones that are counted, hardly ever more. What is
measured, by two steps on the longest batch, is `autopeft.training.peak`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.network.attach import attach
from autopeft.network.dropout import quick_dropout

_SAID = 8
"""Tokens that a text-to-text model is taken to write: a label, or a few words."""


class Kept:
    """Bytes of the storages that autograd keeps, each counted once, those of a model's own tensors left out."""

    def __init__(self, model: torch.nn.Module) -> None:
        own = [*model.parameters(), *model.buffers()]
        self._own = {tensor.untyped_storage()._cdata for tensor in own}
        self._seen: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        """The tensor as it is, counted."""
        # Storages of the device "meta" have no address. One whose number is seen again has taken the place of another
        # that autograd had let go, and counts in its stead.
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own:
            self._seen[storage._cdata] = storage.nbytes()
        return tensor

    def taken(self) -> int:
        """What was counted since the last call."""
        total = sum(self._seen.values())
        self._seen.clear()
        return total


def kept_bytes(
    backbone: Backbone, architecture: Architecture, batch_size: int, length: int, dropout: float | None = None
) -> int | None:
    """Bytes that a training step of the backbone's stacks keeps for its backward pass, without the head's.

    Args:
        backbone: on any device; on "meta" nothing is computed.
        batch_size: examples.
        length: tokens of each.
        dropout: of every layer; None leaves the model's own.

    Returns:
        None where the model asks for the values of its tensors, which there are none of on the device "meta".
    """
    model, device = backbone.model, backbone.device
    ids = torch.zeros(batch_size, length, dtype=torch.long, device=device)
    more = {"decoder_input_ids": ids[:, :_SAID]} if backbone.family.is_text_to_text else {}
    was_training = model.training
    with attach(backbone, architecture), quick_dropout(model, dropout):
        kept = Kept(model)
        model.train()
        try:
            # Without a mask, whose values would be asked for: all tokens count.
            with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
                model(input_ids=ids, attention_mask=None, **more)
        except RuntimeError:
            if device.type != "meta":
                raise
            return None
        finally:
            model.train(was_training)
        return kept.taken()
