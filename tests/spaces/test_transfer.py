"""Architectures on other backbones, by relative depth and width."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.spaces.transfer import Shape, check_shape, transfer
from small_case import Case, call


@cache
def _bert(layers: int, width: int = 32) -> Backbone:
    return tiny.backbone("bert", num_hidden_layers=layers, hidden_size=width)


def _serial(*layers: int, size: int = 4) -> Architecture:
    return Architecture(tuple(Placement(f"encoder.{layer}.ffn", "serial", size) for layer in layers))


def _layers(architecture: Architecture) -> list[int]:
    return [int(item.site.split(".")[1]) for item in architecture]


@pytest.mark.parametrize(
    ("before", "after", "layers", "expected"),
    [
        (3, 6, (0,), [0, 1]),
        (3, 6, (2,), [4, 5]),
        (6, 3, (0, 1, 4), [0]),  # the middles of the new layers lie in the old layers 1, 3 and 5
        (3, 4, (1,), [1, 2]),
        (4, 6, (0, 3), [0, 4, 5]),  # the middle of the new layer 4 is where the old layer 3 begins
    ],
)
def test_every_layer_takes_what_stood_at_its_relative_depth(
    before: int, after: int, layers: tuple[int, ...], expected: list[int]
) -> None:
    moved = transfer(_serial(*layers), _bert(before), _bert(after))
    assert sorted(_layers(moved)) == expected


@pytest.mark.slow
@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_a_uniform_architecture_stays_uniform_and_none_is_invented(before: int, after: int, data: Any) -> None:
    old, new = _bert(before), _bert(after)
    assert sorted(_layers(transfer(_serial(*range(before)), old, new))) == list(range(after))
    chosen = data.draw(st.sets(st.integers(0, before - 1), min_size=1))
    if before == after:
        assert transfer(_serial(*chosen), old, new) == _serial(*chosen)
    if after >= before:
        assert len(transfer(_serial(*chosen), old, new)) >= len(chosen)  # nothing is lost on a deeper model


def test_units_grow_with_the_width_and_a_prefix_keeps_its_tokens() -> None:
    given_one = Architecture((
        Placement("encoder.1.ffn", "serial", 3),
        Placement("encoder.1.q", "lora", 1, scale=2.0),
        Placement("encoder.1.attention", "prefix", 5),
        Placement("encoder.1.ffn_in", "bitfit", 1),
    ))  # fmt: skip
    old, new = _bert(3), _bert(3, width=64)
    if "encoder.1.attention" not in old.sites:
        given_one = Architecture(
            tuple(p if p.method != "prefix" else Placement("encoder.1.kv", "prefix", 5) for p in given_one)
        )
    sizes = {item.method: (item.size, item.scale) for item in transfer(given_one, old, new)}
    assert sizes == {"serial": (6, 1.0), "lora": (2, 2.0), "prefix": (5, 1.0), "bitfit": (1, 1.0)}
    back = transfer(transfer(given_one, old, new), new, old)
    assert back == given_one


def test_what_cannot_stand_there_is_named() -> None:
    with pytest.raises(ArchitectureError, match=r"its source, which has no encoder\.7\.ffn"):
        transfer(_serial(7), _bert(3), _bert(3))
    with pytest.raises(ArchitectureError, match="has no encoder"):
        transfer(_serial(1), _bert(3), tiny.backbone("llama"))
    with pytest.raises(ArchitectureError, match="Nothing of the architecture is left"):
        transfer(_serial(0), _bert(3), _bert(1))  # the middle of one layer lies in the middle of three


def test_a_shape_is_compared_in_words() -> None:
    about = Shape.of(_bert(3)).as_dict()
    assert check_shape(json.loads(json.dumps(about)), _bert(3)) == ""
    assert check_shape(about, _bert(4)) == (
        "it was found on 3 encoder layers, hidden size 32, but this model has 4 encoder layers, hidden size 32"
    )
    with pytest.raises(ArchitectureError, match="hidden_size and layers"):
        check_shape({"layers": 3}, _bert(3))


def test_a_found_architecture_is_moved_and_refused_where_it_does_not_belong(
    case: Case, searched: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    _bert(6).model.save_pretrained(other)
    moved = call("transfer", searched, "--trial", 0, "--to", other, "--out", tmp_path / "moved.json")
    assert moved.code == 0, moved.err
    again = ("transfer", searched, "--trial", 0, "--to", other, "--out", tmp_path / "moved.json")
    assert "holds an architecture of an earlier run: give another name, or --overwrite" in call(*again).err
    assert call(*again, "--overwrite").code == 0
    for_task = call(*again, "--overwrite", "--task", "glue/rte")
    assert f"--task glue/rte --warm-start {tmp_path / 'moved.json'}" in " ".join(for_task.out.split())
    assert "glue/rte" in call(*again, "--overwrite", "--task", "glue/ret").err
    told = json.loads((tmp_path / "moved.json").read_text())
    assert told["backbone"]["layers"] == {"encoder": 6}
    assert told["transferred_from"]["layers"] == {"encoder": 3}
    refused = call("train", case.write(tmp_path / "s.yaml"), "--architecture", tmp_path / "moved.json", "--seeds", 1)
    assert refused.code == 2
    assert "it was found on 6 encoder layers, hidden size 32, but this model has 3 encoder layers" in refused.err
    back = call("transfer", tmp_path / "moved.json", "--from", other, "--to", case.folder / "model", "--json")
    assert json.loads(back.out)["architecture"]["placements"] == told["transferred_from"]["placements"]
    for wrong in (("--to", other), ("--trial", 0, "--at", "1%", "--to", other)):
        assert call("transfer", searched, *wrong).code == 2
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(told["architecture"]))
    unknown = call("transfer", bare, "--to", other)
    assert (unknown.code, "name it with --from" in unknown.err) == (2, True)
    assert call("transfer", bare, "--from", other, "--to", other).code == 0
