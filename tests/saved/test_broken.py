"""Saved folders of strangers: every case ends in success or in one typed error, within a second, and leaves nothing."""

from __future__ import annotations

import copy
import json
import shutil
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError, BackboneError, InputError
from autopeft.network.attach import attach
from autopeft.saved import save as saving
from autopeft.saved.card import card
from autopeft.saved.record import read_record
from autopeft.saved.save import Described, load
from autopeft.training.heads import Head, HeadedModel
from fuzzing import N_CASES, SEED, at_once
from small_case import call
from tiny import backbone, everywhere, fill, inputs, tokenizer

ABOUT = Described("classification", ("bad", "good"), ("text",), {"task": "x", "recipe": {"max_length": 16}})


@cache
def base() -> Backbone:
    """One for all cases: what is refused leaves it as it was."""
    return backbone(with_tokenizer=True)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved folder as it ought to be."""
    folder = tmp_path_factory.mktemp("valid")
    found = base()
    methods = ("serial", "prefix", "lora")
    # In one layer: a file is read the same with more, and the fuzzers read a hundred thousand.
    placed = Architecture(tuple(p for name in methods for p in everywhere(found, name, 2) if ".0." in p.site))
    with fill(attach(found, placed)) as attached:
        saving.save(folder, attached, HeadedModel(found, Head(found.hidden_size, 2)), ABOUT)
    return folder


@pytest.fixture
def folder(valid: Path, tmp_path: Path) -> Path:
    """A copy that a test may break, without the digests that would tell it at once."""
    path = Path(shutil.copytree(valid, tmp_path / "saved"))
    write(path, {name: value for name, value in record_of(path).items() if name != "digests"})
    return path


def record_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "architecture.json").read_text())
    return found


def write(folder: Path, record: Any) -> None:
    (folder / "architecture.json").write_text(json.dumps(record))


def opened(folder: Path) -> str | None:
    """Load from `folder`; the message of the error that it ends in, or None. Anything but a typed error fails."""
    own = base()
    with at_once():
        try:
            found = load(folder, backbone=own)
        except InputError as error:
            told = str(error)
        else:
            card(found.record)
            found.attached.detach()
            told = None
    assert own.occupant is None
    return told


def test_the_folder_is_right_before_it_is_broken(valid: Path, folder: Path) -> None:
    assert opened(valid) is None
    assert opened(folder) is None


CASES: dict[str, tuple[tuple[str, ...], Any]] = {
    "format must be a whole number of at least 1": (("format",), -1),
    "format must be a whole number": (("format",), True),
    "backbone.dtype must be one of": (("backbone", "dtype"), "nosuch"),
    "problem must be one of": (("problem",), "unknown"),
    "2 outputs have 1 labels": (("label_names",), ["bad"]),
    "label_names must be a list of texts": (("label_names",), ["bad", 3]),
    "1,000,000,000 outputs have 2 labels": (("n_outputs",), 10**9),
    "n_outputs must be a whole number": (("n_outputs",), float(2)),
    "counts.nominal must be": (("counts", "nominal"), -3),
    "counts.trained must be": (("counts", "trained"), "x"),
    "counts.backbone must be a whole number of at least 1": (("counts", "backbone"), 0),
    "facts must be an object": (("facts",), None),
    "facts.recipe.max_length must be": (("facts", "recipe", "max_length"), "many"),
    "backbone must be an object": (("backbone",), "bert"),
    "architecture must be an object": (("architecture",), [[]]),
    "at most 1,000,000, but got 1000000000 for": (("architecture", "placements", "0", "2"), 10**9),
    "at most 1,000,000, but got True for": (("architecture", "placements", "0", "2"), True),
    "of shape": (("architecture", "placements", "0", "2"), 10**6),
    "Unknown method 'nosuch'": (("architecture", "placements", "0", "0"), "nosuch"),
    "has no site": (("architecture", "placements", "0", "1"), "encoder.99.ffn"),
    "is not wanted": (("architecture", "placements"), []),
    "head/dense.weight is not wanted": (("n_outputs",), 0),
    "has format 99": (("format",), 99),
}


def put(record: Any, path: tuple[str, ...], value: Any) -> None:
    *above, last = path
    for part in above:
        record = record[int(part) if isinstance(record, list) else part]
    record[int(last) if isinstance(record, list) else last] = value


@pytest.mark.parametrize("told", CASES)
def test_a_record_that_cannot_be_is_one_error(folder: Path, told: str) -> None:
    record = record_of(folder)
    put(record, *CASES[told])
    write(folder, record)
    found = opened(folder)
    assert found is not None
    assert told in found
    assert len(found) < 1500


@pytest.mark.parametrize("text", ["NaN", "[" * 20_000, '{"format": 1, "format": 1}', '{"format": 1e999}'])
def test_json_that_nobody_means_is_one_error(folder: Path, text: str) -> None:
    (folder / "architecture.json").write_text(text)
    assert "does not hold a saved model: architecture.json" in str(opened(folder))


@pytest.mark.parametrize("name", ["inputs", "prompt", "verbalisers", "facts", "counts", "versions"])
def test_what_first_versions_lack_may_be_missing(folder: Path, name: str) -> None:
    record = record_of(folder)
    del record[name]
    write(folder, record)
    read_record(folder)
    load(folder, backbone=base()).attached.detach()


def broken_weights(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    name = "head/out.weight"
    yield "hold numbers that are not finite, in head/out.weight", {**tensors, name: tensors[name] * float("nan")}
    yield "hold numbers that are not finite", {**tensors, name: tensors[name] / 0}
    yield "of type I64, which is not one of", {**tensors, name: tensors[name].long()}
    yield "of type BOOL, which is not one of", {**tensors, name: tensors[name].bool()}
    yield "head/out.weight of shape (2, 31) instead of (2, 32)", {**tensors, name: tensors[name][:, 1:].contiguous()}
    yield "head/out.weight is missing", {key: value for key, value in tensors.items() if key != name}
    yield "more is not wanted", {**tensors, "more": torch.zeros(1)}


def test_weights_that_cannot_be_are_one_error(folder: Path) -> None:
    path = folder / "model.safetensors"
    for told, tensors in broken_weights(load_file(path)):
        save_file(tensors, path)
        assert told in str(opened(folder)), told
    for raw in (b"", b"weights", path.read_bytes()[:-9]):
        path.write_bytes(raw)
        assert "cannot be read" in str(opened(folder))


def test_digests_bind_the_weights_and_the_record(valid: Path, folder: Path) -> None:
    shutil.copy(valid / "architecture.json", folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "head/out.bias": tensors["head/out.bias"] + 1}, folder / "model.safetensors")
    assert "are not those that were saved with this architecture: their digest is" in str(opened(folder))
    shutil.copy(valid / "model.safetensors", folder)
    write(folder, {**record_of(folder), "label_names": ["good", "bad"]})
    assert "was changed since it was saved" in str(opened(folder))


# -- the base ------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base that was named by a relative path, and a model saved on it."""
    monkeypatch.chdir(tmp_path)
    found = backbone()
    found.model.save_pretrained("base")
    tokenizer().save_pretrained("base")
    loaded = Backbone.from_pretrained("base")
    with fill(attach(loaded, everywhere(loaded, "lora"))) as attached:
        saving.save("run/saved", attached, HeadedModel(loaded, Head(32, 2)), ABOUT)
    return tmp_path


