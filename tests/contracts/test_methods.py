"""What every method promises on every family of backbones, found by discovery.

A new file under `methods` or `backbones` is tested here without an edit; the promises are those of `autopeft.testing`.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.network.attach import attach
from autopeft.testing._promise import Promise
from autopeft.testing.methods import PROMISES, same_state, starts_at_zero
from covering import covering
from tiny import LEADS, backbone, everywhere, fill, fitting, output

CASES = [(family, method) for family in LEADS for method in fitting(family)]

# Promises that are dear to check, and that what happens at one site decides: a mistake of a method or of a family shows
# with several of the others as with all, which the long run tries.
DEAR = {
    "half_precision_runs",
    "gradient_checkpointing_gives_the_same_gradients",
    "counts_are_what_is_there_where_input_and_output_differ_in_width",
    "a_scale_is_what_the_method_s_own_is_multiplied_by",
    "the_first_units_of_a_large_module_are_a_small_one",
    "detaching_leaves_no_trace",
    "the_seed_decides_and_nothing_else",
    "masked_away_is_absent",
    "padding_changes_nothing",
    "state_makes_the_round_trip",
}


def cases_of(promise: Promise) -> list[Any]:
    """The families and methods that a promise is about, marked."""
    about = [case for case in CASES if promise.is_about(*case)]
    chosen = covering(about) if promise.name in DEAR else [pytest.param(*case, id="-".join(case)) for case in about]
    return [pytest.param(promise, *one.values, id=f"{promise.name}-{one.id}", marks=one.marks) for one in chosen]


def test_the_dear_promises_are_promises() -> None:
    assert {promise.name for promise in PROMISES} >= DEAR


@pytest.mark.parametrize(("promise", "family", "method"), [case for one in PROMISES for case in cases_of(one)])
def test_a_method_keeps(promise: Promise, family: str, method: str) -> None:
    promise.check(family, method)


def test_every_method_stands_somewhere() -> None:
    assert {method for _, method in CASES} == set(methods.names())


@pytest.mark.parametrize(("method", "is_neutral"), [("lora", True), ("parallel", True), ("serial", False)])
def test_the_start_is_the_one_of_the_papers(method: str, is_neutral: bool) -> None:
    found = backbone()
    with attach(found, everywhere(found, method)) as attached:
        assert starts_at_zero(attached) == is_neutral


@pytest.mark.parametrize("family", LEADS)
def test_full_fine_tuning_trains_the_backbone_and_gives_it_back(family: str) -> None:
    found = backbone(family)
    before = {name: value.clone() for name, value in found.model.state_dict().items()}
    plain = output(found)
    with attach(found, everywhere(found, "full")) as attached:
        output(found).square().sum().backward()
        with torch.no_grad():
            for parameter in attached.parameters():
                parameter -= 0.1 * (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.sign())
        assert not torch.equal(output(found), plain)
    assert same_state(found.model.state_dict(), before)
    assert torch.equal(output(found), plain)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in found.model.parameters())


@pytest.mark.parametrize("family", LEADS)
def test_all_methods_stand_together(family: str) -> None:
    found = backbone(family)
    plain = output(found)
    placed = {(p.site, p.method): p for name in fitting(family) for p in everywhere(found, name) if name != "full"}
    prefixes = [name for name in fitting(family) if methods.lookup(name).seam == "kv"]
    chosen = tuple(p for p in placed.values() if p.method not in prefixes[1:])  # one prefix an attention
    assert len({placement.method for placement in chosen}) == len(fitting(family)) - len(prefixes)
    with fill(attach(found, Architecture(chosen))) as attached, torch.no_grad():
        assert torch.isfinite(output(found)).all()
        for placement in chosen:
            attached.remove(Placement(placement.site, placement.method, placement.size))
        assert torch.equal(output(found), plain)
