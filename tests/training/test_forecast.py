"""What a step keeps, told without weights: as much as the same step keeps where there are some."""

from __future__ import annotations

import pytest
import torch

import tiny
from autopeft.backbones import Backbone
from autopeft.training.forecast import Kept, kept_bytes

NEARLY = {"t5", "llama"}
"""Families for which a processor has kernels that keep something else than what is counted on paper."""


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet", "t5", "llama"])
def test_as_much_is_told_on_paper_as_is_kept(family: str) -> None:
    real = tiny.backbone(family)
    paper = Backbone.from_config(real.model.config, device="meta")
    for name in ("lora", "serial"):
        for rows, length in ((2, 6), (4, 12)):
            told, kept = (
                kept_bytes(one, tiny.everywhere(one, name, 2), rows, length, dropout=0.1) for one in (paper, real)
            )
            assert told is not None
            assert kept is not None
            if family in NEARLY:
                assert 0.95 * kept <= told <= 1.5 * kept
            else:
                assert told == kept
    assert not paper.model.training
    assert paper.occupant is None


def test_what_is_kept_is_counted_once_and_without_the_model() -> None:
    layer = torch.nn.Linear(4, 4)
    kept, x = Kept(layer), torch.zeros(3, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        y = layer(x)
        y * y
    # The input of the map and its output, which is kept twice; the weight is the model's.
    assert kept.taken() == 2 * 3 * 4 * 4
    assert kept.taken() == 0


def test_a_model_that_asks_for_values_says_nothing() -> None:
    paper = Backbone.from_config(tiny.backbone("bert").model.config, device="meta")
    paper.model.get_input_embeddings().register_forward_hook(lambda module, given, found: found * float(found.sum()))
    assert kept_bytes(paper, tiny.everywhere(paper, "lora", 2), 2, 6) is None
    assert paper.occupant is None
