"""Saving and loading: the same logits bit for bit, nothing pickled, and folders that are not what they should be."""

from __future__ import annotations

import copy
import html
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from safetensors import safe_open
from torch import Tensor
from transformers import pipeline

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.network.attach import attach
from autopeft.saved import save as saving
from autopeft.saved.card import card
from autopeft.saved.record import FORMAT, read_record
from autopeft.saved.save import Described, load, save
from autopeft.training.heads import Head, HeadedModel
from covering import covering
from tiny import LEADS, backbone, everywhere, fill, fitting, inputs, tokenizer

ABOUT = Described("classification", ("bad", "good"), ("text",), {"task": "tiny/sentiment", "seed": 3})


def tensors(found: Backbone) -> dict[str, Tensor]:
    """A batch; the model's own position ids and all."""
    batch = inputs(found)
    if found.family.is_text_to_text:
        return batch
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def saved(folder: Path, found: Backbone, architecture: Architecture) -> Tensor:
    """Attach, fill with random weights, save, detach; returns the logits at saving time."""
    with fill(attach(found, architecture)) as attached, torch.no_grad():
        if "full" in architecture.methods:
            for parameter in found.model.parameters():
                parameter.mul_(1.25)
        model: Any = found.model
        if not found.family.is_text_to_text:
            torch.manual_seed(1)
            model = HeadedModel(found, Head(found.hidden_size, 2)).eval()
        save(folder, attached, model, ABOUT)
        logits: Tensor = model(**tensors(found)).logits
    return logits


CASES = [(family, method) for family in LEADS for method in fitting(family)]


@pytest.mark.parametrize(("family", "method"), covering(CASES, every=2))
def test_logits_are_the_same_bit_for_bit(family: str, method: str, tmp_path: Path) -> None:
    found = backbone(family)
    wanted = saved(tmp_path, found, everywhere(found, method))
    model = load(tmp_path, backbone=backbone(family))
    with torch.no_grad():
        assert torch.equal(model(**tensors(found)).logits, wanted)
    assert not model.training


@pytest.mark.parametrize("method", ["lora", "dora", "parallel"])
def test_a_scale_is_in_what_is_loaded(method: str, tmp_path: Path) -> None:
    found = backbone()
    placed = [replace(p, scale=(0.5, 3.0)[i % 2]) for i, p in enumerate(everywhere(found, method))]
    wanted = saved(tmp_path / "scaled", found, Architecture(tuple(placed)))
    plain = saved(tmp_path / "plain", found, everywhere(found, method))
    assert not torch.equal(wanted, plain)
    model = load(tmp_path / "scaled", backbone=backbone())
    with torch.no_grad():
        assert torch.equal(model(**tensors(found)).logits, wanted)


def mixed(found: Backbone) -> Architecture:
    methods = ("serial", "parallel", "prefix", "lora")
    return Architecture(tuple(p for name in methods for p in everywhere(found, name, 2)))


def test_a_folder_holds_three_files_and_no_pickle(tmp_path: Path) -> None:
    found = backbone()
    saved(tmp_path / "deep" / "er", found, mixed(found))
    folder = tmp_path / "deep" / "er"
    assert sorted(os.listdir(folder)) == ["README.md", "architecture.json", "model.safetensors"]
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
        n_stored = sum(weights.get_tensor(name).numel() for name in names if not name.startswith("head/"))
        n_head = sum(weights.get_tensor(name).numel() for name in names if name.startswith("head/"))
    record = read_record(folder)
    assert n_stored == record["counts"]["stored"]
    assert n_head == 32 * 32 + 32 + 32 * 2 + 2
    assert not [name for name in names if "trunk" in name]  # the reparametrisation is folded away


def test_the_record_says_what_a_user_needs(tmp_path: Path) -> None:
    found = backbone()
    saved(tmp_path, found, mixed(found))
    record = read_record(tmp_path)
    assert record["format"] == FORMAT
    assert (
        Architecture.from_dict(record["architecture"])
        == mixed(found)
        == Architecture.load(tmp_path / "architecture.json")
    )
    assert holds(record["backbone"], {"name": "bert", "model_type": "bert", "dtype": "float32", "folders": []})
    assert record["backbone"]["identity"] == found.identity()
    assert record["digests"].keys() == {"weights", "record"}
    assert record["label_names"] == ["bad", "good"]
    assert record["inputs"] == ["text"]
    assert (record["problem"], record["n_outputs"]) == ("classification", 2)
    assert record["facts"] == {"task": "tiny/sentiment", "seed": 3}
    assert record["versions"].keys() == {"python", "torch", "transformers"}
    assert record["counts"]["trained"] > record["counts"]["stored"] > record["counts"]["nominal"]


