"""Peak memory: predicted before a run, a limit that fails a trial and never a search, and results as without one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import small_case
import tiny
from autopeft.errors import OutOfMemoryFailure, SettingsError
from autopeft.sizes import bytes_of
from autopeft.study.study import Study
from autopeft.training.evaluator import Evaluator
from autopeft.training.memory import shortage_told
from autopeft.training.peak import limited, predict_peak
from autopeft.training.recipe import Recipe


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> small_case.Case:
    return small_case.make(tmp_path_factory.mktemp("case"))


def evaluator(model_type: str = "bert", **recipe: object) -> Evaluator:
    found = tiny.backbone(model_type, with_tokenizer=True, hidden_size=64, intermediate_size=256)
    parts = tiny.splits(tiny.sentiment(64), tiny.sentiment(32))
    return Evaluator(found, tiny.SENTIMENT, parts, replace(Recipe(steps=4, batch_size=32), **recipe))


@pytest.mark.parametrize(
    ("text", "size"),
    [("10GB", 10**10), ("10 GB", 10**10), ("1.5GiB", 3 * 2**29), ("512MiB", 2**29), ("3kB", None), ("77", 77)],
)
def test_sizes_are_read_as_they_are_written(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(SettingsError, match="written as 10GB, 512MiB or a number of bytes, but got '3kB'"):
            bytes_of(text)
    else:
        assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "0.1", "1e9", "GB"])
def test_what_is_no_size_is_refused_with_all_other_mistakes(case: small_case.Case, text: str) -> None:
    with pytest.raises(SettingsError, match="`memory`: A size is written as 10GB"):
        case.settings(memory=text)


def test_a_study_goes_on_under_another_limit(case: small_case.Case) -> None:
    assert case.settings(memory="10GB").identity() == case.settings().identity()


@pytest.mark.parametrize(("model_type", "method"), [("bert", "serial"), ("llama", "lora_s3delta")])
def test_the_peak_is_predicted_within_fifteen_in_a_hundred(model_type: str, method: str) -> None:
    found = evaluator(model_type)
    architecture = tiny.everywhere(found.backbone, method, 8)
    peak = predict_peak(found, [architecture])
    measured = found(architecture, 0)
    if measured.extra["peak_memory_of"] != "this run":
        pytest.skip("the system tells the peak of the whole process alone")
    assert peak.total == pytest.approx(measured.peak_memory, rel=0.15)


def test_a_limit_above_the_peak_changes_no_result() -> None:
    found = evaluator(dropout=0.1)
    architecture, state = tiny.everywhere(found.backbone, "serial", 4), torch.get_rng_state()
    plain = found(architecture, 0)
    below = found.with_memory(bytes_of("100GB"))(architecture, 0)
    assert below.metrics == plain.metrics
    assert [point.loss for point in below.history] == [point.loss for point in plain.history]
    assert torch.equal(torch.get_rng_state(), state)


def test_what_needs_more_fails_and_leaves_the_backbone_as_it_was() -> None:
    found = evaluator().with_memory(bytes_of("1MB"))
    before = tiny.output(found.backbone)
    with pytest.raises(OutOfMemoryFailure):
        found(tiny.everywhere(found.backbone, "serial", 4), 0)
    assert found.backbone.occupant is None
    assert torch.equal(tiny.output(found.backbone), before)
    # Two that are too much together are tried one by one, and each is refused for itself.
    both = found.measure_all([tiny.everywhere(found.backbone, "serial", n) for n in (2, 4)], [0, 0], batch=2)
    assert [type(one) for one in both] == [OutOfMemoryFailure] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="the system refuses nothing elsewhere")
def test_the_system_refuses_what_is_above_the_limit_and_gives_it_afterwards() -> None:
    device, much = torch.device("cpu"), 2**31
    with pytest.raises(OutOfMemoryFailure), shortage_told(), limited(device, 1):
        torch.empty(much, dtype=torch.uint8)
    assert len(torch.empty(much, dtype=torch.uint8)) == much


def test_a_search_comes_to_its_end_where_no_trial_has_room(case: small_case.Case, tmp_path: Path) -> None:
    out = tmp_path / "study"
    called = small_case.call("search", case.write(tmp_path / "a.yaml"), "--memory", "1MB", "--out", out)
    assert called.code == 1
    assert "No trial was measured" in called.err
    assert "Traceback" not in called.err
    with Study.open(out / "study.db") as study:
        kinds = [trial.failure.kind for trial in study.trials() if trial.failure is not None]
    assert kinds == ["oom"] * 3


def test_check_tells_what_a_limit_has_to_be(case: small_case.Case, tmp_path: Path) -> None:
    called = small_case.call("check", case.write(tmp_path / "a.yaml"), "--memory", "1MB")
    assert called.code == 0, called.err
    assert "peak memory predicted: " in called.out
    assert "peak memory of these steps: " in called.out
