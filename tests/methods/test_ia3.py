"""IA3 against `peft` with the same weights."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from autopeft.network.attach import attach
from tiny import backbone, everywhere, fill, inputs, output

# The maps whose output peft rescales; of the others, those of the feed-forward, it rescales the input.
ATTENTION = {"bert": ["key", "value"], "llama": ["k_proj", "v_proj"]}


@pytest.mark.parametrize("family", ATTENTION)
def test_it_computes_what_peft_computes_and_has_its_gradients(family: str) -> None:
    from peft import IA3Config, get_peft_model

    found = backbone(family)
    plain = copy.deepcopy(found.model)
    where = everywhere(found, "ia3")
    # By full path: in BERT the attention's own output is called like the feed-forward's.
    paths = [found.site(p.site).entry for p in where]
    after = [path for path in paths if path.rpartition(".")[2] not in ATTENTION[family]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, about versions of its dependencies
        peer: nn.Module = get_peft_model(plain, IA3Config(target_modules=paths, feedforward_modules=after))
    with fill(attach(found, where)) as attached:
        weights = dict(peer.named_parameters())
        pairs = [
            (module.weight, weights[f"base_model.model.{found.site(site).entry}.ia3_l.default"])
            for (site, _), module in attached.modules.items()
        ]
        assert len(pairs) == 3 * 3  # keys, values and hidden states of three layers
        with torch.no_grad():
            for own, other in pairs:
                other.copy_((1 + own).reshape(other.shape))  # type: ignore[operator]
        ours = output(found)
        theirs = peer.eval()(**inputs(found)).last_hidden_state[inputs(found)["attention_mask"].bool()]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        ours.square().sum().backward()
        theirs.square().sum().backward()
        for own, other in pairs:
            assert isinstance(own, nn.Parameter)
            assert isinstance(other.grad, torch.Tensor)
            torch.testing.assert_close(own.grad, other.grad.flatten(), atol=1e-4, rtol=1e-4)


def test_the_hidden_state_is_what_the_second_map_is_given() -> None:
    """On T5, whose gated hidden state is a product that no module puts out."""
    found = backbone("t5", feed_forward_proj="gated-gelu")
    site = found.site("encoder.0.ffn_hidden")
    given: list[torch.Tensor] = []
    handle = found.module(site.entry).register_forward_pre_hook(lambda _, args: given.append(args[0]))
    output(found)
    handle.remove()
    with fill(attach(found, everywhere(found, "ia3"))) as attached, torch.no_grad():
        for key, module in attached.modules.items():
            if key != (site.key, "ia3"):
                module.weight.zero_()  # type: ignore[operator, union-attr]
        handle = found.module(site.entry).register_forward_pre_hook(lambda _, args: given.append(args[0]))
        output(found)
        handle.remove()
        factors = 1 + attached.modules[site.key, "ia3"].weight  # type: ignore[operator]
    torch.testing.assert_close(given[1], given[0] * factors)