def test_the_card_says_it_in_words(tmp_path: Path) -> None:
    found = backbone()
    saved(tmp_path, found, mixed(found))
    text = (tmp_path / "README.md").read_text()
    record = read_record(tmp_path)
    assert text == card(record)
    assert text.startswith("---\nlibrary_name: autopeft\nbase_model: bert\n---\n# bert with ")
    assert f"{record['counts']['nominal']:,} nominal" in text
    assert "| labels | bad, good |" in text
    assert "| task | tiny/sentiment |" in text


def test_what_people_wrote_stays_text_in_the_card(tmp_path: Path) -> None:
    found = backbone()
    saved(tmp_path, found, mixed(found))
    record = read_record(tmp_path)
    evil = ["<script>alert(1)</script>", "a|b", "`c`\nd", "[x](http://y)", "*e*"]
    record["label_names"], record["backbone"]["name"] = evil, "my: model\n<b>"
    record["facts"] = {"no|te": "<i>\n|", "task": "# head"}
    text = card(record)
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {"library_name": "autopeft", "base_model": "my: model\n<b>"}
    page = MarkdownIt("commonmark").enable("table").render(body)
    assert not re.findall("<(?:script|b|i|em|a|ul)[ >]", page)
    cells = [html.unescape(cell) for cell in re.findall("<td>(.*?)</td>", page, re.S)]
    assert cells == [
        *("labels", "<script>alert(1)</script>, a|b, `c` d, [x](http://y), *e*"),
        *("no|te", "<i> |"),
        *("task", "# head"),
    ]


def test_the_loaded_model_carries_its_tokenizer_labels_and_record(tmp_path: Path) -> None:
    found = backbone(with_tokenizer=True)
    saved(tmp_path, found, mixed(found))
    model = load(tmp_path, backbone=found)
    assert model.tokenizer is found.tokenizer
    assert model.record == read_record(tmp_path)
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert model.config.label2id == {"bad": 0, "good": 1}
    encoded = model.tokenizer(["good w1", "bad"], return_tensors="pt", padding=True)
    result = model(**encoded, labels=torch.tensor([1, 0]))
    assert result.logits.shape == (2, 2)
    wanted = torch.nn.functional.cross_entropy(result.logits, torch.tensor([1, 0]))
    torch.testing.assert_close(result.loss, wanted)
    model.attached.detach()
    assert found.occupant is None


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Tensor]:
    """A backbone's folder, a saved architecture's folder, and the logits at saving time."""
    root = tmp_path_factory.mktemp("disk")
    found = backbone(with_tokenizer=True)
    found.model.save_pretrained(root / "backbone")
    found.tokenizer.save_pretrained(root / "backbone")
    loaded = Backbone.from_pretrained(root / "backbone")
    logits = saved(root / "saved", loaded, mixed(loaded))
    return root / "backbone", root / "saved", logits


def test_the_backbone_is_loaded_from_where_it_came(on_disk: tuple[Path, Path, Tensor]) -> None:
    source, folder, wanted = on_disk
    assert read_record(folder)["backbone"]["name"] == str(source)
    model = load(folder)
    with torch.no_grad():
        assert torch.equal(model(**tensors(backbone())).logits, wanted)
    assert model.tokenizer(["good"])["input_ids"] == [[3, 4, 1]]


@pytest.mark.slow
def test_a_fresh_process_computes_the_same(on_disk: tuple[Path, Path, Tensor]) -> None:
    _, folder, wanted = on_disk
    batch = {name: value.tolist() for name, value in tensors(backbone()).items()}
    program = (
        "import json, sys, torch\n"
        "from autopeft.saved.save import load\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "batch = {name: torch.tensor(value) for name, value in json.loads(sys.argv[2]).items()}\n"
        "with torch.no_grad():\n"
        "    print(json.dumps(load(sys.argv[1])(**batch).logits.tolist()))\n"
    )
    threads = str(torch.get_num_threads())
    source = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(folder), json.dumps(batch), threads],
        env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == wanted.tolist()


