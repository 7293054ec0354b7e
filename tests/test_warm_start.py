"""Searches that begin with what others found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tiny
from autopeft.session import Session
from autopeft.settings import load
from autopeft.study.study import Study
from small_case import Case, call, make, trials


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def earlier(case: Case) -> Path:
    """A finished search of six trials."""
    folder = case.folder / "earlier"
    ended = call("search", case.write(case.folder / "earlier.yaml", trials=6), "--out", folder)
    assert ended.code == 0, ended.err
    return folder


def front(folder: Path) -> list[str]:
    """Fingerprints of the front's candidates, the best value first."""
    with Study.open(folder / "study.db") as study:
        return [study.trial(int(point.key)).candidate.fingerprint for point in reversed(study.front().points)]


def test_the_front_of_a_study_begins_the_search(case: Case, earlier: Path, tmp_path: Path) -> None:
    best = front(earlier)
    settings = case.write(tmp_path / "s.yaml", seed=7, trials=len(best) + 1, initial=1)
    checked = call("check", settings, "--warm-start", earlier, "--steps", 0, "--json")
    assert json.loads(checked.out)["warm_start"] == len(best)
    assert call("search", settings, "--warm-start", earlier, "--out", tmp_path / "new").code == 0
    found = trials(tmp_path / "new")
    assert [trial.candidate.fingerprint for trial in found[:-1]] == best
    assert [trial.origin for trial in found] == ["initial"] * len(best) + ["random"]


@pytest.mark.slow
def test_a_study_goes_on_when_what_it_began_with_is_gone(case: Case, earlier: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(earlier, source)
    best = front(source)
    settings = case.write(tmp_path / "s.yaml", seed=7, trials=1, initial=2, warm_start=[str(source)])
    assert call("search", settings, "--out", tmp_path / "new").code == 0
    shutil.rmtree(source)
    n = len(best) + 2
    assert call("search", settings, "--trials", n, "--out", tmp_path / "new").code == 0
    found = [trial.candidate.fingerprint for trial in trials(tmp_path / "new")]
    assert found[: len(best)] == best
    assert len(set(found)) == n
    # What is given besides them is the design without them, in its order.
    plain = load(tmp_path / "new" / "settings.yaml").with_changes(warm_start=(), initial=2)
    session = Session.build(plain)
    design = [
        one for one in (session.space.candidate(point).fingerprint for point in session.initial) if one not in best
    ]
    assert found[len(best) : 2] == design[: max(0, 2 - len(best))]


def test_another_model_gets_it_by_relative_depth(case: Case, earlier: Path, tmp_path: Path) -> None:
    larger = tiny.backbone("bert", num_hidden_layers=6, with_tokenizer=True)
    larger.model.save_pretrained(tmp_path / "larger")
    tiny.tokenizer("bert").save_pretrained(tmp_path / "larger")
    settings = case.settings(model=str(tmp_path / "larger"), warm_start=[str(earlier)])
    session = Session.build(settings)
    with Study.open(earlier / "study.db") as study:
        best = study.trial(int(study.front().points[-1].key)).architecture
    moved = session.space.decode(session.warm[0])
    before = sorted({int(item.site.split(".")[1]) for item in best})
    assert sorted({int(item.site.split(".")[1]) for item in moved}) == sorted(
        layer for old in before for layer in (2 * old, 2 * old + 1)
    )


def test_an_architecture_s_file_is_a_source(case: Case, tmp_path: Path) -> None:
    session = Session.build(case.settings())
    point = session.space.largest()
    session.space.decode(point).save(tmp_path / "found.json")
    again = Session.build(case.settings(warm_start=[str(tmp_path / "found.json")]))
    assert again.space.identity(again.warm[0]) == session.space.identity(point)
    assert again.initial[0] == again.warm[0]
    assert len(again.initial) == len(session.initial)


def test_a_search_begins_around_a_baseline(case: Case) -> None:
    session = Session.build(case.settings(warm_start=["serial:2"], start="around", trials=9, initial=9))
    found = [session.space.decode(point) for point in session.initial]
    assert {(item.method, item.size) for item in found[0]} == {("serial", 2)}
    assert len({item.site for item in found[0]}) == 3
    assert {(item.method, item.size) for item in found[1]} == {("serial", 2), ("prefix", 2)}
    sizes = [{item.size for item in one if item.method == "serial"} for one in found]
    assert sizes[2:4] == [{4}, {1}]
    assert [len(one.placements) for one in found[4:]] == [2, 2, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "around"}, "`start: around` begins around what `warm_start` names, but that is empty"),
        ({"warm_start": ["serial:x"]}, "but got 'serial:x'"),
        ({"warm_start": ["serail"]}, "which is no baseline either: serial"),
        ({"warm_start": ["nowhere"]}, "There is nothing at `warm_start: nowhere`"),
        ({"warm_start": ["lora.json"]}, "Nothing of `warm_start` (lora.json) has a place in this search space"),
        ({"warm_start": ["train.csv"]}, "train.csv"),
        ({"warm_start": ["model"]}, "architecture.json"),
        ({"warm_start": ["."], "sampler": "bipeft", "initial": None}, "leave `warm_start` out"),
    ],
)
def test_what_cannot_be_begun_with_is_told_before_anything_is_written(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    monkeypatch.chdir(case.folder)
    lora = {"placements": [["lora", "encoder.0.q", 4]]}
    (case.folder / "lora.json").write_text(json.dumps(lora))
    space = {"name": "S2"} if changes.get("sampler") == "bipeft" else case.data()["space"]
    ended = call("search", case.write(tmp_path / "s.yaml", space=space, **changes), "--out", tmp_path / "new")
    assert (ended.code, message in ended.err) == (2, True), ended.err
    assert not (tmp_path / "new").exists()


def test_a_study_without_a_trial_is_no_source(case: Case, tmp_path: Path) -> None:
    session = Session.build(case.settings())
    session.begin(tmp_path / "empty").close()
    ended = call("check", case.write(tmp_path / "s.yaml", warm_start=[str(tmp_path / "empty")]))
    assert ended.code == 2
    assert "has no measured trial yet" in ended.err


def test_a_study_of_before_there_were_warm_starts_is_the_same(case: Case, earlier: Path) -> None:
    assert "warm_start" not in case.settings().identity()
    assert case.settings(warm_start=[str(earlier)]).identity()["warm_start"] == [str(earlier)]
