"""Contests: searches at parameter budgets, retrained on paired cuts, with their seconds apart."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import yaml

from autopeft.architecture import Architecture, Placement
from autopeft.errors import AutopeftError, BudgetError, SettingsError
from autopeft.experiments import Experiment, read, run, write_summary
from autopeft.experiments._contest_answers import better_table, columns_of, near_table
from autopeft.experiments._contest_runs import limit_of, uniform, uniforms
from autopeft.experiments._contest_tables import (
    Row,
    differences_table,
    found_table,
    page,
    repeats_table,
    results_table,
)
from autopeft.experiments._results import Results
from autopeft.experiments.contest import Contest, ContestCell
from autopeft.session import Session
from autopeft.training.evaluator import Evaluator
from small_case import Case, writer

SAMPLERS: dict[str, Any] = {
    "apet": {"sampler": "apet", "sampler_options": {"draws": 2}, "space": {"name": "S2"}, "initial": 0},
    "prune": {"sampler": "prunepeft", "space": {"name": "S2"}, "initial": 0, "recipe": {"clip": 0.5}},
    "random": {"sampler": "random", "trials": 3, "initial": 2},
}
AT_A_RATE = {"steps": 2, "batch_size": 8, "max_length": 16, "learning_rate": 1e-3}
CELLS = tuple(f"{name}-at{at}-seed4" for at in ("4", "9") for name in SAMPLERS)


def write(case: Case, path: Path, **changes: Any) -> Path:
    data = {
        "kind": "contest",
        "title": "Three ways",
        "settings": case.data(),
        "samplers": SAMPLERS,
        "seeds": [4],
        "budgets": ["4%", "9%"],
        "retraining": {"seeds": [0, 1], "recipe": {"steps": 3}},
    }
    path.write_text(yaml.safe_dump({**data, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def done(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``three.yaml`` and all of its cells in ``results``."""
    folder = tmp_path_factory.mktemp("contest")
    run(read(write(case, folder / "three.yaml")), folder / "results", folder / "work", lambda text: None)
    return folder


def cell(done: Path, name: str) -> dict[str, Any]:
    return dict(Results(done / "results" / "three").read()[name])


def contest(experiment: Experiment) -> Contest:
    found = experiment.parts[""]
    assert isinstance(found, Contest)
    return found


