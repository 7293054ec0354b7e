"""The answers of a contest, from made-up cells whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.architecture import Architecture, Placement
from autopeft.experiments import read, write_summary
from autopeft.experiments._contest_answers import (
    answers,
    better_table,
    columns_of,
    cost_table,
    interval_of,
    near_table,
    uniform_table,
)
from autopeft.experiments._contest_tables import Row, pairs_of
from autopeft.experiments._results import Results
from autopeft.paired import Paired, paired
from small_case import Case

COUNTS = {"nominal": 50, "stored": 60, "trained": 70, "backbone": 1000}
ARCHITECTURE = Architecture((Placement("encoder.0.ffn", "serial", 4),)).as_dict()


def cell_of(seed: int, value: float, seconds: float = 1.0, examples: int | None = 50) -> dict[str, Any]:
    """A search of a seed and one training again, of 2 seconds and 100 examples."""
    one = {"values": [value], "seeds": [seed], "counts": COUNTS, "seconds": 2.0, "examples": 100, "trial": 0}
    search = {"seconds": seconds} | ({} if examples is None else {"examples": examples})
    found = [{**one, "architecture": ARCHITECTURE, "origin": "x"}]
    budget = {"most": 100, "count": "nominal"}
    return {"settings": {"seed": seed}, "found": found, "search": search, "budget": budget} | {
        "objective": "accuracy",
        "split": "test",
    }


def row_of(rival: str, *values: float, **more: Any) -> Row:
    return Row(rival, "1%", [cell_of(seed, value, **more) for seed, value in enumerate(values)])


ROWS = {
    "a": [
        row_of("apet", 0.50, 0.50, 0.50),
        row_of("own", 0.60, 0.61, 0.62),
        row_of("rival", 0.61, 0.61, 0.61),
        row_of("wide", 0.55, 0.55, 0.55),
    ],
    "b": [row_of("apet", 0.70, 0.70), row_of("own", 0.69, 0.71), row_of("wide", 0.75, 0.75)],
}
COLUMNS = columns_of(ROWS)


def test_better_than_the_control_on_average_with_two_intervals_and_the_number_of_pairs() -> None:
    own, rival, wide = better_table(COLUMNS, ["own", "rival", "wide"], "apet", 3).rows
    # +0.11 in "a" (variance of the mean 0.01² / 3), 0 in "b" (0.02² / 4 twice over 2 = 1e-4).
    assert own[:2] == ("own", "+0.0550")
    parts = (1e-4 / 3, 1e-4)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 1)
    from scipy.stats import t as student

    reach = float(student.ppf(0.975, freedom)) * sum(parts) ** 0.5 / 2
    assert own[2] == f"{0.055 - reach:+.4f} to {0.055 + reach:+.4f}"
    assert own[3] == f"{0.055 - 12.7062 * 0.055:+.4f} to {0.055 + 12.7062 * 0.055:+.4f}"
    assert own[4:] == ("better" if reach < 0.055 else "no difference shown", "1", "2 of 2", "5")
    # A rival that lacks the cells of "b" is told to have one column, and has no interval over columns; that its three
    # differences are equal is no certainty.
    assert rival == ("rival", "+0.1100", "", "", "too few pairs", "1", "1 of 2", "3")
    assert wide[1] == "+0.0500"


def test_runs_that_every_search_seed_ends_at_are_counted_once_and_paired_by_seed_of_retraining() -> None:
    def trained(seed: int, *values: float) -> dict[str, Any]:
        cell = cell_of(seed, 0.0)
        return {**cell, "found": [{**cell["found"][0], "values": list(values), "seeds": [7, 8, 9]}]}

    own = Row("own", "1%", [trained(n, 0.58 + n / 1000, 0.60 + n / 1000, 0.62 + n / 1000) for n in range(3)])
    control = Row("wide", "1%", [trained(n, 0.56, 0.61, 0.57) for n in range(3)])
    assert (len(control.values), len(own.values)) == (3, 9)
    # By search seeds all three differences would be 0.02 and a little: the control's three runs are in each of them.
    found = pairs_of(own, control, 3)
    assert found.seeds == (7, 8, 9)
    assert found.values == pytest.approx((0.021, -0.009, 0.051))
    assert uniform_table(columns_of({"a": [own, control]}), ["own"], ["wide"], 3).rows[0][2:4] == ("1 of 1", "0 of 1")
    assert "seed of retraining" in "".join(answers({"a": [own, control]}, "own", ["wide"], 3))
    assert "seed of retraining" not in "".join(answers(ROWS, "apet", ["wide"], 3))


def test_one_pair_in_a_column_allows_no_interval() -> None:
    assert interval_of([Paired((0, 1), (0.1, 0.2)), Paired((0,), (0.3,))]) is None
    rows = {"a": [row_of("apet", 0.5), row_of("own", 0.6)]}
    ((*_, verdict, above, columns, pairs),) = better_table(columns_of(rows), ["own"], "apet", 3).rows
    assert (verdict, above, columns, pairs) == ("too few pairs", "1", "1 of 1", "1")


def test_near_the_best_other_search_leaves_uniform_controls_out_and_names_where_it_is_not() -> None:
    apet, own, rival = near_table(COLUMNS, ["apet", "own", "rival"]).rows
    # "b" has two searches: 0.70 both, and the control's 0.75 is no search.
    assert own == ("own", "yes", "2 of 2", "", "5")
    assert apet == ("apet", "no", "1 of 2", "a 1%: -0.1100 to own", "5")
    assert rival == ("rival", "yes", "1 of 1", "", "3")


def test_better_than_every_uniform_control_is_counted_by_column() -> None:
    rows = {**ROWS, "a": [*ROWS["a"], row_of("narrow", 0.60, 0.60, 0.60)]}
    own = uniform_table(columns_of(rows), ["own"], ["wide", "narrow"], 3).rows[0]
    # In "a" 0.01 above the better of the two, which three pairs do not show; in "b" 0.05 below the one that is done.
    assert own[:5] == ("own", "no", "1 of 2", "0 of 2", "-0.0200")
    assert own[6:] == ("b 1%: -0.0500", "5")
    alone = uniform_table(columns_of({"a": rows["a"]}), ["own"], ["wide", "narrow"], 3).rows[0]
    assert alone[4:6] == ("+0.0100", "-0.0148 to +0.0348")  # 4.3027 times 0.01 over the root of three
    assert uniform_table(COLUMNS, ["own"], ["wide"], 3).rows[0][2:4] == ("1 of 2", "1 of 2")
    assert uniform_table(COLUMNS, ["own"], ["nobody"], 3).rows == ()


def test_what_a_search_takes_of_a_retraining_goes_by_examples_where_they_are_counted() -> None:
    rows = {
        "a": [row_of("slow", 0.5, seconds=4.0), row_of("old", 0.5, seconds=4.0, examples=None)],
        "b": [row_of("slow", 0.5, examples=60), row_of("old", 0.5)],
    }
    slow, old = cost_table(columns_of(rows), ["slow", "old"]).rows
    assert slow == ("slow", "yes", "1.25, at most 2.00", "0.55, at most 0.60", "2")
    assert old == ("old", "no", "1.25, at most 2.00", "0.50, at most 0.50", "2")


def test_the_page_answers_from_what_there_is_and_names_what_is_missing(case: Case, tmp_path: Path) -> None:
    data = {
        "kind": "contest", "title": "Asked", "settings": case.data(space={"name": "S2"}), "seeds": [0, 1, 2],
        "samplers": {"own": {"sampler": "bipeft"}, "apet": {"sampler": "apet"}}, "controls": {"wide": "serial"},
        "budgets": ["4%"], "retraining": {"seeds": [0]},
        "tasks": {"a": {"settings": {"task": None}}, "b": {"settings": {"task": None}}},
    }  # fmt: skip
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(data))
    found, results = read(tmp_path / "asked.yaml"), tmp_path / "r"
    for seed, value in ((0, 0.6), (1, 0.7)):
        for rival, less in (("own", 0.0), ("apet", 0.1 + 0.02 * seed), ("wide", 0.05 * (1 + seed))):
            Results(results / "asked").append(f"a/{rival}-at4-seed{seed}", cell_of(seed, value - less))
    text = write_summary(found, results).read_text()
    assert "12 of 18 cells are missing" in text
    assert "--cell b/own-at4-seed0" in text
    assert text.index("## Answers") < text.index("## a")
    assert "speak of further search seeds on the same tasks" in text
    assert "Better than apet on average over all columns?" in text
    # Two differences, 0.10 and 0.12: 0.11 and 12.7062 standard errors of 0.01.
    assert "| own | +0.1100 | -0.0171 to +0.2371 |  | no difference shown | 1 | 1 of 1 | 2 |" in text
    assert "Better than every uniform control (wide) at the same budget?" in text


def test_nothing_is_answered_where_nobody_can_be_compared() -> None:
    assert answers({"a": [row_of("apet", 0.5)]}, "apet", (), 1) == []


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_pairs_are_retrainings_only_where_one_search_seed_was_asked_for(n_seeds: int) -> None:
    one = cell_of(0, 0.5)
    one["found"][0] |= {"values": [0.5, 0.6, 0.7], "seeds": [0, 1, 2]}
    other = cell_of(0, 0.4)
    other["found"][0] |= {"values": [0.4, 0.5, 0.6], "seeds": [0, 1, 2]}
    rows = {"": [Row("own", "1%", [one]), Row("apet", "1%", [other])]}
    assert better_table(columns_of(rows), ["own"], "apet", n_seeds).rows[0][-1] == ("3" if n_seeds == 1 else "1")
    assert columns_of(rows)[0].name == "1%"
    told = "search seeds" if n_seeds == 3 else "retrainings of the same searches"
    assert f"of further {told} on the same tasks" in answers(rows, "apet", (), n_seeds)[2]


def test_equal_differences_are_no_certainty_whatever_floating_point_says() -> None:
    nearly = {0: 0.8, 1: 0.9, 2: 0.7}, {0: 0.7, 1: 0.8, 2: 0.6}
    assert interval_of([paired(*nearly)]) is None
    grained = paired(*nearly, 0.05)
    assert interval_of([grained]) == pytest.approx(grained.interval)

    def sized(row: Row) -> Row:
        return Row(row.rival, row.budget, [{**cell, "splits": {"test": {"size": 20}}} for cell in row.cells])

    rows = [sized(row_of("apet", 0.7, 0.8, 0.6)), sized(row_of("own", 0.8, 0.9, 0.7))]
    ((_, mean, here, over, verdict, *_),) = better_table(columns_of({"a": rows, "b": rows}), ["own"], "apet", 3).rows
    assert (mean, verdict) == ("+0.1000", "better")
    assert here == f"{0.1 - 2.7764 * 0.05 / 6**0.5:+.4f} to {0.1 + 2.7764 * 0.05 / 6**0.5:+.4f}"
    assert over == f"{0.1 - 12.7062 * 0.05 / 2**0.5:+.4f} to {0.1 + 12.7062 * 0.05 / 2**0.5:+.4f}"