def logits(folder: Path, **options: Any) -> torch.Tensor:
    batch = {name: inputs(base())[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found: torch.Tensor = load(folder, **options)(**batch).logits
    return found


def test_a_base_is_found_from_anywhere_and_after_moves(moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = logits(moved / "run" / "saved")
    (moved / "elsewhere").mkdir()
    monkeypatch.chdir(moved / "elsewhere")
    assert torch.equal(logits(moved / "run" / "saved"), wanted)
    shutil.copytree(moved / "run" / "saved", moved / "a" / "b" / "c")  # only the saved one moves
    assert torch.equal(logits(moved / "a" / "b" / "c"), wanted)
    for name in ("run", "base"):  # both move together
        shutil.move(moved / name, moved / "elsewhere" / name)
    assert torch.equal(logits(moved / "elsewhere" / "run" / "saved"), wanted)
    shutil.move(moved / "elsewhere" / "base", moved / "other")
    with pytest.raises(BackboneError, match="say where it is now with `model`"):
        load(moved / "elsewhere" / "run" / "saved")
    assert torch.equal(logits(moved / "elsewhere" / "run" / "saved", model=moved / "other"), wanted)
    told = call("predict", moved / "elsewhere" / "run" / "saved", "good w1", "--model", moved / "other")
    assert told.code == 0, told.err
    assert call("predict", moved / "elsewhere" / "run" / "saved", "good w1").code == 2


def test_a_base_that_stood_in_a_folder_is_asked_of_no_hub(moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(moved / "base", moved / "gone")
    asked: list[object] = []
    monkeypatch.setattr(Backbone, "from_pretrained", lambda *given, **options: asked.append(given))
    with pytest.raises(BackboneError, match="there is no such folder any more"):
        load(moved / "run" / "saved")
    assert asked == []


def test_another_base_under_the_same_path_is_refused(moved: Path) -> None:
    found = backbone()
    with torch.no_grad():
        found.model.get_submodule("encoder.layer.1.output.dense").weight[-1, -1] += 1e-3
    found.model.save_pretrained(moved / "base")
    with pytest.raises(ArchitectureError, match=r"was trained on another model than .*: its weights had the digest"):
        load(moved / "run" / "saved")
    assert call("predict", moved / "run" / "saved", "good").code == 2
    record = record_of(moved / "run" / "saved")
    del record["digests"], record["backbone"]["identity"]  # as earlier versions saved
    write(moved / "run" / "saved", record)
    load(moved / "run" / "saved")


def test_a_pointer_in_place_of_weights_is_named_as_what_it_is(valid: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(valid, tmp_path / "saved"))  # with its digests, of which the pointer has another
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n")
    told = opened(folder)
    assert told is not None
    assert "are a pointer of git-lfs, not weights: fetch them with `git lfs pull`" in told


# -- chance --------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-3, -1, 0, 1, 2, 7, 10**6, 10**9, 10**12, 2**63, 10**39, 10**50, 0.5, 1e308]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["x", "nosuch", "float64", "int8", "regression", "serial", "prefix", "full", "model", "a" * 5000]),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner)),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(record: dict[str, Any], draw: Any) -> dict[str, Any]:
    """`record` with one to three of its values replaced, dropped or doubled."""
    found = copy.deepcopy(record)
    for _ in range(draw.draw(st.integers(1, 3))):
        *above, last = draw.draw(st.sampled_from(list(places(found)) or [("format",)]))
        inside: Any = found
        for part in above:
            inside = inside[part]
        how = draw.draw(st.sampled_from(["replace", "replace", "drop", "double"]))
        if how == "drop" and last in (inside if isinstance(inside, dict) else range(len(inside))):
            del inside[last]
        elif how == "double" and isinstance(inside, list):
            inside.append(inside[last])
        else:
            inside[last] = draw.draw(VALUES)
    return found


def check_record(valid: Path, draw: Any) -> None:
    """A changed record, behind the digests, ends well."""
    room = valid.parent / "record"
    if not room.exists():
        shutil.copytree(valid, room)
    record = {name: value for name, value in record_of(valid).items() if name != "digests"}
    write(room, changed(record, draw))
    opened(room)


def check_header(valid: Path, draw: Any) -> None:
    """A changed header or changed bytes of the weights, behind the digests, end well."""
    room = valid.parent / "header"
    if not room.exists():
        shutil.copytree(valid, room)
        write(room, {name: value for name, value in record_of(valid).items() if name != "digests"})
    raw = (valid / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    if draw.draw(st.booleans()):
        header = json.dumps(changed(json.loads(raw[8 : 8 + size]), draw)).encode()
        length = draw.draw(st.sampled_from([len(header)] * 6 + [0, 1, 2**31, 2**63, len(header) - 1]))
        raw = struct.pack("<Q", length) + header + raw[8 + size :]
    for _ in range(draw.draw(st.integers(0, 3))):
        place = draw.draw(st.integers(0, len(raw) - 1))
        raw = raw[:place] + bytes([draw.draw(st.integers(0, 255))]) + raw[place + 1 :]
    (room / "model.safetensors").write_bytes(raw[: draw.draw(st.sampled_from([len(raw)] * 6 + [7, 100, len(raw) - 1]))])
    opened(room)


CHECKS = {"record": check_record, "header": check_header}


def test_every_entry_of_a_record_may_be_missing(folder: Path) -> None:
    record = record_of(folder)
    paths = [(name,) for name in record]
    paths += [(name, inner) for name, value in record.items() if isinstance(value, dict) for inner in value]
    refused = []
    for path in paths:
        broken = json.loads(json.dumps(record))
        above = broken if len(path) == 1 else broken[path[0]]
        del above[path[-1]]
        write(folder, broken)
        if opened(folder) is not None:
            refused.append(path)
    assert ("architecture",) in refused
    assert ("counts",) not in refused  # which the first versions did not write


@pytest.mark.parametrize("what", CHECKS)
def test_a_changed_folder_ends_well(valid: Path, what: str) -> None:
    @settings(max_examples=60, database=None)
    @given(st.data())
    def run(draw: Any) -> None:
        CHECKS[what](valid, draw)

    run()


@pytest.mark.fuzz
@pytest.mark.timeout(0)
@pytest.mark.parametrize("what", CHECKS)
def test_a_hundred_thousand_changed_folders_end_well(valid: Path, what: str) -> None:
    @seed(SEED)
    @settings(max_examples=N_CASES // len(CHECKS), database=None, deadline=None)
    @given(st.data())
    def run(draw: Any) -> None:
        CHECKS[what](valid, draw)

    run()
