"""Metrics of texts: what each of them promises, BLEU as sacrebleu gives it, and facts by hand."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from autopeft import tasks
from autopeft.errors import DataError, SettingsError
from autopeft.session.parts import load_data
from autopeft.settings import from_dict
from autopeft.tasks import _text_metrics
from autopeft.tasks._examples import Examples
from autopeft.tasks._files import from_files
from autopeft.tasks._scoring import rescored
from autopeft.tasks._text_metrics.facts_mentioned import facts_mentioned, facts_of, is_mentioned

FACTS = "name[The Punter], eatType[pub], food[English], near[Café Brazil]"
GOLD = ("The Punter is a pub near Café Brazil that serves English food.", "Near Café Brazil is The Punter.")


def examples(*rows: tuple[str, tuple[str, ...]]) -> Examples:
    return Examples(np.zeros(len(rows), dtype=np.int64), texts=[(p,) for p, _ in rows], answers=[g for _, g in rows])


@pytest.mark.parametrize("name", _text_metrics.found())
def test_a_metric_of_texts_is_1_for_a_gold_one_and_0_for_nothing(name: str) -> None:
    metric = _text_metrics.found()[name]
    if metric.package:
        pytest.importorskip(metric.package, reason=f"the extra `{metric.extra}` is not installed")
    part = examples((FACTS, GOLD), (FACTS, GOLD[::-1]))
    assert metric.measure([GOLD[0]] * 2, part) == pytest.approx(1.0)
    assert metric.measure(["", ""], part) == 0.0
    assert 0 <= metric.measure([GOLD[0], "A pub."], part) < 1


def test_bleu_is_that_of_the_whole_part_with_as_many_references_as_each_example_has() -> None:
    pytest.importorskip("sacrebleu", reason="the extra `text` is not installed")
    part = examples(("a", ("the cat sat on the mat today", "a cat sat there")), ("b", ("it rains in the city centre",)))
    found = _text_metrics.found()["bleu"].measure(["the cat sat on the mat", "it rains in a city centre"], part)
    # By hand: 11 of 12 words and 8 of 10, 5 of 8 and 3 of 6 runs of two, three and four are in a reference; the nearest
    # references have 7 and 6 words against 6 and 6.
    precisions = [11 / 12, 8 / 10, 5 / 8, 3 / 6]
    assert found == pytest.approx(math.exp(1 - 13 / 12) * math.prod(precisions) ** 0.25)


@pytest.mark.parametrize(
    ("slot", "value", "text", "expected"),
    [
        ("name", "The Punter", "punter is a pub", True),
        ("near", "Café Brazil", "It is near the Cafe Brazil.", True),
        ("near", "Café Brazil", "It is near Brazil Café.", False),
        ("area", "city centre", "in the City Center", True),
        ("eatType", "coffee shop", "a coffee-shop", True),
        ("eatType", "pub", "a public place", False),
        ("priceRange", "£20-25", "between £20 and £25", True),
        ("priceRange", "less than £20", "under twenty pounds", True),
        ("priceRange", "less than £20", "it is cheap", False),
        ("priceRange", "high", "with a high customer rating", False),
        ("priceRange", "high", "in the high price range", True),
        ("priceRange", "moderate", "moderately priced", True),
        ("customer rating", "5 out of 5", "rated five out of five", True),
        ("customer rating", "1 out of 5", "a 5 out of 5 rating", False),
        ("customer rating", "high", "in the high price range", False),
        ("customer rating", "low", "poorly rated", True),
        ("customer rating", "average", "an average customer rating", True),
        ("familyFriendly", "yes", "a kid-friendly place", True),
        ("familyFriendly", "yes", "it isn't family-friendly", False),
        ("familyFriendly", "no", "children are not welcome", True),
        ("familyFriendly", "no", "a family friendly pub", False),
        ("familyFriendly", "no", "a pub", False),
        ("familyFriendly", "yes", "a pub", False),
    ],
)
def test_a_fact_is_mentioned_or_not(slot: str, value: str, text: str, expected: bool) -> None:
    assert is_mentioned(slot, value, text) == expected


def test_facts_are_counted_over_all_examples() -> None:
    assert facts_of("name[A B], customer rating[1 out of 5]") == {"name": "A B", "customer rating": "1 out of 5"}
    part = examples((FACTS, GOLD), ("name[Cotto]", ("Cotto is there.",)))
    assert facts_mentioned(["The Punter serves food.", "Cotto!"], part) == pytest.approx(2 / 5)
    assert math.isnan(facts_mentioned(["The Punter"], examples(("Say something.", GOLD))))


def test_most_facts_are_found_in_what_people_wrote_for_them_and_few_in_what_they_wrote_for_others() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "e2e").exists():
        pytest.skip("the data is not there")
    train = tasks.load(tasks.lookup("e2e/facts"), data=folder, train_limit=300).train
    pairs = [(facts_of(prompt), gold[0]) for (prompt,), gold in zip(train.texts, train.answers, strict=True)]
    told = [is_mentioned(slot, value, text) for facts, text in pairs for slot, value in facts.items()]
    values = {slot: {facts[slot] for facts, _ in pairs if slot in facts} for facts, _ in pairs for slot in facts}
    other = [
        is_mentioned(slot, another, text)
        for facts, text in pairs
        for slot, value in facts.items()
        for another in values[slot] - {value}
    ]
    # People leave facts out and take "1 out of 5" for low, so that neither can be all or nothing.
    assert np.mean(told) > 0.85
    assert np.mean(other) < 0.02


def test_metrics_of_a_named_task_are_asked_for_by_a_setting(tmp_path: Path) -> None:
    (tmp_path / "facts").mkdir()
    rows = [{"prompt": f"name[N{number}]", "completion": f"N{number} is a pub."} for number in range(20)]
    for part in ("train", "validation", "test"):
        (tmp_path / "facts" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"task": "e2e/facts", "data": str(tmp_path), "metrics": ["facts_mentioned", "loss"]}
    task, splits = load_data(from_dict(asked))
    assert task.metrics == ("facts_mentioned", "loss", "rouge_l", "token_f1", "exact_match")
    assert task.baseline(splits.validation)["facts_mentioned"] == pytest.approx(1 / len(splits.validation))
    with pytest.raises(SettingsError, match=r"the metrics \['accuracy'\] do not fit a text: rouge_l, facts_men"):
        load_data(from_dict({**asked, "metrics": ["accuracy"]}))
    with pytest.raises(SettingsError, match=r"`metrics` are of a named task: say `files.metrics` of files"):
        from_dict({"files": {"train": "a.csv", "text": ["a"]}, "metrics": ["bleu"]})
    assert from_dict({"task": "sst2"}).identity().get("metrics") is None  # as studies of earlier commits have it


def test_a_metric_of_a_package_that_is_missing_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    wanted = r"the metric 'bleu' needs sacrebleu: pip install 'autopeft\[text\]'"
    with pytest.raises(SettingsError, match=wanted):
        rescored(tasks.lookup("e2e/facts"), ("rouge_l", "bleu"))
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}", "completion": f" {n}"}) + "\n" for n in range(20)))
    with pytest.raises(DataError, match=wanted):
        from_files(file, text=("prompt",), label="completion", metrics=("bleu",))
    assert from_files(file, text=("prompt",), label="completion")[0].metrics[0] == "rouge_l"


def test_facts_are_of_tasks_that_give_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{n}", "completion": f" {n}"}) + "\n" for n in range(20)))
    with pytest.raises(DataError, match=r"the metrics \['facts_mentioned'\] do not fit a text: rouge_l, "):
        from_files(file, text=("prompt",), label="completion", metrics=("facts_mentioned",))