def test_mistakes_in_the_retraining_show_at_once(case: Case, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown key `recipe.epoch`, did you mean `recipe.epochs`"):
        read(write(case, tmp_path / "three.yaml", retraining={"seeds": [0], "recipe": {"epoch": 3}}))


def test_a_cell_is_a_rival_at_a_budget_and_the_budget_limits_its_space(case: Case, tmp_path: Path) -> None:
    found = read(write(case, tmp_path / "three.yaml"))
    assert found.cells() == CELLS
    own = contest(found).settings_of(ContestCell("prune", "9%", 4))
    assert (own.sampler, own.seed, own.data_seed, own.recipe.clip, own.recipe.steps) == ("prunepeft", 4, 4, 0.5, 2)
    assert (own.space.name, own.space.budget, own.space.count) == ("S2", "9%", "nominal")
    own = contest(found).settings_of(ContestCell("random", "4%", 4))
    assert own.space.methods == contest(found).settings.space.methods


@pytest.mark.slow
def test_every_cell_is_within_its_budget_and_told_with_its_seconds(done: Path) -> None:
    for name in CELLS:
        found = cell(done, name)
        assert found["budget"]["most"] == {"4": 1281, "9": 2882}[name.split("at")[1][0]]  # of 32,032 parameters
        for one in found["found"]:
            assert 0 < one["counts"]["nominal"] <= found["budget"]["most"]
            assert one["counts"]["nominal"] <= one["counts"]["stored"] <= one["counts"]["trained"]
            assert one["seeds"] == [0, 1]
            assert one["summary"]["mean"] == pytest.approx(mean(one["values"]))
            assert one["split"] == "test"
        seconds = mean(one["seconds"] for one in found["found"])
        assert found["search"]["per_retraining"] == pytest.approx(found["search"]["seconds"] / seconds)
    assert [len(cell(done, name)["found"]) for name in CELLS[:3]] == [2, 1, 1]


def test_a_random_search_costs_its_trials_and_a_draw_next_to_nothing(done: Path) -> None:
    searched, drawn = cell(done, "random-at9-seed4"), cell(done, "apet-at9-seed4")
    assert (searched["search"]["trials"], drawn["search"]["trials"]) == (3, 2)
    # Three trials of two batches, and a draw that looks at no example.
    assert (searched["search"]["examples"], drawn["search"]["examples"]) == (3 * 2 * 8, 0)
    assert drawn["search"]["seconds"] < 0.5 * searched["search"]["seconds"]
    assert searched["found"][0]["searched_value"] is not None


@pytest.mark.slow
def test_a_uniform_control_fills_the_budget_without_a_search_and_chooses_its_rate(case: Case, tmp_path: Path) -> None:
    after = {"seeds": [0, 1], "recipe": {"steps": 3}, "learning_rates": ["1e-3", 0.1]}
    asked = {"samplers": {"apet": SAMPLERS["apet"]}, "controls": {"wide": "serial"}, "budgets": ["9%"]}
    found = read(write(case, tmp_path / "three.yaml", retraining=after, **asked))
    assert found.cells() == ("apet-at9-seed4", "wide-at9-seed4")
    run(found, tmp_path / "results", tmp_path / "work", lambda text: None)
    done = Results(tmp_path / "results" / "three").read()
    wide, drawn = done["wide-at9-seed4"], done["apet-at9-seed4"]
    assert wide["search"] == {"seconds": 0.0, "trials": 0, "per_retraining": 0.0, "examples": 0}
    one = wide["found"][0]
    sizes = {item.size for item in Architecture.from_dict(one["architecture"])}
    assert len(sizes) == 1
    assert one["counts"]["nominal"] <= wide["budget"]["most"] < one["counts"]["nominal"] * (1 + 1 / min(sizes))
    # All choose among the same rates, the searched ones too.
    assert {each["learning_rate"] for cell in (wide, drawn) for each in cell["found"]} <= {1e-3, 0.1}
    text = write_summary(found, tmp_path / "results").read_text()
    assert "nobody: uniform" in text


@pytest.mark.slow
def test_one_of_several_is_chosen_by_validation_and_trained_again(case: Case, tmp_path: Path) -> None:
    after = {"seeds": [0, 1], "learning_rates": [1e-3, 0.1], "choose": True}
    asked = {"samplers": {"apet": SAMPLERS["apet"]}, "controls": {"wide": ["serial", "lora"]}, "budgets": ["9%"]}
    found = read(write(case, tmp_path / "three.yaml", retraining=after, **asked))
    run(found, tmp_path / "results", tmp_path / "work", lambda text: None)
    done = Results(tmp_path / "results" / "three").read()
    for name in ("apet-at9-seed4", "wide-at9-seed4"):
        given, (one,) = done[name]["chosen_of"], done[name]["found"]
        assert len({item["described"] for item in given}) == 2
        best = max(given, key=lambda item: item["validation"])
        assert (one["described"], one["learning_rate"]) == (best["described"], best["learning_rate"])
    # What is told is what training at that rate, with the seed of the search, measures on the validation part.
    session = Session.build(contest(found).settings_of(ContestCell("wide", "9%", 4)))
    for item in done["wide-at9-seed4"]["chosen_of"]:
        ended = uniform(item["name"].partition(":")[0], session.backbone, limit_of(session))
        rate = item["learning_rate"]
        assert item["validation"] == session.evaluator.with_recipe(learning_rate=rate)(ended.candidate, 4).value
    text = write_summary(found, tmp_path / "results").read_text()
    assert "among, with the metric on the validation part" in text


def test_a_baseline_without_a_form_within_the_budget_is_left_out(case: Case) -> None:
    session = Session.build(case.settings(space={"name": "S2", "budget": "4%"}))
    found = uniforms(["full", "lora"], session.backbone, limit_of(session))
    assert [one.name.partition(":")[0] for one in found] == ["lora"]
    with pytest.raises(BudgetError, match="full has no form within 1,281 nominal"):
        uniforms(["full"], session.backbone, limit_of(session))


@pytest.mark.slow
def test_what_the_study_has_trained_is_not_trained_again(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"samplers": {"apet": SAMPLERS["apet"]}, "budgets": ["9%"], "settings": case.data(recipe=AT_A_RATE)}
    runs: list[float] = []
    known = Evaluator.__call__

    def counted(self: Evaluator, *given: Any, **more: Any) -> Any:
        runs.append(self.recipe.learning_rate)
        return known(self, *given, **more)

    monkeypatch.setattr(Evaluator, "__call__", counted)
    for rates, n in (([1e-3, 0.1], 4), ([2e-3, 0.1], 6)):
        runs.clear()
        after = {"seeds": [0], "learning_rates": rates, "choose": True}
        experiment = read(write(case, tmp_path / f"n{n}.yaml", retraining=after, **asked))
        run(experiment, tmp_path / "results", tmp_path / "work", lambda text: None)
        assert len(runs) == n  # two draws, each by the search at 1e-3 and then at what is left of the rates


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": {"wide": "serail"}}, r"`controls.wide` is one of serial, .* but got 'serail'"),
        ({"controls": {"wide": ["serial", 3]}}, r"`controls.wide` is one of .*, or several in a list, but got"),
        ({"controls": {"wide": []}}, r"`controls.wide` is one of .*, or several in a list, but got \[\]"),
        ({"retraining": {"seeds": [0], "choose": "yes"}}, r"`retraining.choose` is true or false, but got 'yes'"),
        ({"controls": ["serial"]}, r"`controls` is a mapping of names to baselines, but got \['serial'\]"),
        ({"controls": {"apet": "serial"}}, "'apet' is among `samplers` and among `controls`"),
        ({"retraining": {"seeds": [0], "learning_rates": [0]}}, r"list of numbers above 0, but got \[0\]"),
    ],
)
def test_mistakes_in_controls_and_rates_show_at_once(
    changes: dict[str, Any], message: str, case: Case, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        read(write(case, tmp_path / "three.yaml", **changes))


def test_cells_that_are_done_are_not_run_again_and_the_page_has_every_row(case: Case, done: Path) -> None:
    found = read(done / "three.yaml")
    assert found.missing(done / "results") == ()
    said: list[str] = []
    run(found, done / "results", done / "work", said.append)
    assert said == []
    text = write_summary(found, done / "results").read_text()
    assert "search / retraining" in text
    rows = contest(found).rows(found.done(done / "results"))
    table = results_table(rows)
    assert [row[:2] for row in table.rows] == [(name, at) for at in ("4%", "9%") for name in SAMPLERS]
    values = [value for one in cell(done, CELLS[0])["found"] for value in one["values"]]
    assert table.rows[0][table.header.index("mean")] == f"{mean(values):.4f}"
    assert table.rows[0][table.header.index("std")] == f"{stdev(values):.4f}"
    assert table.rows[0][table.header.index("n")] == "4"
    first = Architecture.from_dict(cell(done, CELLS[0])["found"][0]["architecture"])
    modules = found_table(rows).rows
    assert [row[:2] for row in modules] == [row[:2] for row in table.rows]
    assert sum(int(told.split()[0]) for told in modules[0][2].split(", ")) == len(first)
    assert modules[0][2] in text
    differences = differences_table(rows, 1, "apet")
    assert [(row[0], row[1], row[4]) for row in differences.rows] == [
        ("prune", "4%", "2"),
        ("random", "4%", "2"),
        ("prune", "9%", "2"),
        ("random", "9%", "2"),
    ]
    runs = list(zip(*(one["values"] for one in cell(done, CELLS[0])["found"]), strict=True))
    other = cell(done, CELLS[1])["found"][0]["values"]
    assert differences.rows[0][2] == f"{mean(a - mean(b) for a, b in zip(other, runs, strict=True)):+.4f}"


def test_retrainings_of_one_search_are_no_independent_pairs(case: Case, tmp_path: Path) -> None:
    samplers = {name: SAMPLERS[name] for name in ("apet", "random")}
    found = read(write(case, tmp_path / "two.yaml", samplers=samplers, budgets=["4%"], seeds=[0, 1, 2]))
    counts = {"nominal": 320, "stored": 320, "trained": 400, "backbone": 32_000}

    def searched(seed: int, *values: float) -> dict[str, Any]:
        architecture = Architecture((Placement("encoder.0.ffn", "serial_adapter", 4),)).as_dict()
        one = {"seeds": [0, 1, 2], "values": values, "counts": counts, "seconds": 1.0, "architecture": architecture}
        budget = {"most": 640, "count": "nominal"}
        return {
            "settings": {"seed": seed},
            "found": [one],
            "budget": budget,
            "search": {"seconds": 2.0},
            "split": "test",
        } | {"objective": "accuracy"}

    # Of one mean and not the same runs, which would count once.
    drawn = ((0.5, 0.6, 0.7), (0.6, 0.5, 0.7), (0.7, 0.6, 0.5))
    cells = {f"apet-at4-seed{seed}": searched(seed, *values) for seed, values in enumerate(drawn)}
    cells |= {f"random-at4-seed{seed}": searched(seed, 0.6, 0.7, 0.8 + 0.3 * seed) for seed in (0, 1, 2)}
    rows = contest(found).rows(cells)
    table = differences_table(rows, 3, "apet")
    ((*_, mean_difference, interval, pairs, verdict),) = table.rows
    assert (mean_difference, pairs, verdict) == ("+0.2000", "3", "no difference shown")
    low, high = (0.2 + sign * 4.302653 * 0.1 / 3**0.5 for sign in (-1, 1))  # Student's t, 2 degrees of freedom
    assert interval == f"{low:+.4f} to {high:+.4f}"
    assert "paired by search seed" in table.caption
    assert "(9 runs, test)" in page(rows, 3, "apet", "t").pictures["results"].alt
    alone = read(write(case, tmp_path / "one.yaml", samplers=samplers, budgets=["4%"], seeds=[1]))
    rows = contest(alone).rows(cells)
    ((*_, pairs, _verdict),) = differences_table(rows, 1, "apet").rows
    assert pairs == "3"
    assert "(3 seeds, test)" in page(rows, 1, "apet", "t").pictures["results"].alt


def test_the_cut_moves_with_the_seed_unless_that_would_move_the_test_part(case: Case, tmp_path: Path) -> None:
    asked = contest(read(write(case, tmp_path / "three.yaml")))
    data = case.data()
    parts = {part: data["files"][part] for part in ("train", "test")}
    for given, does_move in (({**parts}, True), ({"train": parts["train"]}, False)):
        files = {"text": ["text"], "label": "label", **given}
        search = Session.build(case.settings(files=files, data_seed=4))
        again = asked.evaluator(search, 0)
        is_same = again.splits.validation.digest() == search.evaluator.splits.validation.digest()
        assert is_same is not does_move
        assert again.splits.test.digest() == search.evaluator.splits.test.digest()


@pytest.mark.slow
def test_a_rival_that_diverges_costs_no_other_its_cell(case: Case, tmp_path: Path) -> None:
    wild = {**SAMPLERS["prune"], "sampler_options": {"learning_rate": 1e30, "steps": 6}}
    path = write(case, tmp_path / "two.yaml", samplers={"wild": wild, "apet": SAMPLERS["apet"]}, budgets=["4%"])
    with pytest.raises(AutopeftError, match=r"the cell wild-at4-seed4 failed: The sampler 'prunepeft' failed .nan."):
        run(read(path), tmp_path / "results", tmp_path / "work", lambda text: None)
    assert read(path).missing(tmp_path / "results") == ("wild-at4-seed4",)


def test_mistakes_in_a_file_are_told_together(case: Case, tmp_path: Path) -> None:
    path = write(case, tmp_path / "bad.yaml", budgets=[4], retraining={"seeds": [-1]})
    with pytest.raises(SettingsError, match=r"`budgets` is a list of limits.*; `retraining` is a mapping of `seeds`"):
        read(path)
    path = write(case, tmp_path / "bad.yaml", samplers={"x": {"sampler": "random", "trails": 3}})
    with pytest.raises(SettingsError, match="unknown key `trails`"):
        read(path)


def row_of(rival: str, budget: str, *values: float, sizes: tuple[dict[str, int], ...] = ({"encoder.0.ffn": 4},)) -> Row:
    """A rival's searches, one a set of sizes, with the same values for each."""
    counts = {"nominal": 50, "stored": 60, "trained": 70, "backbone": 1000}
    cells = [
        {
            "settings": {"seed": seed, "initial": 2},
            "budget": {"most": 100, "count": "nominal"},
            "found": [
                {
                    "values": list(values),
                    "seeds": list(range(len(values))),
                    "counts": counts,
                    "trial": 1 + seed,
                    "architecture": Architecture(
                        tuple(Placement(site, "serial", size) for site, size in own.items())
                    ).as_dict(),
                }
            ],
        }
        for seed, own in enumerate(sizes)
    ]
    return Row(rival, budget, cells)


def test_means_over_all_columns_count_who_is_above_and_near_the_best() -> None:
    rows = {
        "a": [row_of("own", "1%", 0.6, 0.8), row_of("apet", "1%", 0.5, 0.7), row_of("third", "1%", 0.1, 0.1)],
        "b": [row_of("own", "1%", 0.3, 0.3), row_of("apet", "1%", 0.6, 0.6), row_of("third", "1%", 0.5, 0.9)],
    }
    columns = columns_of(rows)
    # own: +0.1 and -0.3, so that its standard error over columns is 0.2; t of one degree is 12.7062.
    own = better_table(columns, ["own", "third"], "apet", 1).rows[0]
    assert own[:2] == ("own", "-0.1000")
    assert own[3] == f"{-0.1 - 12.7062 * 0.2:+.4f} to {-0.1 + 12.7062 * 0.2:+.4f}"
    assert own[5:7] == ("1", "2 of 2")
    # In "a" own is the best, in "b" 0.4 below a best with a standard error of 0.2; apet is 0.1 below own in "a", whose
    # standard error is 0.1, and 0.1 below third in "b".
    near = {name: told for name, _, told, *_ in near_table(columns, ["own", "apet", "third"]).rows}
    assert (near["own"], near["apet"]) == ("1 of 2", "2 of 2")


def test_what_was_found_says_who_proposed_it_and_whether_a_search_repeats_itself() -> None:
    sites = [f"encoder.{layer}.ffn" for layer in range(10)]
    same = {site: 1 + layer for layer, site in enumerate(sites)}
    turned = {site: 10 - layer for layer, site in enumerate(sites)}
    extra = {**same, "encoder.10.ffn": 3}
    rows = [row_of("steady", "1%", 0.5, sizes=(same, extra)), row_of("turned", "1%", 0.5, sizes=(same, turned))]
    first, second = repeats_table(rows).rows
    assert first == ("steady", "1%", "91%", "+1.00", "10")
    assert (second[2], float(second[3]) < -0.8) == ("100%", True)
    assert repeats_table([row_of("once", "1%", 0.5)]).rows == ()
    # Trial 1 of two initial ones, as results say that have the number alone.
    assert [row[3] for row in found_table(rows).rows] == ["initial design"] * 2
    assert rows[0].spent == 0.5


@pytest.mark.slow
def test_what_was_written_is_kept_and_shown(case: Case, tmp_path: Path) -> None:
    settings = {**case.data(), **writer(tmp_path)}
    samplers = {"apet": {"sampler": "apet", "space": {"name": "S2"}, "initial": 0, "trials": 1}}
    asked = {"samplers": samplers, "settings": settings, "budgets": ["9%"], "retraining": {"seeds": [0]}}
    found = read(write(case, tmp_path / "said.yaml", **asked))
    run(found, tmp_path / "results", tmp_path / "work", lambda text: None)
    (one,) = Results(tmp_path / "results" / "said").read()["apet-at9-seed4"]["found"]
    assert [text["references"] for text in one["texts"]] == [["good", "well"]] * 4
    text = write_summary(found, tmp_path / "results").read_text()
    assert "| asked | apet 9% | people wrote |" in text
    assert f"| {one['texts'][0]['prompt']} |" in text
