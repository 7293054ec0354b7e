"""What loading says is looked at: checkpoints and tokenizers that would give random answers are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from autopeft.backbones import Backbone
from autopeft.errors import BackboneError
from fuzzing import at_once
from small_case import Case, call

WEIGHTS = "model.safetensors"


@pytest.fixture
def model(case: Case, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(case.folder / "model", tmp_path / "model"))


def renamed(folder: Path, rename: Callable[[str], str | None]) -> None:
    """Give every tensor of the checkpoint another name, or leave it out."""
    old = load_file(folder / WEIGHTS)
    found = {new: value for name, value in old.items() if (new := rename(name)) is not None}
    save_file(found, folder / WEIGHTS, metadata={"format": "pt"})


def configured(folder: Path, file: str, **changes: object) -> None:
    """Change a JSON file of the folder."""
    data = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**data, **changes}))


def test_a_prefix_before_every_name_is_no_checkpoint_of_this_model(case: Case, model: Path, tmp_path: Path) -> None:
    renamed(model, lambda name: f"module.model.{name}")
    with pytest.raises(BackboneError, match=r"lacks \d+ of \d+ tensors, embeddings\..* and \d+ more, and"):
        Backbone.from_pretrained(model)
    asked = case.write(tmp_path / "asked.yaml", model=str(model))
    told = call("search", asked, "--out", tmp_path / "run")
    assert told.code == 2
    assert "module.model." in told.err
    assert not (tmp_path / "run").exists()


def test_a_single_tensor_that_is_missing_is_named(model: Path) -> None:
    renamed(model, lambda name: None if name.endswith("layer.1.output.dense.weight") else name)
    with pytest.raises(BackboneError, match=r"lacks 1 of \d+ tensors, encoder\.layer\.1\.output\.dense\.weight, and"):
        Backbone.from_pretrained(model)


def test_a_pooler_may_be_missing_and_what_is_more_may_stay(model: Path) -> None:
    renamed(model, lambda name: None if name.startswith("pooler") else name)
    tensors = load_file(model / WEIGHTS)
    save_file({**tensors, "cls.predictions.bias": tensors["embeddings.LayerNorm.bias"].clone()}, model / WEIGHTS)
    assert Backbone.from_pretrained(model).n_parameters


def test_a_model_with_a_head_gives_its_body(model: Path) -> None:
    renamed(model, lambda name: f"bert.{name}")
    assert Backbone.from_pretrained(model).n_parameters


def pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n")


def truncated(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def other_vocabulary(folder: Path) -> None:
    configured(folder, "config.json", vocab_size=7)


def broken_configuration(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": "many"}')


def no_tokenizer(folder: Path) -> None:
    for path in [*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("special*")]:
        path.unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 3}')


def hollow_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (pointer, "model.safetensors is a pointer of git-lfs"),
        (truncated, "cannot be loaded"),
        (empty, "cannot be loaded"),
        (other_vocabulary, r"embeddings.word_embeddings.weight is \(\d+, 32\), not \(7, 32\)"),
        (broken_configuration, "cannot be loaded"),
        (no_tokenizer, "has no tokenizer: its folder holds none of"),
        (broken_tokenizer, "The tokenizer of .* cannot be loaded"),
        (hollow_tokenizer, "The tokenizer of .* cannot be loaded: it lacks 'added_tokens'"),
    ],
)
def test_a_damaged_folder_is_one_error_before_anything_is_made(
    case: Case, model: Path, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    damage(model)
    with pytest.raises(BackboneError, match=told):
        Backbone.from_pretrained(model)
    called = call("search", case.write(tmp_path / "asked.yaml", model=str(model)), "--out", tmp_path / "run")
    assert called.code == 2
    assert called.err.startswith("error: ")
    assert "Traceback" not in called.err
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_of_another_model_is_refused(model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words |= {f"more{number}": len(words) + number for number in range(200)}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BackboneError, match=r"does not belong to it: it has \d+ tokens, but the embedding has"):
        Backbone.from_pretrained(model)


def test_a_tokenizer_that_can_neither_pad_nor_end_is_refused(model: Path) -> None:
    settings = json.loads((model / "tokenizer_config.json").read_text())
    for name in ("pad_token", "eos_token"):
        settings[name] = None
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    (model / "special_tokens_map.json").unlink(missing_ok=True)
    with pytest.raises(BackboneError, match="neither a padding token nor an end token"):
        Backbone.from_pretrained(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers 1,000,000, which must be between 1 and 10,000"),
        ({"num_hidden_layers": 9000}, "num_hidden_layers 9,000, but its checkpoint has 55 tensors"),
        ({"num_attention_heads": 0}, "num_attention_heads 0, which must be between 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers -1, which must be between 1"),
        ({"hidden_size": 0}, "hidden_size 0, which must be between 1"),
        ({"hidden_size": 10**9}, "hidden_size 1,000,000,000, which must be between 1"),
        ({"hidden_size": 10**6}, "parameters, but its checkpoint holds"),
        ({"vocab_size": 10**8}, "describes 3,2"),
        ({"vocab_size": 10**12}, "vocab_size 1,000,000,000,000, which must be between 1"),
        ({"hidden_size": "x"}, "'hidden_size': TypeError: Field 'hidden_size' expected int, got str (value: 'x')"),
        ({"hidden_act": "nosuch"}, "cannot be built from its configuration: KeyError: 'nosuch'"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused_at_once(
    model: Path, changes: dict[str, object], message: str
) -> None:
    configured(model, "config.json", **changes)
    with at_once(), pytest.raises(BackboneError) as caught:
        Backbone.from_pretrained(model)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_before_any_step(case: Case, model: Path, value: float) -> None:
    tensors = load_file(model / WEIGHTS)
    tensors["encoder.layer.1.output.dense.weight"][0, 3] = value
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match=r"not finite in encoder\.layer\.1\.output\.dense\.weight"):
        Backbone.from_pretrained(model)
