"""The command line, as a person calls it: what it does, and what it says when it cannot."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from rich.console import Console

from autopeft.cli import options
from autopeft.cli.fronts import front_table
from autopeft.cli.listed import described
from autopeft.cli.listing import listing
from autopeft.study.study import Study
from autopeft.training.retraining import write_cell
from small_case import Called, Case, call, finished, trials

TRIALS = 3


# -- what it does --------------------------------------------------------------------------------------------


def test_search_writes_a_study_its_settings_and_a_picture(searched: Path) -> None:
    assert finished(searched) == TRIALS
    assert [trial.origin for trial in trials(searched)] == ["initial", "initial", "random"]
    assert yaml.safe_load((searched / "settings.yaml").read_text())["trials"] == TRIALS
    assert (searched / "front.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_command_continues_and_trials_is_a_total(case: Case, tmp_path: Path) -> None:
    asked, folder = case.write(tmp_path / "asked.yaml"), tmp_path / "run"
    assert call("search", asked, "--out", folder).code == 0
    first = trials(folder)
    assert call("search", asked, "--out", folder).code == 0
    assert trials(folder) == first
    assert call("search", asked, "--out", folder, "--trials", 5).code == 0
    assert trials(folder)[:TRIALS] == first
    assert finished(folder) == 5
    assert yaml.safe_load((folder / "settings.yaml").read_text())["trials"] == 5


def test_options_alone_are_enough_and_cut_the_parts_from_one_file(case: Case, tmp_path: Path) -> None:
    found = call(
        *("search", "--model", case.folder / "model", "--train-file", case.folder / "train.csv", "--text", "text"),
        *("--methods", "serial", "--sampler", "random", "--trials", 2, "--initial", 1, "--epochs", 1, "--seed", 5),
        *("--set", "learning_rates=[1e-3]", "--set", "recipe.max_length=16", "--out", tmp_path / "run"),
    )
    assert found.code == 0, found.err
    stored = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())
    assert (stored["seed"], stored["recipe"]["epochs"], stored["learning_rates"]) == (5, 1.0, [1e-3])
    with Study.open(tmp_path / "run" / "study.db") as study:
        assert study.fact("proxy")["chosen"] == 1e-3
        # 32 examples: a tenth, rounded, is cut twice.
        assert [study.fact("data")[part]["size"] for part in ("train", "validation")] == [26, 3]


def test_front_as_a_table_as_json_and_at_a_budget(searched: Path, tmp_path: Path) -> None:
    table = call("front", searched)
    assert table.code == 0
    assert "Pareto front" in table.out
    rows = json.loads(call("front", searched, "--json").out)
    measured = {trial.number: trial.measurement for trial in trials(searched)}
    assert [row["percent"] for row in rows] == sorted(row["percent"] for row in rows)
    for row in rows:
        own = measured[row["number"]]
        assert (row["value"], row["percent"], row["stored"]) == (own.value, own.percent, own.counts.stored)
        assert not any(m.percent <= own.percent and m.value > own.value for m in measured.values())
    cheapest = rows[0]
    at = call("front", searched, "--at", f"{cheapest['nominal']}", "--json")
    assert [row["number"] for row in json.loads(at.out)] == [cheapest["number"]]
    assert f"trial {cheapest['number']}:" in call("front", searched, "--at", f"{cheapest['percent'] + 1e-4}%").out
    assert call("front", searched, "--plot", tmp_path / "front.svg").code == 0
    assert "<svg" in (tmp_path / "front.svg").read_text()


def test_the_front_and_the_lists_fit_a_terminal_of_eighty_columns(searched: Path) -> None:
    with Study.open(searched / "study.db") as study:
        for width in (80, 140):
            shown = io.StringIO()
            Console(file=shown, width=width).print(front_table(study, width))
            lines = shown.getvalue().splitlines()
            assert max(map(len, lines)) <= width
            for point in study.front().points:  # no architecture is cut to pieces
                text = str(study.trial(int(point.key)).architecture)
                assert any(line.rstrip().endswith(text) for line in lines), text
    shown = io.StringIO()
    known = listing("samplers")["samplers"]
    Console(file=shown, width=80).print(described(known))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    starts = [line[2:].split(" ")[0] for line in lines if line[2:3] != " "]
    assert starts == list(known)


def test_everything_that_can_be_listed_is_described() -> None:
    for kind, rows in listing().items():
        assert all(rows.values()), kind
        assert not any("``" in about for about in rows.values()), kind
    for kind in ("methods", "samplers", "spaces"):
        rows = listing(kind)[kind]
        assert len(set(rows.values())) == len(rows), f"Two {kind} say the same of themselves."


def test_check_says_what_would_be_searched_and_writes_nothing(case: Case, tmp_path: Path) -> None:
    asked = case.write(tmp_path / "asked.yaml")
    facts = json.loads(call("check", asked, "--json", "--steps", 1).out)
    # Serial 4, prefix 3, a Boolean for each of three layers; invalid: no layer on (12), no method in the 7 others.
    assert (facts["cardinality"], facts["valid"]) == (4 * 3 * 8, 4 * 3 * 8 - 12 - 7)
    # Serial of width 1 in one layer: 2 D; at most serial 4 (8 D) and prefix 2 (4 D) in three layers; D = 32.
    assert facts["nominal_parameters"] == [2 * 32, 3 * (2 * 4 + 2 * 2) * 32]
    assert facts["seconds_a_trial"] > 0
    assert "cardinality: 96" in call("check", asked, "--steps", 0).out
    assert [path.name for path in tmp_path.iterdir()] == ["asked.yaml"]


def test_a_dry_run_is_the_command_of_the_search_with_another_word(case: Case, tmp_path: Path) -> None:
    asked = (
        *("--model", case.folder / "model", "--train-file", case.folder / "train.csv", "--space", "S2"),
        *("--sampler", "bipeft", "--preset", "recommended", "--budget", "4%", "--budget", "9%", "--epochs", 1),
    )
    facts = json.loads(call("check", *asked, "--text", "text", "--steps", 0, "--json").out)
    assert (facts["trials"], facts["budget"].count("at most")) == (2, 2)
    for command in ("check", "search"):
        refused = call(command, *asked, "--text", "texts")
        assert (refused.code, "no column 'texts'" in refused.err) == (2, True), refused.err


def test_report_in_three_formats(searched: Path, tmp_path: Path) -> None:
    for ending, beginning in (("html", "<!doctype html>"), ("md", "# "), ("json", "{")):
        target = tmp_path / f"report.{ending}"
        assert call("report", searched, "--to", target).code == 0
        assert target.read_text().lower().startswith(beginning)


@pytest.mark.parametrize("kind", ["methods", "backbones", "tasks", "samplers", "protocols", "baselines", "spaces"])
def test_list_names_every_member_of_a_kind(kind: str) -> None:
    known = json.loads(call("list", kind, "--json").out)
    assert list(known) == [kind]
    assert known[kind]
    text = call("list", kind).out
    assert all(name in text for name in known[kind])


@pytest.mark.slow
def test_every_budget_is_answered_by_one_architecture_and_its_search_is_timed(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    asked = case.write(tmp_path / "asked.yaml", space={}, initial=None, trials=60)
    budgets = ("--budget", "2%", "--budget", "8%", "--set", "sampler_options.steps=4")
    found = call("search", asked, "--sampler", "bipeft", *budgets, "--out", folder)
    assert found.code == 0, found.err
    assert "All 2 budgets are answered" in found.out
    assert [trial.origin for trial in trials(folder)] == ["bipeft", "bipeft"]
    for row in json.loads(call("front", folder, "--json").out):
        assert row["search_seconds"] == row["proposal_seconds"] == trials(folder)[row["number"]].proposal_seconds > 0
    report = call("report", folder, "--to", tmp_path / "report.md")
    assert report.code == 0
    assert "search (proposing alone)" in (tmp_path / "report.md").read_text()
    told = call("train", folder, "--trial", 0, "--seeds", 1, "--epochs", 1, "--learning-rates", "", "--json")
    assert told.code == 0, told.err
    facts = json.loads(told.out)
    assert facts["search"]["seconds"] == trials(folder)[0].proposal_seconds
    assert facts["search"]["per_retraining"] == pytest.approx(facts["search"]["seconds"] / facts["seconds"][0])


def test_the_search_seconds_of_others_are_those_of_all_their_trials(searched: Path) -> None:
    spent = sum(t.proposal_seconds + t.measurement.seconds for t in trials(searched))
    rows = json.loads(call("front", searched, "--json").out)
    assert [row["search_seconds"] for row in rows] == pytest.approx([spent] * len(rows))


@pytest.mark.slow
def test_a_sampler_that_diverges_is_one_message_and_what_was_measured_stays(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    asked = case.write(tmp_path / "asked.yaml", space={"name": "S2"}, initial=1, trials=60)
    rate = ("--set", "sampler_options.learning_rate=1e30", "--set", "sampler_options.steps=8")
    for _ in range(2):
        found = call("search", asked, "--sampler", "bipeft", "--budget", "8%", *rate, "--out", folder)
        assert found.code == 1
        assert "The sampler 'bipeft' failed (nan)" in found.err.replace("\n", " ")
        assert "Traceback" not in found.err
        assert "Pareto front: 1 point," in found.out
    (measured,) = trials(folder)
    assert (measured.origin, measured.is_complete) == ("initial", True)
    with Study.open(folder / "study.db") as study:
        assert [row["kind"] for row in study.failed_proposals()] == ["nan", "nan"]
    call("report", folder, "--to", tmp_path / "report.md")
    assert "The sampler bipeft failed (nan)" in (tmp_path / "report.md").read_text()


def test_several_budgets_are_for_samplers_that_answer_them(case: Case, tmp_path: Path) -> None:
    found = call("search", case.write(tmp_path / "asked.yaml"), "--budget", "1%", "--budget", "2%", "--out", tmp_path)
    assert found.code == 2
    assert "'random' has one budget" in found.err


def test_train_a_point_of_the_front_save_it_and_predict(searched: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    found = call(
        *("train", searched, "--at", "100%", "--seeds", 2, "--epochs", 1, "--learning-rates", "1e-3,3e-3"),
        *("--save", saved, "--to", tmp_path / "cell.json", "--json"),
    )
    assert found.code == 0, found.err
    cell = json.loads(found.out)
    assert json.loads((tmp_path / "cell.json").read_text()) == cell
    assert (cell["seeds"], cell["split"], len(cell["values"])) == ([40, 41], "test", 2)
    assert cell["summary"]["mean"] == pytest.approx(sum(cell["values"]) / 2)
    assert cell["learning_rate"] in (1e-3, 3e-3)
    best = json.loads(call("front", searched, "--json").out)[-1]
    assert cell["architecture"] == best["architecture"]
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "architecture.json", "model.safetensors"]
    rows = json.loads(call("predict", saved, "good w1", "bad w2", "--json").out)
    assert [row["text"] for row in rows] == ["good w1", "bad w2"]
    assert all(row["label"] in ("good", "bad") and 0.5 <= row["score"] <= 1 for row in rows)
    lines = call("predict", saved, stdin="good w1\r\nbad w2").out.splitlines()
    assert [line.split("\t")[::2] for line in lines] == [[row["label"], row["text"]] for row in rows]
    refused(call("predict", saved, stdin="good w1\n\n  \nbad w2\n"), "2 are blank: lines 2, 3")
    refused(call("predict", saved, stdin=b"good w1\ncaf\xe9\n"), "line 2 holds the bytes 0xe9")
    refused(call("predict", saved, stdin=""), "but got none")
    refused(call("export", saved, "--to", tmp_path / "cell.json" / "sub"), "cell.json", "is no folder")


def test_train_a_trial_a_baseline_and_an_architecture_file(searched: Path, case: Case, tmp_path: Path) -> None:
    few = ("--seeds", 1, "--epochs", 1, "--learning-rates", "1e-3", "--json")
    trial = json.loads(call("train", searched, "--trial", 1, *few).out)
    assert trial["architecture"] == trials(searched)[1].architecture.as_dict()
    assert trial["summary"]["std"] is None
    asked = case.write(tmp_path / "asked.yaml")
    serial = json.loads(call("train", asked, "--baseline", "serial:2", *few).out)
    assert serial["counts"]["nominal"] == 3 * 2 * 32 * 2  # three layers, 2 D b
    trials(searched)[1].architecture.save(tmp_path / "own.json")
    own = json.loads(call("train", asked, "--architecture", tmp_path / "own.json", *few).out)
    # Same architecture, data, learning rate and seed; the values are computed anew.
    assert (own["name"], own["architecture"], own["values"]) == ("own", trial["architecture"], trial["values"])
    text = call("train", asked, "--baseline", "serial:2", *few[:-1]).out
    assert "single seed" in text
    assert "on test" in text


def test_the_devices_of_workers_give_way_to_a_device_and_are_none_of_a_retraining(tmp_path: Path) -> None:
    given = {"task": "mrpc", "devices": ["cuda:0", "cuda:1"], "device": "cuda:0"}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(given))
    assert options.read(tmp_path / "settings.yaml", {}, []).devices == ("cuda:0", "cuda:1")
    told = options.read(tmp_path / "settings.yaml", {"device": "cpu"}, [])
    assert (told.device, told.devices) == ("cpu", ())
    assert options.read(None, {"task": "mrpc", "device": "cpu", "devices": ["cpu"]}, []).devices == ("cpu",)
    assert options.for_retraining(tmp_path, {}, []).devices == ()


def test_what_made_a_search_cheap_is_no_wish_for_the_retraining_unless_it_is_said_again(tmp_path: Path) -> None:
    cheap = {"epochs": 1.0, "steps": 7, "patience": 2, "data_fraction": 0.1, "weight_decay": 0.01}
    asked = {"task": "mrpc", "train_limit": 100, "learning_rates": [1e-3], "recipe": cheap}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(asked))
    study = options.for_retraining(tmp_path, {}, [])
    assert (study.train_limit, study.learning_rates) == (None, (1e-3,))
    assert (study.recipe.epochs, study.recipe.steps, study.recipe.patience) == (20, None, 10)
    assert (study.recipe.data_fraction, study.recipe.weight_decay) == (1.0, 0.01)
    said = options.for_retraining(tmp_path, {"recipe.epochs": 3.0}, ["train_limit = 100", "recipe.data_fraction=0.5"])
    assert (said.train_limit, said.recipe.epochs, said.recipe.data_fraction) == (100, 3.0, 0.5)
    # A file is taken as it is, but for the options; epochs on the command line beat steps in the file.
    file = options.for_retraining(tmp_path / "settings.yaml", {}, [])
    assert (file.recipe.as_dict(), file.learning_rates) == ({**file.recipe.as_dict(), **cheap}, (1e-3,))
    assert options.for_retraining(tmp_path / "settings.yaml", {"recipe.epochs": 3.0}, []).recipe.steps is None
    assert options.for_retraining(tmp_path / "settings.yaml", {}, ["recipe.epochs=3"]).recipe.steps is None
    both = options.for_retraining(tmp_path / "settings.yaml", {}, ["recipe.epochs=3", "recipe.steps=5"])
    assert both.recipe.steps == 5
    assert options.for_retraining(tmp_path, {"learning_rates": [3e-3]}, []).learning_rates == (3e-3,)
    (tmp_path / "short.yaml").write_text("task: mrpc\n")
    assert options.for_retraining(tmp_path / "short.yaml", {}, []).recipe.epochs == 20


def test_results_are_written_after_every_seed_with_their_recipe(case: Case, tmp_path: Path) -> None:
    asked, to = case.write(tmp_path / "asked.yaml"), tmp_path / "deep" / "found.json"
    seen: list[list[int]] = []

    def spy(path: Path, data: dict[str, Any]) -> None:
        write_cell(path, data)
        seen.append(json.loads(path.read_text())["seeds"])

    with mock.patch("autopeft.training.retraining.write_cell", spy):
        found = call(*("train", asked, "--baseline", "serial:2", "--seeds", 2), "--learning-rates", "", "--to", to)
    assert found.code == 0, found.err
    assert seen == [[40], [40, 41], [40, 41]]
    recipe = json.loads(to.read_text())["recipe"]
    assert (recipe["steps"], recipe["learning_rate"]) == (2, json.loads(to.read_text())["learning_rate"])


def test_setting_one_method_keeps_the_others(case: Case, tmp_path: Path) -> None:
    sizes = ("--set", "space.methods.serial.sizes=[0,4]")
    facts = json.loads(call("check", case.write(tmp_path / "a.yaml"), "--steps", 0, *sizes, "--json").out)
    assert facts["cardinality"] == 2**3 * 2 * 3  # a switch a layer; serial 0 or 4, prefix 0 to 2
    asked = case.write(tmp_path / "b.yaml", space={"methods": ["serial", "lora"]})
    listed = options.read(asked, {}, list(sizes[1:])).space.methods
    assert {name: axis.sizes for name, axis in listed.items()} == {"serial": (0, 4), "lora": None}
    default = options.read(case.write(tmp_path / "c.yaml", space={}), {}, list(sizes[1:])).space.methods
    assert {name: axis.sizes for name, axis in default.items()} == {"serial": (0, 4), "parallel": None, "prefix": None}


@pytest.mark.slow
def test_a_study_in_a_database_is_shown_reported_and_retrained(case: Case, tmp_path: Path) -> None:
    asked, folder, url = case.write(tmp_path / "asked.yaml"), tmp_path / "run", f"sqlite:///{tmp_path / 'all.db'}"
    found = call("search", asked, "--out", folder, "--storage", url)
    assert found.code == 0, found.err
    assert f"--storage {tmp_path / 'all.db'}" in found.out.replace("\n", "")
    rows = json.loads(call("front", folder, "--storage", url, "--json").out)
    assert rows
    assert call("report", folder, "--storage", url, "--to", tmp_path / "r.md").code == 0
    assert f"--out {folder} --storage {tmp_path / 'all.db'}" in (tmp_path / "r.md").read_text()
    few = ("--seeds", 1, "--epochs", 1, "--learning-rates", "1e-3", "--storage", url, "--json")
    trained = call("train", folder, "--trial", rows[0]["number"], *few)
    assert json.loads(trained.out)["architecture"] == rows[0]["architecture"]
    refused(call("front", tmp_path / "other", "--storage", url), "'other'")


def test_the_report_names_the_rate_that_was_used_and_what_the_sweep_says(case: Case, tmp_path: Path) -> None:
    space = {"methods": {"serial": {"sizes": [0, 4]}}}  # one module is 0.8 % of so small a model
    folder, asked = tmp_path / "run", case.write(tmp_path / "a.yaml", learning_rates=[1e-5, 1e-6], space=space)
    found = call("search", asked, "--out", folder)
    assert "train: 32 examples of" in found.err
    assert "Next: autopeft train" in found.out
    assert "--trial" in found.out
    (rate,) = {trial.measurement.extra["learning_rate"] for trial in trials(folder)}
    assert call("report", folder, "--to", tmp_path / "r.md").code == 0
    told = (tmp_path / "r.md").read_text()
    assert f"| learning_rate | {rate:g} |" in told
    assert "## Does the proxy have signal?" in told
    assert f"Learning rate {rate:g}." in told


@pytest.mark.slow
def test_what_was_retrained_stands_in_the_report_and_baselines_beside_the_front(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert call("search", case.write(tmp_path / "asked.yaml"), "--out", folder).code == 0
    few = ("--seeds", 1, "--epochs", 1, "--learning-rates", "")
    for one in (("--trial", 0), ("--trial", 0), ("--baseline", "serial:2")):
        assert call("train", folder, *one, *few).code == 0
    assert call("report", folder, "--to", tmp_path / "r.json").code == 0
    told = json.loads((tmp_path / "r.json").read_text())
    found = {row["name"]: (row["n"], row["split"], row["is_baseline"]) for row in told["retrained"]}
    assert found == {"trial-0": (1, "test", False), "trial-0-2": (1, "test", False), "serial:2": (1, "test", True)}
    assert call("front", folder, "--plot", tmp_path / "front.svg").code == 0
    assert "serial:2" in (tmp_path / "front.svg").read_text()
    (folder / "retrained" / "own.json").write_text("{}")
    refused(call("report", folder, "--to", tmp_path / "r.html"), "own.json", "is not what `autopeft train` writes")


@pytest.mark.slow
def test_names_of_folders_are_shown_as_they_are_and_quoted_in_commands(case: Case, tmp_path: Path) -> None:
    asked = case.write(tmp_path / "asked.yaml")
    for name in ("[/v2]", "my run [bold] :x:"):
        folder = tmp_path / name
        found = call("search", asked, "--out", folder)
        assert found.code == 0, found.err
        assert f"Study: {folder}. Picture: {folder / 'front.png'}. " in found.out
        assert f"autopeft train {shlex.quote(str(folder))} --at 0.5%\n" in found.out
    assert call("report", folder, "--to", tmp_path / "r.md").code == 0
    assert f"--out {shlex.quote(str(folder))}" in (tmp_path / "r.md").read_text()
    refused(call("report", tmp_path / "[/none]"), "[/none]")


@pytest.mark.slow
def test_worker_joins_a_study_that_has_begun(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert call("search", case.write(tmp_path / "asked.yaml"), "--out", folder).code == 0
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    (folder / "settings.yaml").write_text(yaml.safe_dump({**settings, "trials": 5}))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert call("worker", folder).code == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert finished(folder) == 5


def test_help_and_version() -> None:
    for words in (("--help",), ("search", "--help"), ("train", "--help"), ("--version",)):
        found = call(*words)
        assert found.code == 0
        assert found.out
    assert "Usage" in call().out + call().err


# -- what it says when it cannot ------------------------------------------------------------------------------


def refused(found: Called, *expected: str) -> None:
    """Exit code 2, one message, which holds what is expected, no traceback, nothing on stdout."""
    assert found.code == 2, (found.out, found.err)
    assert found.err.count("error:") == 1
    assert "Traceback" not in found.err
    assert found.out == ""
    for text in expected:
        assert text in found.err


BAD = {
    "unknown model": (["--model", "no/such/model"], ["model 'no/such/model' cannot be loaded"]),
    "unknown device": (["--device", "pony"], ["device 'pony' cannot be used"]),
    "unknown column": (["--label", "lable"], ["no column 'lable'", "did you mean 'label'"]),
    "unknown text column": (["--text", "words"], ["no column 'words'", "its columns are text, label"]),
    "budget without solution": (["--budget", "0.01%"], ["at most 3 nominal parameters", "from 64 to 1,152"]),
    "budget of nothing": (["--budget", "0.0001%"], ["'0.0001%'", "32,032 parameters"]),
    "budget upside down": (["--budget", "0.5%-0.1%"], ["'0.5%-0.1%'", "160 to 32"]),
    "budget unreadable": (["--budget", "pony"], ["'0.1%-0.5%'", "'pony'"]),
    "unknown sampler": (["--sampler", "evolutoin"], ["Unknown sampler 'evolutoin'", "Did you mean 'evolution'"]),
    "unknown sampler option": (["--set", "sampler_options.pony=1"], ["'random' has no option 'pony'"]),
    "unknown preset": (["--sampler", "saas-nehvi", "--preset", "papr"], ["'papr'", "Did you mean 'paper'"]),
    "unknown method": (["--methods", "serail,prefix"], ["Unknown method 'serail'", "Did you mean 'serial'"]),
    "unknown protocol": (["--set", "protocol=holdin"], ["Unknown protocol 'holdin'", "'holdout'"]),
    "unknown space": (["--space", "SA-Layers"], ["Unknown space 'SA-Layers'", "'SA-Layer'"]),
    "methods and space": (["--methods", "lora", "--space", "SA"], ["--methods lora", "'SA' exclude each other"]),
    "role of another method": (["--set", "space.methods.serial.roles=[kv]"], ["'serial'", "not at kv"]),
    "unknown role": (["--set", "space.methods.serial.roles=[ffn,atention]"], ["'atention'", "roles of", "attention"]),
    "sizes of what has none": (["--set", "space.methods.bitfit.sizes=[0,4]"], ["'bitfit'", "only size is 1"]),
    "two kinds of prefix": (["--methods", "prefix,prefix_direct"], ["'prefix_direct'", "'prefix' already"]),
    "no size": (["--set", "space.methods.serial.sizes=[0]"], ["'serial'", "nothing above 0"]),
    "unknown layer": (["--set", "space.layers=[0,9]"], ["0 to 2", "9"]),
    "negative trials": (["--trials", "-3"], ["`trials` must be a whole number of at least 1, but got -3"]),
    "several negatives": (
        ["--set", "recipe.learning_rate=-1", "--epochs", "-2"],
        ["`recipe.learning_rate` must be above 0, but got -1", "`recipe.epochs` must be above 0, but got -2.0"],
    ),
    "negative data seed": (["--set", "data_seed=-1"], ["`data_seed` must be a whole number of at least 0, but got -1"]),
    "infinite rate": (["--set", "learning_rates=[.inf]"], ["`learning_rates` must be a finite number above 0"]),
    "negative rate": (["--set", "learning_rates=[-1e-3]"], ["`learning_rates` must be above 0, but got -0.001"]),
    "negative seed": (["--seed", "-1"], ["seed", "-1"]),
    "unknown key": (["--set", "recipe.epoch=3"], ["unknown key `recipe.epoch`, did you mean `recipe.epochs`"]),
    "several mistakes": (
        ["--set", "trails=4", "--set", "recipe.steps=1.5"],
        ["`trails`, did you mean `trials`", "`recipe.steps` must be None or a whole number of at least 1, but got 1.5"],
    ),
    "not key=value": (["--set", "recipe"], ["key=value", "'recipe'"]),
    "task and files": (["--task", "mrpc"], ["either `task` or `files`"]),
    "not a database": (["--storage", "nosuch://place"], ["nosuch://place"]),
    "unknown option": (["--pony", "1"], ["--pony"]),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_before_anything_is_written(what: str, case: Case, tmp_path: Path) -> None:
    options, expected = BAD[what]
    asked = case.write(tmp_path / "asked.yaml")
    refused(call("search", asked, "--out", tmp_path / "run", *options), *expected)
    assert [path.name for path in tmp_path.iterdir()] == ["asked.yaml"]


def bad_file(case: Case, tmp_path: Path, part: str, content: str) -> Called:
    (tmp_path / "own.csv").write_text(content)
    asked = case.write(tmp_path / "asked.yaml")
    found = call("search", asked, "--out", tmp_path / "run", f"--{part}-file", tmp_path / "own.csv")
    assert not (tmp_path / "run").exists()
    return found


def test_bad_files_are_refused(case: Case, tmp_path: Path) -> None:
    refused(bad_file(case, tmp_path, "train", ""), "own.csv' holds no rows")
    refused(bad_file(case, tmp_path, "train", "text,label\n"), "own.csv' holds no rows")
    one = "text,label\na,good\nb,good\n"
    refused(bad_file(case, tmp_path, "train", one), "two classes at least", "['good']")
    unseen = "text,label\na,good\nb,awful\nc,awful\n"
    refused(bad_file(case, tmp_path, "validation", unseen), "'awful' (2 rows)", "train has bad, good")
    refused(bad_file(case, tmp_path, "validation", "text,label\na,good\nb,\n"), "1 labels are missing", "rows 2")
    nothing = call("search", case.write(tmp_path / "asked.yaml"), "--train-file", tmp_path / "none.csv")
    refused(nothing, "none.csv")


def test_a_train_file_without_its_text_column_says_so(case: Case, tmp_path: Path) -> None:
    found = call("search", "--train-file", case.folder / "train.csv", "--out", tmp_path / "run")
    refused(found, "`files.text` is missing")
    refused(call("search", "--text", "text", "--out", tmp_path / "run"), "`files.train` is missing")
    refused(call("search", "--out", tmp_path / "run"), "either `task` or `files`")
    refused(call("search", "--task", "mrcp"), "Unknown task 'mrcp'", "mrpc")
    assert not list(tmp_path.iterdir())


def test_broken_settings_files_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: a\ntask: [b\ntrials: 3\n")
    refused(call("search", broken), "broken.yaml", "line 3, column 7")
    broken.write_text("- model\n")
    refused(call("search", broken), "must hold a mapping, but holds list")
    refused(call("search", tmp_path / "none.yaml"), "none.yaml", "No such file")
    refused(call("search", tmp_path), "Is a directory")


def test_another_study_in_the_folder_is_left_as_it_is(case: Case, searched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(searched, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".yaml", ".png")}
    count = len(trials(folder))
    asked = case.write(tmp_path / "asked.yaml")
    other = call("search", asked, "--out", folder, "--set", "space.methods.serial.sizes=[0,1]", "--epochs", 7)
    refused(other, "the choice serial is [0, 1, 2, 4] there, [0, 1] here", "recipe.epochs is 1.0 there, 7.0 here")
    refused(call("search", asked, "--out", folder, "--seed", 3), "the seed is 42 there, 3 here")
    refused(call("search", asked, "--out", asked), "is no folder")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert len(trials(folder)) == count


def test_the_other_commands_refuse_what_they_cannot_do(searched: Path, case: Case, tmp_path: Path) -> None:
    asked, nowhere = case.write(tmp_path / "asked.yaml"), tmp_path / "nowhere"
    refused(call("train", searched, "--at", "1%", "--trial", 2), "exactly one of --at, --trial")
    refused(call("train", searched), "exactly one of --at, --trial")
    refused(call("train", searched, "--trial", 77), "no trial 77")
    refused(call("train", searched, "--baseline", "pony"), "'pony'", "serial")
    refused(call("train", searched, "--trial", 0, "--learning-rates", "a,b"), "'a,b'")
    refused(call("train", searched, "--trial", 0, "--seeds", 0), "1 to 5", "0")
    refused(call("train", searched, "--trial", 0, "--epochs", -1), "`recipe.epochs` must be above 0, but got -1.0")
    refused(call("train", asked, "--trial", 0), "give its folder")
    refused(call("train", asked, "--architecture", nowhere), "nowhere")
    refused(call("train", searched, "--trial", 0, "--learning-rates", "1e-3,-1"), "`learning_rates`", "-1.0")
    refused(call("train", searched, "--trial", 0, "--widen", -1), "'--widen'")
    refused(call("train", searched, "--trial", 0, "--to", tmp_path), "--to takes a file")
    refused(call("train", searched, "--trial", 0, "--save", asked), "asked.yaml", "is no folder")
    refused(call("train", searched, "--trial", 0, "--to", asked / "a.json"), "asked.yaml", "is no folder")
    refused(call("search", asked, "--out", asked / "sub"), "asked.yaml", "is no folder")
    refused(call("report", searched, "--to", tmp_path), "--to takes a file")
    refused(call("report", searched, "--to", asked / "r.md"), "asked.yaml", "is no folder")
    refused(call("front", searched, "--plot", asked / "front.png"), "asked.yaml", "is no folder")
    refused(call("front", searched, "--at", "40"), "at most 0.1249 %", "0.1998 %")  # of 32,032; the cheapest has 64
    refused(call("front", searched, "--at", "50%-60%"), "50 % to 60 %")
    refused(call("front", searched, "--plot", tmp_path / "front.gif"), ".png", "front.gif")
    for command in ("front", "report", "worker"):
        refused(call(command, nowhere), "nowhere")
    refused(call("predict", nowhere, "a text"), "nowhere")
    refused(call("list", "pony"), "'pony'", "samplers")
    assert [path.name for path in tmp_path.iterdir()] == ["asked.yaml"]


# -- when something goes wrong --------------------------------------------------------------------------------


def test_architectures_that_diverge_are_typed_failures_and_the_search_ends(case: Case, tmp_path: Path) -> None:
    asked, folder = case.write(tmp_path / "asked.yaml"), tmp_path / "run"
    found = call("search", asked, "--out", folder, "--set", "recipe.learning_rate=1e30", "--trials", 4)
    assert found.code == 1
    assert "No trial was measured" in found.err
    assert [trial.failure.kind for trial in trials(folder)] == ["nan"] * 4
    assert "nan" in (call("report", folder, "--to", tmp_path / "r.md"), (tmp_path / "r.md").read_text())[1]


def test_a_learning_rate_that_diverges_loses_the_sweep(case: Case, tmp_path: Path) -> None:
    asked, folder = case.write(tmp_path / "asked.yaml", learning_rates=[1e30, 1e-3]), tmp_path / "run"
    assert call("search", asked, "--out", folder).code == 0
    with Study.open(folder / "study.db") as study:
        assert study.fact("proxy")["values"][0] == [1e30, None]
        assert all(trial.measurement.extra["learning_rate"] == 1e-3 for trial in study.trials())
    asked = case.write(tmp_path / "asked.yaml", learning_rates=[1e30])
    found = call("search", asked, "--out", tmp_path / "other")
    assert found.code == 1
    assert "every learning rate of the sweep: 1e+30" in found.err