def test_a_transformers_pipeline_takes_the_model(on_disk: tuple[Path, Path, Tensor]) -> None:
    model = load(on_disk[1])
    classify = pipeline("text-classification", model=model, tokenizer=model.tokenizer, device="cpu")
    found = classify(["good w1", "bad w2 w3"], top_k=None)
    with torch.no_grad():
        logits = model(**model.tokenizer(["good w1"], return_tensors="pt")).logits
    assert {item["label"]: item["score"] for item in found[0]} == pytest.approx(
        dict(zip(("bad", "good"), logits.softmax(-1)[0].tolist(), strict=True)), abs=1e-5
    )
    assert len(found) == 2


def test_regression_has_one_output_and_no_labels(tmp_path: Path) -> None:
    found = backbone()
    about = replace(ABOUT, problem="regression", label_names=())
    with attach(found, mixed(found)) as attached:
        save(tmp_path, attached, HeadedModel(found, Head(32, 1), "regression"), about)
    model = load(tmp_path, backbone=found)
    result = model(**tensors(found), labels=torch.tensor([1.0, 2.0]))
    assert result.logits.shape == (2, 1)
    wanted = (result.logits.squeeze(-1) - torch.tensor([1.0, 2.0])).square().mean()
    torch.testing.assert_close(result.loss, wanted)
    assert "| labels | a number |" in (tmp_path / "README.md").read_text()


def holds(there: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return {**there, **wanted} == there


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x"}', "null", '{"format": 1, "architecture": 3}'])
def test_a_folder_that_holds_something_else_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ArchitectureError, match=r"does not hold a saved model: architecture\.json"):
        load(tmp_path / "nowhere")
    (tmp_path / "architecture.json").write_text(text)
    with pytest.raises(ArchitectureError, match=r"does not hold a saved model: architecture\.json"):
        load(tmp_path, backbone=backbone())


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    found = backbone()
    saved(tmp_path, found, mixed(found))
    (tmp_path / "model.safetensors").unlink()
    record = json.loads((tmp_path / "architecture.json").read_text())
    del record["digests"]
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    with pytest.raises(ArchitectureError, match=r"model\.safetensors"):
        load(tmp_path, backbone=found)
    assert found.occupant is None
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ArchitectureError, match=r"model\.safetensors"):
        load(tmp_path, backbone=found)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "architecture.json").write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(ArchitectureError, match=f"has format {FORMAT + 1}; this version reads up to {FORMAT}"):
        read_record(tmp_path)


def test_weights_of_another_architecture_are_refused_and_nothing_stays_attached(tmp_path: Path) -> None:
    found = backbone()
    saved(tmp_path, found, mixed(found))
    record = json.loads((tmp_path / "architecture.json").read_text())
    record["architecture"] = Architecture((Placement("encoder.0.ffn", "serial", 7),)).as_dict()
    del record["digests"]
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    with pytest.raises(ArchitectureError, match="do not belong to this architecture"):
        load(tmp_path, backbone=found)
    assert found.occupant is None


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    found = backbone()
    saved(tmp_path, found, mixed(found))
    with pytest.raises(ArchitectureError, match="was trained on a 'bert', but got a 'distilbert'"):
        load(tmp_path, backbone=backbone("distilbert"))


def test_half_precision_comes_back_as_it_was(tmp_path: Path) -> None:
    found = backbone()
    found.model.to(torch.bfloat16).save_pretrained(tmp_path / "backbone")
    tokenizer("bert").save_pretrained(tmp_path / "backbone")
    half = Backbone.from_pretrained(tmp_path / "backbone", dtype=torch.bfloat16)
    wanted = saved(tmp_path / "saved", half, mixed(half))
    model = load(tmp_path / "saved")
    assert model.backbone.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(model(**tensors(found)).logits, wanted)


