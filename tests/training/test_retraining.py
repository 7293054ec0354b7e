"""Retraining on several seeds, and the baselines."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median, stdev

import pytest
from transformers import T5Config

import tiny
from autopeft.architecture import Architecture
from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import SettingsError
from autopeft.network.build import count
from autopeft.saved.record import read_record
from autopeft.saved.save import load
from autopeft.session import Session
from autopeft.training.evaluator import Evaluator
from autopeft.training.rate_sweep import sweep
from autopeft.training.recipe import Recipe
from autopeft.training.retraining import BASELINES, baseline, retrain, write_cell
from small_case import Case


@pytest.fixture(scope="module")
def session(case: Case) -> Session:
    return Session.build(case.settings(recipe={"steps": 20, "batch_size": 8, "max_length": 16, "learning_rate": 1e-2}))


@pytest.mark.slow
def test_every_seed_is_measured_on_the_test_part(session: Session) -> None:
    evaluator, architecture = session.evaluator, baseline("serial:4", session.backbone)
    seen: list[tuple[int, ...]] = []
    found = retrain(evaluator, "mine", architecture, (3, 4, 5), on_run=lambda so_far: seen.append(so_far.seeds))
    assert seen == [(3,), (3, 4), (3, 4, 5)]
    assert found.seeds == (3, 4, 5)
    for seed, test, validation in zip(found.seeds, found.test, found.validation, strict=True):
        with evaluator.trained(architecture, seed) as run:
            again = run.measure("test", evaluator.splits.test)
            assert (test.value, test.split, validation) == (again.value, "test", run.measure().value)
    values = [item.value for item in found.test]
    summary = found.summary()
    assert (summary["mean"], summary["median"], summary["n"]) == (mean(values), median(values), 3)
    assert summary["std"] == stdev(values)
    assert found.learning_rate == 1e-2
    assert found.sweep is None


def test_one_seed_has_no_deviation_and_the_cell_is_json(session: Session, tmp_path: Path) -> None:
    found = retrain(session.evaluator, "one", baseline("prefix:1", session.backbone), (3,), learning_rates=(1e-4, 1e-2))
    cell = found.as_dict()
    assert cell["summary"]["std"] is None
    assert found.sweep is not None
    assert cell["learning_rate"] == found.sweep.chosen
    assert cell["counts"]["nominal"] == 3 * 2 * 32  # 2 D L in each of three layers
    write_cell(tmp_path / "deep" / "one.json", cell)
    assert json.loads((tmp_path / "deep" / "one.json").read_text()) == json.loads(json.dumps(cell))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["one.json"]


def test_the_best_run_on_validation_is_saved(session: Session, tmp_path: Path) -> None:
    found = retrain(
        session.evaluator, "kept", baseline("serial:2", session.backbone), (3, 4), save_to=tmp_path, facts={"a": 1}
    )
    best = max(range(2), key=lambda index: found.validation[index])
    facts = read_record(tmp_path)["facts"]
    assert (facts["seed"], facts["a"]) == (found.seeds[best], 1)
    assert facts["test"] == dict(found.test[best].metrics)
    assert load(tmp_path).record["label_names"] == ["bad", "good"]


def test_no_seed(session: Session) -> None:
    with pytest.raises(SettingsError, match="at least one seed"):
        retrain(session.evaluator, "none", baseline("serial", session.backbone), ())


def test_the_learning_rate_may_be_chosen_under_another_recipe(session: Session) -> None:
    evaluator, architecture = session.evaluator, baseline("serial:2", session.backbone)
    found = retrain(evaluator, "a", architecture, (3,), learning_rates=(1e-4, 1e-2), tuning={"steps": 4}, widen=1)
    alone = sweep(evaluator.with_recipe(steps=4), architecture, (1e-4, 1e-2), 3, widen=1)
    assert found.sweep == alone
    assert found.test[0].extra["steps"] == 20


def test_full_fine_tuning_tries_a_thirtieth_of_each_rate(session: Session) -> None:
    architecture, rates = baseline("full", session.backbone), (3e-2, 3e-3)
    found = retrain(session.evaluator, "full", architecture, (3,), learning_rates=rates, widen=0)
    assert found.sweep is not None
    assert [rate for rate, _ in found.sweep.values] == pytest.approx([1e-3, 1e-4])


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_stand_in_every_layer_with_the_papers_counts(name: str) -> None:
    found = tiny.backbone("bert")
    d, layers = found.hidden_size, 3
    expected = {
        "serial": layers * 2 * d * (d // 16),
        "houlsby": layers * 2 * 2 * d * (d // 16),  # behind the attention and behind the feed-forward
        "parallel": layers * 2 * d * (d // 2),
        "prefix": layers * 2 * d * 10,
        "lora": layers * 2 * 2 * d * 8,  # query and value
        "lora_double": layers * 2 * 2 * d * 8,
        "lora_all": layers * 8 * (4 * 2 * d + 2 * (d + found.model.config.intermediate_size)),
        "dora": layers * 2 * (2 * d * 8 + d),  # the lengths of the rows beside LoRA's two factors
        "ia3": layers * (2 * d + found.model.config.intermediate_size),
        "unipelt": layers * (2 * d * (d // 16 + 10) + 2 * 2 * d * 8),
        "mam": layers * (2 * d * 30 + 2 * d * (d // 2)),
        "adamix": layers * 2 * d * (d // 16),
        "adapterdrop": (layers - 1) * 2 * d * (d // 8),  # 11 / 24 of three layers is one
        "adapter_lr": layers * 2 * (2 * d + 2 * (d // 32)),
        "bitfit": layers * (7 * d + found.model.config.intermediate_size),  # q, k, v, o, ffn_out, two norms, ffn_in
        "bitfit_head": layers * (7 * d + found.model.config.intermediate_size),  # an encoder writes no words
        "lnfit": layers * 2 * d,  # the weights of two norms a layer
        "full": found.n_parameters,
    }
    architecture = baseline(name, found)
    assert count(found, architecture, 0).nominal == expected[name]


def test_adapterdrop_leaves_the_lower_layers_alone() -> None:
    found = tiny.backbone("t5")
    placed = {(found.site(p.site).stack, found.site(p.site).layer) for p in baseline("adapterdrop", found)}
    depth = {stack: 1 + max(s.layer or 0 for s in found.sites.values() if s.stack == stack) for stack, _ in placed}
    assert placed == {(s, layer) for s, n in depth.items() for layer in range(int(n * 11 / 24), n)}
    assert len(depth) == 2


def test_bitfit_is_as_large_on_t5_as_the_paper_says() -> None:
    """8.13 per ten thousand of T5-large with the bias of the layer that writes words, 7.69 without."""
    config = T5Config(
        d_model=1024, d_ff=4096, num_layers=24, num_decoder_layers=24, num_heads=16, d_kv=64, vocab_size=32128
    )
    large = Backbone.from_config(config, device="meta")
    shares = [
        1e4 * count(large, baseline(name, large)).stored / large.n_parameters for name in ("bitfit_head", "bitfit")
    ]
    assert [round(share, 2) for share in shares] == [8.13, 7.69]


def test_the_bias_of_the_layer_that_writes_words_is_trained() -> None:
    found = tiny.backbone("t5", with_tokenizer=True)
    added = set(baseline("bitfit_head", found)) - set(baseline("bitfit", found))
    assert {item.site for item in added} == {"decoder.lm_head"}
    splits = tiny.splits(tiny.sentiment(16), tiny.sentiment(8))
    evaluator = Evaluator(found, tiny.SENTIMENT, splits, Recipe(steps=3, learning_rate=1e-2, batch_size=8))
    with evaluator.trained(Candidate(Architecture(tuple(added))), 0) as trained:
        (module,) = trained.attached.modules.values()
        assert all(bool((bias != 0).any()) for bias in module.parameters())


def test_a_baseline_takes_another_size() -> None:
    found = tiny.backbone("bert")
    assert {item.size for item in baseline("serial:5", found)} == {5}
    assert {(item.method, item.size) for item in baseline("mam:7", found)} == {("prefix", 7), ("parallel", 16)}
    for wrong in ("pony", "serial:x", "serial:-1"):
        with pytest.raises(SettingsError, match=f"but got '{wrong}'"):
            baseline(wrong, found)
