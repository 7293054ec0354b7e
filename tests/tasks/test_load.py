"""Tasks, protocols and formatting. GLUE files are read where they are present; SuperGLUE rows here are made up."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft import tasks
from autopeft.errors import DataError, SettingsError, UnknownNameError
from autopeft.tasks import _load
from autopeft.tasks._examples import Examples
from autopeft.tasks._protocols import PROTOCOLS, Source, cut, draw_subset, stratified
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Task

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the GLUE files are not here")

TASK = Task(
    "made/up", "classification", ("text",), label_names=("no", "yes"), protocols=tuple(PROTOCOLS), is_large=False
)


def made_up(size: int, ones: int, tag: str) -> Examples:
    labels = np.array([1] * ones + [0] * (size - ones), dtype=np.int64)
    return Examples(labels, texts=[(f"{tag} {number}",) for number in range(size)])


def source(train: int, development: int, ones: int = 0) -> Source:
    parts = {"train": made_up(train, ones or train // 3, "train"), "test": made_up(development, 3, "dev")}
    return Source({"train": "TRAIN", "test": "DEV"}, lambda role: parts[role])


def names_of(examples: Examples) -> set[str]:
    return {text for (text,) in examples.texts}


def test_names_are_found_in_full_and_short_and_glue_comes_first() -> None:
    assert tasks.lookup("mrpc") is tasks.lookup("glue/mrpc")
    assert tasks.lookup("rte").name == "glue/rte"
    assert tasks.lookup("superglue/rte").inputs == ("premise", "hypothesis")
    with pytest.raises(UnknownNameError, match="glue/mrpc"):
        tasks.lookup("glue/mrpcc")


def test_a_task_of_ones_own_is_found_by_its_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from autopeft.tasks import Task\nTASK = Task('lab/own', 'classification', ('text',))\n"
    (tmp_path / "own_lab_tasks.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert tasks.lookup("own_lab_tasks:TASK").name == "lab/own"


@given(st.integers(30, 300), st.integers(4, 60), st.integers(0, 2**31), st.sampled_from(sorted(PROTOCOLS)))
@settings(max_examples=60)
def test_parts_are_disjoint_complete_and_repeatable(train: int, development: int, seed: int, protocol: str) -> None:
    splits = cut(TASK, source(train, development), protocol, seed)
    again = cut(TASK, source(train, development), protocol, seed)
    parts = [splits.train, splits.validation, splits.test]
    assert [list(part.texts) for part in parts] == [list(p.texts) for p in (again.train, again.validation, again.test)]
    together = names_of(splits.train) | names_of(splits.validation) | names_of(splits.test)
    assert len(together) == train + development
    seen_and_reported = names_of(splits.validation) & names_of(splits.test)
    assert not names_of(splits.train) & (names_of(splits.validation) | names_of(splits.test))
    assert bool(seen_and_reported) == (protocol == "autopeft")
    assert splits.facts["is_optimistic"] == (protocol == "autopeft")


@given(st.integers(2, 200), st.integers(1, 10**6), st.integers(1, 4), st.integers(0, 1), st.data())
@settings(max_examples=120)
def test_a_stratified_cut_keeps_proportions(n: int, seed: int, classes: int, spare: int, data: Any) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, n)
    size = data.draw(st.integers(1, n))
    if size > n - spare * len(np.unique(labels)):
        with pytest.raises(DataError, match=f"{size} of {n} examples cannot be cut off"):
            stratified(labels, size, np.random.default_rng(seed), spare)
        return
    chosen = stratified(labels, size, np.random.default_rng(seed), spare)
    assert len(set(chosen.tolist())) == size
    assert not spare or set(np.delete(labels, chosen)) == set(labels)  # what is left knows every class
    counts = np.bincount(labels, minlength=classes)
    taken = np.bincount(labels[chosen], minlength=classes)
    # rounding moves a class by less than one; lifting rare classes to one takes at most one each from a larger
    assert (np.abs(taken - size * counts / n) < classes + 1).all()
    assert (taken[counts > spare] >= 1).all() or size <= classes


def test_a_holdout_is_a_tenth_of_train_with_its_proportions_and_at_most_two_thousand() -> None:
    splits = cut(TASK, source(300, 50, ones=100), "holdout", seed=1)
    assert len(splits.train) == 270
    assert splits.validation.balance() == {"0": 20, "1": 10}
    assert names_of(splits.test) == names_of(made_up(50, 3, "dev"))
    assert len(cut(TASK, source(30_000, 5), "holdout", seed=1).validation) == 2000


def test_the_seed_moves_the_cut_and_the_limit_does_not() -> None:
    first = cut(TASK, source(200, 9), "holdout", seed=1)
    assert names_of(first.validation) != names_of(cut(TASK, source(200, 9), "holdout", seed=2).validation)
    limited = cut(TASK, source(200, 9), "holdout", seed=1, train_limit=30)
    assert names_of(first.validation) == names_of(limited.validation)
    assert len(limited.train) == 30
    assert limited.train.balance() == {"0": 20, "1": 10}
    assert names_of(limited.train) <= names_of(first.train)


@pytest.mark.parametrize("limit", [178, 179, 180, 500])
def test_a_limit_may_leave_out_a_single_example_or_none(limit: int) -> None:
    found = cut(TASK, source(200, 9, ones=1), "holdout", seed=1, train_limit=limit)
    assert len(found.train) == min(limit, 180)
    assert found.train.balance()["1"] == 1  # the only example of its class is not what is left out


def test_bipeft_halves_the_validation_of_a_small_task_and_cuts_the_train_of_a_large_one() -> None:
    small = cut(TASK, source(100, 57), "bipeft", seed=0)
    assert (len(small.train), len(small.validation), len(small.test)) == (100, 28, 29)
    large = cut(replace(TASK, is_large=True), source(5000, 57), "bipeft", seed=0)
    assert (len(large.train), len(large.validation), len(large.test)) == (3000, 2000, 57)


def test_the_test_part_is_opened_once_and_only_when_asked_for() -> None:
    opened = []
    parts = {"train": made_up(50, 20, "train"), "test": made_up(9, 3, "dev")}

    def read(role: str) -> Examples:
        opened.append(role)
        return parts[role]

    splits = cut(TASK, Source({"train": "TRAIN", "test": "DEV"}, read), "holdout", seed=0)
    assert json.loads(json.dumps(splits.describe()))["test"] == {"from": "DEV"}
    assert opened == ["train"]
    assert len(splits.test) == len(splits.test) == 9
    assert opened == ["train", "test"]
    assert splits.describe(open_test=True)["test"]["size"] == 9


def test_groups_stay_together() -> None:
    groups = [f"q{number // 4}" for number in range(80)]
    train = Examples(np.arange(80) % 2, texts=[(str(n),) for n in range(80)], groups=groups)
    parts = {"train": train, "test": made_up(9, 3, "dev")}
    splits = cut(TASK, Source({"train": "T", "test": "D"}, lambda role: parts[role]), "holdout", seed=0)
    assert len(splits.validation) == 8
    assert not set(splits.train.groups) & set(splits.validation.groups)


def test_a_part_is_limited_by_whole_groups() -> None:
    examples = Examples(np.zeros(30, dtype=np.int64), texts=[("a",)] * 30, groups=[f"{i // 3}" for i in range(30)])
    kept = draw_subset(examples, 10, np.random.default_rng(0))
    assert sorted(Counter(kept.groups).values()) == [3, 3, 3]
    assert len(draw_subset(replace(examples, groups=()), 10, np.random.default_rng(0))) == 10


def test_what_was_cut_is_told_as_it_was_done() -> None:
    labels = np.arange(40) % 2
    grouped = Examples(labels, texts=[("a",)] * 40, groups=[f"{i // 4}" for i in range(40)])
    numbers = Examples(labels.astype(np.float64), texts=[("a",)] * 40)
    for examples, kind, expected in (
        (grouped, "classification", "in whole groups"),
        (numbers, "regression", "at random"),
        (replace(grouped, groups=()), "classification", "stratified"),
    ):
        task = Task("a", kind, ("text",), label_names=("0", "1") if kind == "classification" else ())  # type: ignore[arg-type]
        found = cut(task, Source({"train": "train"}, lambda role, own=examples: own), "holdout", 0)  # type: ignore[misc]
        assert f", {expected}, at most" in found.facts["validation"]


def test_mistakes_of_the_request() -> None:
    with pytest.raises(UnknownNameError, match="holdout"):
        cut(TASK, source(50, 9), "hold-out", seed=0)
    with pytest.raises(SettingsError, match="at least 1"):
        cut(TASK, source(50, 9), "holdout", seed=0, train_limit=0)
    with pytest.raises(DataError, match="leaves none"):
        cut(TASK, source(1, 9, ones=1), "holdout", seed=0)


def test_examples_must_be_parallel() -> None:
    with pytest.raises(ValueError, match="texts"):
        Examples(np.array([1, 2]), texts=[("a",)])


def test_lengths_balance_and_digest() -> None:
    examples = Examples(np.array([1, 0, 1]), texts=[("a b", "c"), ("d", "e"), ("f g h", "i j")])
    assert examples.words() == {"median": 3, "p95": 5, "longest": 5}
    assert examples.balance() == {"1": 2, "0": 1}
    assert examples.digest() == examples.subset([0, 1, 2]).digest() != examples.subset([0, 2, 1]).digest()


def test_scores_of_logits() -> None:
    task, examples = tasks.lookup("mrpc"), made_up(4, 2, "x")
    logits = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 0.0], [0.0, 3.0]])  # says 1, 0, 0, 1 of 1, 1, 0, 0
    assert task.score(logits, examples) == {"accuracy": 0.5, "f1": pytest.approx(0.5)}
    logits[0, 0] = math.nan
    assert all(math.isnan(value) for value in task.score(logits, examples).values())


def test_scores_of_a_regression_take_a_column_or_a_row() -> None:
    task = tasks.lookup("stsb")
    examples = Examples(np.array([0.0, 1.0, 2.0]), texts=[("a", "b")] * 3)
    assert task.score(np.array([[1.0], [2.0], [3.0]]), examples)["pearson"] == pytest.approx(1.0)
    assert task.score(np.array([3.0, 2.0, 1.0]), examples)["spearman"] == pytest.approx(-1.0)


def test_baselines() -> None:
    examples = made_up(10, 3, "x")
    # For each metric the label that is best for it: always 0 is right 7 times of 10, always 1 has an F1 above 0.
    assert tasks.lookup("mrpc").baseline(examples) == {"accuracy": 0.7, "f1": pytest.approx(2 * 0.3 / 1.3)}
    positive = made_up(4, 4, "y")
    assert tasks.lookup("mrpc").baseline(examples, seen=positive)["accuracy"] == pytest.approx(0.3)
    numbers = Examples(np.array([0.0, 1.0, 5.0]), texts=[("a", "b")] * 3)
    assert tasks.lookup("stsb").baseline(numbers) == {
        "spearman": 0.0,
        "pearson": 0.0,
        "mae": 2.0,  # |0 - 2|, |1 - 2| and |5 - 2| for the mean, 2
        "rmse": pytest.approx((14 / 3) ** 0.5),
    }


def test_the_baseline_of_f1_is_no_0_where_class_1_is_rare() -> None:
    qqp = tasks.lookup("qqp").under("bipeft")
    assert qqp.objective == "f1"
    assert qqp.baseline(made_up(100, 37, "x"))["f1"] == pytest.approx(2 * 0.37 / 1.37)
    # What is learnt elsewhere is scored here.
    assert qqp.baseline(made_up(100, 37, "x"), seen=made_up(10, 0, "y"))["f1"] == 0.0


def test_one_of_two_texts_may_be_empty_in_a_benchmark() -> None:
    task = tasks.lookup("qqp")
    row = {"question1": "Why?", "question2": "", "label": 0}
    table = Table("QQP", ("question1", "question2", "label"), [row, {**row, "question2": "How?"}])
    assert task.examples(table).texts == [("Why?", ""), ("Why?", "How?")]
    blank = Table("QQP", table.columns, [row, {**row, "question1": " "}])
    with pytest.raises(DataError, match=r"1 texts of 'question1' are empty: rows 2; 1 texts of 'question2'"):
        task.examples(blank)


@pytest.mark.parametrize("change", [{"entities": "['Anna']"}, {"answers": None}, {"answers": [1]}])
def test_record_needs_lists_of_text(change: dict[str, Any]) -> None:
    name = next(iter(change))
    with pytest.raises(DataError, match=rf"1 values are no lists of text: rows 2 \({name}\)"):
        rows_of("record", [RECORD, {**RECORD, **change}])


def test_a_protocol_puts_its_papers_metric_first() -> None:
    assert tasks.lookup("mrpc").under("bipeft").metrics == ("f1", "accuracy")
    assert tasks.lookup("mrpc").under("holdout").objective == "accuracy"
    assert tasks.lookup("stsb").under("bipeft").objective == "pearson"
    assert tasks.lookup("cola").objective == "matthews"


def test_text_to_text_of_pairs_and_numbers() -> None:
    task = tasks.lookup("mnli")
    examples = Examples(np.array([2]), texts=[("It rains.", "It is dry.")])
    assert task.source_text(examples, 0) == "mnli premise: It rains. hypothesis: It is dry."
    assert task.target_text(examples, 0) == "2"
    assert task.in_words().target_text(examples, 0) == "contradiction"
    assert task.in_words().parse_prediction(" Neutral ") == 1
    assert task.parse_prediction("neutral") is None
    similarity = tasks.lookup("stsb")
    pairs = Examples(np.array([3.25, 4.667, 0.0, 5.0]), texts=[("a", "b")] * 4)
    assert [similarity.target_text(pairs, n) for n in range(4)] == ["3.2", "4.6", "0.0", "5.0"]
    assert similarity.parse_prediction("3.2") == 3.2


def test_an_answer_that_cannot_be_parsed_is_wrong() -> None:
    task, examples = tasks.lookup("mrpc"), made_up(4, 2, "x")
    # right, nothing (taken for 0), right, nothing (taken for 1): tp 1, fn 1, fp 1
    assert task.score_texts(["1", "?", "0", ""], examples) == {"accuracy": 0.5, "f1": pytest.approx(0.5)}
    three = tasks.lookup("mnli")
    assert three.score_texts(["0", "x"], Examples(np.array([0, 1]), texts=[("a", "b")] * 2)) == {"accuracy": 0.5}
    numbers = Examples(np.array([0.0, 1.0, 5.0]), texts=[("a", "b")] * 3)
    expected = float(np.corrcoef([0, 1, 5], [0, 1, -1])[0, 1])
    assert tasks.lookup("stsb").score_texts(["0", "1.0", "five"], numbers)["pearson"] == pytest.approx(expected)


def test_labels_may_be_ids_digits_or_names_and_wrong_ones_are_shown() -> None:
    table = Table("made.csv", ("text", "label"), [{"text": "a", "label": v} for v in (1, "0", "yes", 1.0, True)])
    assert TASK.examples(table).labels.tolist() == [1, 0, 1, 1, 1]
    wrong = Table("made.csv", ("text", "label"), [{"text": " ", "label": 7}, {"text": "b", "label": -1}])
    with pytest.raises(DataError, match=r"empty: rows 1; 2 values of 'label' .* row 1: 7, row 2: -1"):
        TASK.examples(wrong)
    with pytest.raises(DataError, match="did you mean 'texts'"):
        TASK.examples(Table("made.csv", ("texts", "label"), []))


def test_a_folder_without_the_files_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="looked in"):
        tasks.load(tasks.lookup("mrpc"), data=tmp_path)
    (tmp_path / "mrpc").mkdir()
    (tmp_path / "mrpc" / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match="lacks the part validation"):
        tasks.load(tasks.lookup("mrpc"), data=tmp_path)
    (tmp_path / "mrpc" / "train.csv").write_text("{}")
    with pytest.raises(DataError, match="One file is wanted"):
        tasks.load(tasks.lookup("mrpc"), data=tmp_path)


@pytest.mark.parametrize("folder", ["glue/mnli", "mnli", "."])
def test_a_folder_is_found_under_three_names_and_without_matched(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for part in ("train", "validation"):
        lines = ["premise,hypothesis,label", *(f"p{n},h{n},{n % 3}" for n in range(30))]
        (tmp_path / folder / f"{part}.csv").write_text("\n".join(lines))
    splits = tasks.load(tasks.lookup("mnli"), data=tmp_path)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (27, 3, 30)


def test_without_a_network_the_message_says_how_to_pass_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"(?s)nyu-mll/glue \(mrpc\).*no route to host.*--data FOLDER.*sentence1"):
        tasks.load(tasks.lookup("mrpc"))


def test_the_hub_gives_the_same_examples_as_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{"sentence": f"s{n}", "label": n % 2, "idx": n} for n in range(40)]
    asked = []

    def load_dataset(path: str, config: str, split: str) -> datasets.Dataset:
        asked.append((path, config, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    splits = tasks.load(tasks.lookup("sst2"))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 40)
    assert asked == [("nyu-mll/glue", "sst2", "train"), ("nyu-mll/glue", "sst2", "validation")]


def rows_of(name: str, rows: list[dict[str, Any]]) -> Examples:
    """Examples of a SuperGLUE task from made-up rows in its field names."""
    return tasks.lookup(f"superglue/{name}").examples(Table("made up", tuple(rows[0]), rows))


def test_boolq_and_wic_and_their_text_to_text_forms() -> None:
    asked = rows_of("boolq", [{"question": "is it", "passage": "It is.", "label": 1, "idx": 0}])
    assert asked.texts == [("is it", "It is.")]
    word = {"word": "bank", "sentence1": "A river bank.", "sentence2": "My bank.", "label": False, "idx": 0}
    used = rows_of("wic", [word])
    assert used.texts == [("bank: A river bank.", "bank: My bank.")]
    assert used.labels.tolist() == [0]
    expected = "wic sentence1: A river bank. sentence2: My bank. word: bank"
    assert tasks.lookup("wic").source_text(used, 0) == expected


def test_copa_is_a_choice_between_two() -> None:
    row = {"premise": "I fell.", "choice1": "It was icy.", "choice2": "I sang.", "question": "cause", "label": 0}
    examples = rows_of("copa", [row, {**row, "question": "effect", "label": 1}])
    assert list(examples.choices[0]) == [
        ("I fell. What was the cause?", "It was icy."),
        ("I fell. What was the cause?", "I sang."),
    ]
    assert examples.choices[1][0][0] == "I fell. What happened as a result?"
    task = tasks.lookup("copa")
    assert task.outputs == 1
    assert task.score([[2.0, 1.0], [2.0, 1.0]], examples) == {"accuracy": 0.5}
    assert task.score_texts(["0", "nonsense"], examples) == {"accuracy": 0.5}
    assert task.target_text(examples, 1) == "1"
    assert "choice1: It was icy. choice2: I sang. question: cause" in task.source_text(examples, 0)
    with pytest.raises(DataError, match="row 1: 'why'"):
        rows_of("copa", [{**row, "question": "why"}])


def test_multirc_is_scored_over_answers_and_over_questions() -> None:
    rows = [
        {
            "paragraph": "P.", "question": f"Q{q}?", "answer": f"A{a}", "label": int(a == 0),
            "idx": {"paragraph": 0, "question": q, "answer": a},
        }
        for q in range(2)
        for a in range(2)
    ]  # fmt: skip
    examples = rows_of("multirc", rows)
    assert examples.texts[1] == ("P.", "Q0? A1")
    assert list(examples.groups) == ["0-0", "0-0", "0-1", "0-1"]
    without = rows_of("multirc", [{key: value for key, value in row.items() if key != "idx"} for row in rows])
    assert len(set(without.groups)) == 2
    logits = np.array([[0, 1], [1, 0], [0, 1], [0, 1]])  # says 1, 0, 1, 1 of 1, 0, 1, 0: tp 2, fp 1
    assert tasks.lookup("multirc").score(logits, examples) == {
        "f1a": pytest.approx(4 / 5),
        "group_exact_match": pytest.approx(1 / 2),
    }


RECORD = {
    "passage": "Anna met Bob Smith.\n@highlight\nThey spoke", "query": "@placeholder spoke to Anna.",
    "entities": ["Anna", "Bob Smith", "Smith"], "answers": ["Bob Smith", "Smith"],
}  # fmt: skip


def test_record_is_a_choice_among_entities_and_repeated_for_training_only() -> None:
    examples = rows_of("record", [RECORD, {**RECORD, "answers": ["Anna"]}])
    assert examples.choices[0][1] == ("Anna met Bob Smith. They spoke", "Bob Smith spoke to Anna.")
    assert list(examples.gold) == [(1, 2), (0,)]
    assert len(examples) == 2
    repeated = examples.expanded()
    assert repeated.labels.tolist() == [1, 2, 0]
    assert repeated.names[0] == repeated.names[1]


def test_record_is_scored_by_the_best_gold_answer() -> None:
    task = tasks.lookup("record")
    examples = rows_of("record", [{**RECORD, "answers": ["Bob Smith"]}, {**RECORD, "answers": ["Anna"]}])
    padded = np.array([[0.0, 1.0, 2.0, 9.0], [3.0, 1.0, 2.0, 9.0]])  # the fourth column is padding
    # "Smith" against "Bob Smith": precision 1, recall 1/2; "Anna" is right
    expected = {"token_f1": pytest.approx((2 / 3 + 1) / 2), "exact_match": 0.5}
    assert task.score(padded, examples) == expected
    assert task.score_texts(["smith", "The Anna"], examples) == expected
    assert task.target_text(examples, 0) == "Bob Smith"
    assert task.source_text(examples, 0).startswith(
        "record query: @placeholder spoke to Anna. entities: Anna, Bob Smith, Smith passage: Anna met"
    )
    with pytest.raises(DataError, match="no entity that is among 'answers': rows 1"):
        rows_of("record", [{**RECORD, "answers": ["Zoe"]}])


# The sizes are those that the GLUE and BIPEFT papers print; QNLI, QQP and MNLI are here in part only.
@needs_data
@pytest.mark.parametrize(
    ("name", "protocol", "sizes"),
    [
        ("rte", "autopeft", (2490, 277, 277)),
        ("rte", "bipeft", (2490, 138, 139)),
        ("mrpc", "bipeft", (3668, 204, 204)),
        ("stsb", "bipeft", (5749, 750, 750)),
        ("cola", "bipeft", (8551, 521, 522)),
        ("sst2", "bipeft", (65349, 2000, 872)),
        ("mrpc", "autopeft-resplit", (3301, 367, 408)),
        ("cola", "holdout", (7696, 855, 1043)),
        ("superglue/cb", "autopeft-superglue", (225, 25, 56)),
        ("superglue/cb", "bipeft", (250, 28, 28)),
    ],
)
def test_sizes_of_the_papers(name: str, protocol: str, sizes: tuple[int, int, int]) -> None:
    splits = tasks.load(tasks.lookup(name), data=DATA, protocol=protocol)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == sizes


@needs_data
def test_majority_of_the_papers_data() -> None:
    splits = tasks.load(tasks.lookup("mrpc"), data=DATA)
    assert splits.describe()["train"]["majority"] == pytest.approx(0.674, abs=1e-3)
    assert tasks.lookup("mrpc").baseline(splits.test)["accuracy"] == pytest.approx(279 / 408)


@needs_data
def test_record_repeats_training_queries_and_never_scored_ones() -> None:
    task = tasks.lookup("superglue/record")
    splits = tasks.load(task, data=DATA, protocol="autopeft-superglue")
    assert (len(splits.validation), len(splits.test)) == (3, 32)  # 10 % of 32, by whole queries
    assert len(splits.train) >= 29
    assert len(set(splits.train.groups)) == 29
    # naming the gold entity everywhere is perfect
    scores = [np.eye(len(names))[right[0]] for names, right in zip(splits.test.names, splits.test.gold, strict=True)]
    assert task.score(scores, splits.test) == {"token_f1": 1.0, "exact_match": 1.0}


@needs_data
def test_all_files_can_be_read() -> None:
    for name in tasks.names():
        if (DATA / name).is_dir():
            source = _load.source(tasks.lookup(name), DATA)
            assert len(source.read("train")) > 0
