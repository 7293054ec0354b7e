"""AdapterDrop's robust training: which layers a step leaves out."""

from __future__ import annotations

from collections import Counter

import pytest

import tiny
from autopeft.network.attach import attach
from autopeft.training.evaluator import Evaluator
from autopeft.training.layer_drop import LayerDrop
from autopeft.training.recipe import Recipe
from autopeft.training.retraining import baseline


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_the_first_layers_are_left_out_and_the_last_never(kind: str) -> None:
    found = tiny.backbone(kind)
    with attach(found, baseline("mam:2", found)) as attached:
        stacks = {found.site(key[0]).stack for key in attached.modules}
        depth = {s: 1 + max(site.layer or 0 for site in found.sites.values() if site.stack == s) for s in stacks}
        drop, seen = LayerDrop(attached, 9, 0), Counter[int]()
        for step in range(400):
            drop(step)
            out = {(found.site(key[0]).stack, found.site(key[0]).layer) for key in attached.masks}
            for stack in stacks:
                layers = sorted(layer for s, layer in out if s == stack and layer is not None)
                assert layers == list(range(len(layers)))
                assert len(layers) < depth[stack]
            seen[max((1 + layer for _, layer in out if layer is not None), default=0)] += 1
        assert set(seen) == set(range(max(depth.values())))  # misses one of ten once in 1e17
        again = Counter[int]()
        for step in range(400):
            drop(step)
            again[max((1 + (found.site(key[0]).layer or 0) for key in attached.masks), default=0)] += 1
        assert again == seen
        drop.nothing()
        assert not attached.masks


def test_training_uses_it_and_evaluation_does_not() -> None:
    parts = tiny.splits(tiny.sentiment(24), tiny.sentiment(16, seed=1))
    backbone = tiny.backbone("bert", with_tokenizer=True)
    recipe = Recipe(epochs=2, batch_size=8, max_length=16, learning_rate=1e-2)
    evaluator, architecture = Evaluator(backbone, tiny.SENTIMENT, parts, recipe), baseline("serial:4", backbone)
    plain = evaluator(architecture, 0)
    with evaluator.with_recipe(drop_layers=2).trained(architecture, 0) as run:
        assert not run.attached.masks
        dropped = run.measure()
    assert [epoch.loss for epoch in dropped.history] != [epoch.loss for epoch in plain.history]
    assert dropped.counts == plain.counts