def test_saving_twice_replaces_the_first(tmp_path: Path) -> None:
    found = backbone()
    saved(tmp_path, found, mixed(found))
    wanted = saved(tmp_path, found, everywhere(found, "lora", 1))
    model = load(tmp_path, backbone=found)
    with torch.no_grad():
        assert torch.equal(model(**tensors(found)).logits, wanted)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_what_is_attached_follows_the_model_to_another_device(family: str, tmp_path: Path) -> None:
    found = backbone(family)
    saved(tmp_path, found, mixed(found))
    model = load(tmp_path, backbone=found)
    model.to("meta")
    batch = {name: value.to("meta") for name, value in tensors(found).items() if name != "attention_mask"}
    with torch.inference_mode():
        assert model(**batch).logits.device.type == "meta"
    assert {parameter.device.type for parameter in model.attached.parameters()} == {"meta"}
    assert not any(parameter.is_inference() for parameter in model.attached.parameters())


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_transformers_does_not_save_a_model_without_what_is_attached(family: str, tmp_path: Path) -> None:
    found = backbone(family)
    saved(tmp_path / "saved", found, mixed(found))
    model = load(tmp_path / "saved", backbone=found)
    with pytest.raises(ArchitectureError, match=r"use autopeft\.saved\.save"):
        model.save_pretrained(tmp_path / "lost")
    assert not (tmp_path / "lost").exists()
    model.attached.detach()
    model.save_pretrained(tmp_path / "plain")
    assert (tmp_path / "plain" / "model.safetensors").exists()


def test_a_failure_while_saving_leaves_the_earlier_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    found = backbone()
    wanted = saved(tmp_path, found, mixed(found))
    monkeypatch.setattr(saving, "save_file", fail)
    with attach(found, everywhere(found, "lora")) as attached, pytest.raises(OSError, match="full"):
        save(tmp_path, attached, HeadedModel(found, Head(32, 2)), ABOUT)
    with torch.no_grad():
        assert torch.equal(load(tmp_path, backbone=found)(**tensors(found)).logits, wanted)


def test_the_architecture_is_the_last_file_to_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[str] = []
    replace_file = Path.replace

    def note(self: Path, target: Path) -> Path:
        placed.append(target.name)
        return replace_file(self, target)

    monkeypatch.setattr(Path, "replace", note)
    found = backbone()
    saved(tmp_path, found, mixed(found))
    assert (placed[0], placed[-1]) == ("model.safetensors", "architecture.json")


def test_a_tokenizer_without_a_padding_token_can_pad_a_loaded_model(tmp_path: Path) -> None:
    found = backbone("llama")
    found.model.save_pretrained(tmp_path / "backbone")
    bare = copy.deepcopy(tokenizer("llama"))
    bare.pad_token = None
    bare.save_pretrained(tmp_path / "backbone")
    source = Backbone.from_pretrained(tmp_path / "backbone")
    saved(tmp_path / "saved", source, mixed(source))
    model = load(tmp_path / "saved")
    with torch.no_grad():
        together = model(**model.tokenizer(["good w1 w2", "bad"], return_tensors="pt", padding=True)).logits
        alone = model(**model.tokenizer(["bad"], return_tensors="pt")).logits
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_what_is_attached_is_part_of_what_is_loaded(family: str, tmp_path: Path) -> None:
    """`accelerate.save_model` and the like write what `state_dict` gives."""
    found = backbone(family)
    before = list(found.model.state_dict())
    wanted = saved(tmp_path, found, mixed(found))
    model = load(tmp_path, backbone=found)
    own = {id(parameter) for parameter in model.attached.parameters()}
    assert own
    assert own <= {id(parameter) for parameter in model.parameters()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert "adapters.encoder.0.ffn.serial.down.weight" in state
    assert model.train().get_submodule("adapters.encoder.0.ffn.serial").training
    model.eval()
    with torch.no_grad():
        for parameter in model.attached.parameters():
            parameter.zero_()
        assert not torch.equal(model(**tensors(found)).logits, wanted)
        model.load_state_dict(state)
        assert torch.equal(model(**tensors(found)).logits, wanted)
    with pytest.raises(ArchitectureError, match="load the saved folder once more"):
        copy.deepcopy(model)
    model.to(torch.bfloat16)
    assert {parameter.dtype for parameter in model.attached.parameters()} == {torch.bfloat16}
    model.to(torch.float32).attached.detach()
    assert list(found.model.state_dict()) == before
