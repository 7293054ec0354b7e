"""Saved models, architecture files, settings and exports of earlier commits: they load and compute what they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import autopeft
from readings import holds, logits_of
from small_case import call

MODELS = (
    *("mix", "lora", "unipelt", "adamix", "biases", "lowrank", "full", "mam"),
    *("t5-houlsby", "t5-prefix-lora", "t5-saying"),
)


def stored(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def expected(then: Path) -> dict[str, Any]:
    """What the saved models were asked and answered."""
    found: dict[str, Any] = stored(then / "saved/expected.json")
    return found


def test_every_saved_model_is_tested(expected: dict[str, Any]) -> None:
    assert set(expected["models"]) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_computes_what_it_did(expected: dict[str, Any], name: str) -> None:
    texts = expected["sources"] if name.startswith("t5") else expected["texts"]
    model = autopeft.load(f"saved/{name}")
    found, wanted = torch.tensor(logits_of(model, texts)), torch.tensor(expected["models"][name]["logits"])
    assert wanted.std(dim=0).max() > 1e-3  # the texts can be told apart
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_predicts_what_it_did(expected: dict[str, Any], name: str) -> None:
    found = autopeft.predictions(f"saved/{name}", [(text,) for text in expected["texts"]])
    names = stored(Path(f"saved/{name}/architecture.json"))["label_names"]
    for new, old in zip(found, expected["models"][name]["predictions"], strict=True):
        assert new["text"] == old["text"]
        if names:  # a model that says its answers gave the number of the class then
            number = old["label"] if isinstance(old["label"], int) else names.index(old["label"])
            assert new["label"] in (old["label"], names[number])
        else:
            assert new["label"] == pytest.approx(old["label"], abs=1e-5)
        assert new["score"] == pytest.approx(old["score"], abs=1e-5)


@pytest.mark.parametrize("name", ["mix", "t5-houlsby"])
def test_the_command_predicts_the_same(expected: dict[str, Any], name: str) -> None:
    found = call("predict", f"saved/{name}", *expected["texts"], "--json")
    assert found.code == 0, found.err
    wanted = expected["models"][name]["predictions"]
    assert [item["label"] for item in json.loads(found.out)] == [item["label"] for item in wanted]


@pytest.mark.parametrize("name", MODELS)
def test_the_architecture_of_a_saved_model_is_read(expected: dict[str, Any], name: str) -> None:
    record = stored(Path(f"saved/{name}/architecture.json"))
    found = autopeft.Architecture.from_dict(record["architecture"])
    assert str(found) == expected["models"][name]["described"]


@pytest.mark.parametrize("name", ["mix", "biases", "t5"])
def test_architecture_files_are_read(then: Path, name: str) -> None:
    found = autopeft.Architecture.load(then / f"architectures/{name}.json")
    assert [str(found), found.fingerprint] == stored(then / "architectures/expected.json")[name]


@pytest.mark.parametrize("name", ["random", "saas", "failed", "bipeft"])
def test_settings_are_read_and_mean_the_same(then: Path, name: str) -> None:
    found = call("check", f"settings/{name}.yaml", "--steps", 0, "--json")
    assert found.code == 0, found.err
    wanted = stored(then / "settings/expected.json")[name]
    assert holds(json.loads(found.out), wanted)


@pytest.mark.filterwarnings("ignore")  # peft's own, about versions of what it depends on
def test_an_exported_adapter_is_what_peft_read(then: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel, AutoTokenizer

    autopeft.to_peft("saved/lora", tmp_path)
    old = then / "exported/lora"
    for name, wanted in load_file(old / "adapter_model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "adapter_model.safetensors")[name], wanted)
    assert holds(stored(tmp_path / "adapter_config.json"), stored(old / "adapter_config.json"))
    batch = AutoTokenizer.from_pretrained("models/bert")(expected["texts"], return_tensors="pt", padding=True)
    for folder in (old, tmp_path):
        model = PeftModel.from_pretrained(AutoModel.from_pretrained("models/bert"), folder).eval()
        with torch.no_grad():
            found = model(**batch).last_hidden_state[:, 0]
        torch.testing.assert_close(found, torch.tensor(stored(then / "exported/expected.json")), rtol=1e-5, atol=1e-5)
