"""A user's own files: formats, decisions, and every mistake found before any training."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopeft.errors import DataError, SettingsError
from autopeft.tasks._files import from_files
from autopeft.tasks._tables import read

ROWS = [{"text": f"sentence {n}", "label": "good" if n % 3 else "bad"} for n in range(40)]


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write `rows` in the format that the name of `path` says."""
    import csv
    import io

    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
        return path
    if kind == "json":
        text = json.dumps(list(rows))
    elif kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "a.csv.gz", "a.jsonl.gz"])
def test_every_format_gives_the_same_examples(tmp_path: Path, name: str) -> None:
    awkward = [*ROWS, {"text": 'a "quoted", text\nover two lines; with ü', "label": "good"}]
    task, load = from_files(write(tmp_path / name, awkward), text=["text"])
    splits = load()
    assert (task.kind, task.label_names, task.name) == ("classification", ("bad", "good"), "files/a")
    together = [*splits.train.texts, *splits.validation.texts, *splits.test.texts]
    assert sorted(together) == sorted((row["text"],) for row in awkward)
    assert len(splits.validation) == len(splits.test) == 4  # a tenth of 41


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_guessed(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["text{d}label", *(f"word {n}{{d}}{n % 2}" for n in range(20))]).format(d=delimiter))
    task, load = from_files(path, text=["text"])
    assert task.label_names == ("0", "1")
    assert load().train.texts[0][0].startswith("word")


@pytest.mark.parametrize("said", ["tab", "\\t", "\t"])
def test_a_tab_may_be_said_in_three_ways(tmp_path: Path, said: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text("text\tlabel\n" + "".join(f"a, b, c {n}\t{n % 2}\n" for n in range(30)))
    assert from_files(path, text=["text"], delimiter=said)[0].label_names == ("0", "1")
    for wrong in ("||", "", '"', "\n"):
        with pytest.raises(SettingsError, match="A delimiter is one character"):
            from_files(path, text=["text"], delimiter=wrong)


BEYOND: dict[str, tuple[str, dict[str, Any], str]] = {
    "half a character": (
        r'{"text": "good \ud83d %d", "label": %d}',
        {},
        "30 texts of 'text' hold half a character: rows 1,",
    ),
    "no float": (
        '{"text": "g %d", "label": 1' + "0" * 400 + "%d}",
        {},
        "30 labels are too large for a number: rows 1,",
    ),
    "no float to predict": (
        '{"text": "g %d", "label": 1' + "0" * 400 + "%d}",
        {"kind": "regression"},
        "not a finite number",
    ),
    "digits": ('{"text": "g %d", "label": "' + "9" * 5000 + '%d"}', {}, "30 labels are too large"),
    "a choice": (
        '{"text": "g %d", "a": "x", "b": "y", "label": "' + "9" * 5000 + '%d"}',
        {"choices": ["a", "b"]},
        "0 to 1",
    ),
    "a wide range": ('{"text": "g %d", "label": 1.%de308}', {"kind": "regression"}, "the range of 'label'"),
    "nested": ("[" * 100_000 + "%d%d", {}, "is not JSON lines: line 1: maximum recursion"),
}


@pytest.mark.parametrize("what", BEYOND)
def test_what_cannot_be_held_is_refused(tmp_path: Path, what: str) -> None:
    line, wishes, expected = BEYOND[what]
    lines = [line % (number, number % 2) for number in range(30)]
    if what == "a wide range":
        lines = [line.replace('label": 1', 'label": -1') if n % 2 else line for n, line in enumerate(lines)]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=expected):
        from_files(tmp_path / "own.jsonl", text=["text"], **wishes)


def test_an_array_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="cannot be read: maximum recursion"):
        from_files(tmp_path / "own.json", text=["text"])


def test_a_tab_separated_file_may_hold_lone_quotes(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + "".join(f'"unclosed {n}\t{n % 2}\n' for n in range(20)))
    _, load = from_files(path, text=["text"])
    assert all(text.startswith('"unclosed') for (text,) in load().train.texts)


def test_given_parts_are_used_as_they_are(tmp_path: Path) -> None:
    paths = [write_jsonl(tmp_path / f"{part}.jsonl", ROWS[:size]) for part, size in (("a", 40), ("b", 9), ("c", 7))]
    _, load = from_files(paths[0], paths[1], paths[2], text=["text"])
    splits = load(seed=3)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 9, 7)
    facts = splits.describe()
    assert facts["validation"]["from"] == str(paths[1])
    assert facts["validation"]["classes"] == {"good": 6, "bad": 3}
    assert facts["validation"]["inputs_also_in_train"] == 9
    assert facts["test"] == {"from": str(paths[2])}


def test_whole_numbers_are_classes_in_order_of_number(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": (1, 2, 10)[n % 3]} for n in range(30)]
    task, load = from_files(write_jsonl(tmp_path / "a.jsonl", rows), text=["text"])
    assert task.label_names == ("1", "2", "10")
    train = load().train
    by_text = {row["text"]: (1, 2, 10).index(int(row["label"])) for row in rows}
    assert train.labels.tolist() == [by_text[text] for (text,) in train.texts]


def test_many_fractional_labels_are_a_regression_and_few_are_classes(tmp_path: Path) -> None:
    many = [{"text": f"t{n}", "label": n / 7} for n in range(30)]
    task, load = from_files(write_jsonl(tmp_path / "many.jsonl", many), text=["text"])
    assert (task.kind, task.metrics) == ("regression", ("spearman", "pearson", "mae", "rmse"))
    assert load().train.labels.dtype == np.float64
    assert "regression" in load.decided[0]
    few = [{"text": f"t{n}", "label": (0.5, 1.5)[n % 2]} for n in range(30)]
    task, _ = from_files(write_jsonl(tmp_path / "few.jsonl", few), text=["text"])
    assert task.label_names == ("0.5", "1.5")


def test_a_few_texts_among_numbers_are_slips_and_no_classes(tmp_path: Path) -> None:
    def written(n_slips: int) -> Path:
        rows = ["text,label", *(f"t{n},{'n/a' if n < n_slips else n / 7}" for n in range(40))]
        path = tmp_path / f"{n_slips}.csv"
        path.write_text("\n".join(rows) + "\n")
        return path

    with pytest.raises(DataError, match=r"'label' holds numbers, but 'n/a' \(row 1\), .* in 3 of 40 rows: mend them"):
        from_files(written(3), text=["text"])
    with pytest.raises(DataError, match=r"'n/a' \(5\) look like labels that are missing"):  # more than a tenth
        from_files(written(5), text=["text"])
    assert from_files(written(3), text=["text"], kind="classification")[0].kind == "classification"


def test_two_text_columns_and_none_as_a_class(tmp_path: Path) -> None:
    rows = [{"a": f"x{n}", "b": f"y{n}", "stance": ("for", "against", "none")[n % 3]} for n in range(30)]
    task, load = from_files(write_jsonl(tmp_path / "a.jsonl", rows), text=["b", "a"], label="stance")
    assert task.label_names == ("against", "for", "none")
    first, second = load().train.texts[0]
    assert (first[0], second[0]) == ("y", "x")


def test_multiple_choice_by_number_or_by_column(tmp_path: Path) -> None:
    rows = [{"q": f"q{n}", "one": "yes", "two": "no", "label": ("two", 0)[n % 2]} for n in range(20)]
    by_name = [{**row, "label": "two" if row["label"] == "two" else "one"} for row in rows]
    task, load = from_files(write_jsonl(tmp_path / "a.jsonl", by_name), text=["q"], choices=["one", "two"])
    assert (task.kind, task.outputs, task.label_names) == ("multiple_choice", 1, ("one", "two"))
    train = load().train
    assert list(train.choices[0]) == [(train.choices[0][0][0], "yes"), (train.choices[0][0][0], "no")]
    assert set(train.labels.tolist()) == {0, 1}
    scores = [[0.0, 1.0]] * len(train)
    assert task.score(scores, train) == {"accuracy": pytest.approx(train.labels.mean())}


def expect(tmp_path: Path, rows: Sequence[Mapping[str, Any]], *phrases: str, **more: Any) -> None:
    """`from_files` refuses `rows` with a message that holds all `phrases`."""
    arguments: dict[str, Any] = {"text": ["text"], **more}
    with pytest.raises(DataError) as caught:
        from_files(write_jsonl(tmp_path / "bad.jsonl", rows), **arguments)
    for phrase in phrases:
        assert phrase in str(caught.value)


def test_a_missing_column_names_the_nearest_and_lists_all(tmp_path: Path) -> None:
    expect(tmp_path, ROWS, "no column 'txt' (did you mean 'text'?)", "columns are text, label", text=["txt"])


def test_several_mistakes_are_listed_together(tmp_path: Path) -> None:
    rows = [
        {"text": "fine", "label": "a"},
        {"text": "", "label": "b"},
        {"text": 12, "label": None},
        {"text": "fine", "label": float("nan")},
        {"text": "fine", "label": 3},
    ]
    expect(
        tmp_path,
        rows,
        "2 labels are missing: rows 3, 4",
        "mixes types: 2 texts, 1 numbers",
        "1 texts of 'text' are empty: rows 2",
        "1 values of 'text' are not text: rows 3 (int)",
    )


def test_fewer_than_two_classes(tmp_path: Path) -> None:
    expect(tmp_path, [{"text": "x", "label": "only"}] * 5, "two classes at least", "['only']")


def test_an_identifier_is_no_class(tmp_path: Path) -> None:
    expect(tmp_path, [{"text": "x", "label": f"id{n}"} for n in range(300)], "300 distinct values", "right column")


def test_a_label_only_in_validation(tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "validation.jsonl", [*ROWS[:5], {"text": "x", "label": "ugly"}])
    expect(tmp_path, ROWS, "'ugly' (1 rows)", "train has bad, good", validation=other)


def test_text_as_regression_label(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": "1.5"}, {"text": "y", "label": "warm"}]
    expect(tmp_path, rows, "row 2: 'warm'", "finite number", kind="regression")


def test_choices_out_of_range(tmp_path: Path) -> None:
    rows = [{"text": "x", "c0": "a", "c1": "b", "label": 2}] * 3
    expect(tmp_path, rows, "3 values of 'label' are not 0 to 1", choices=["c0", "c1"])


def test_wishes_that_contradict_each_other_are_listed_together(tmp_path: Path) -> None:
    expect(
        tmp_path, ROWS, "one or two text columns", "may be used once", "got 'ranking'", "got 1.5",
        "finite numbers above 0, but got {'a': -1}",
        text=["text", "label", "text"], kind="ranking", threshold=1.5, class_weights={"a": -1},
    )  # fmt: skip


def test_missing_files_are_listed_together_with_what_there_is(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "real.jsonl", ROWS)
    with pytest.raises(DataError) as caught:
        from_files(tmp_path / "no.jsonl", tmp_path / "folder" / "no.csv", text=["text"])
    assert "no.jsonl' does not exist; its folder holds real.jsonl" in str(caught.value)
    assert "there is no folder" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "phrase"),
    [
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": \n', "line 2:"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n[1]\n', "line 2: an object"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.csv", b"text,label\nx,1\ny,1,2\n", "line 3 has 3 fields"),
        ("a.csv", b"text,text\nx,1\n", "the column 'text' stands twice"),
        ("a.csv", b"text,label\nx,1\n\xff\xfe,2\n", "line 3 of"),
        ("a.jsonl.gz", b"this is no gzip", "cannot be read"),
        ("a.parquet", b"this is no parquet", "Parquet"),
        ("a.xlsx", b"PK", "ends in one of"),
        ("a.json", b'[{"text": "x"}, 3]', "entries [2]"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, phrase: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        from_files(tmp_path / name, text=["text"])
    assert phrase in str(caught.value)


def test_a_byte_order_mark_and_unusual_line_separators_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": f"one\u2028line {n}", "label": n % 2}, ensure_ascii=False) for n in range(20)]
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    _, load = from_files(path, text=["text"])
    assert all("\u2028" in text for (text,) in load().train.texts)


def test_only_the_holdout_protocol_is_allowed(tmp_path: Path) -> None:
    _, load = from_files(write_jsonl(tmp_path / "a.jsonl", ROWS), text=["text"])
    with pytest.raises(SettingsError, match="holdout"):
        load(protocol="autopeft")


def test_a_quotation_mark_in_a_tab_separated_file_swallows_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    texts = ['"Great fun', "Dull", "a mess", 'loved it"', '"said ""so"" twice"', *(f"t{n}" for n in range(15))]
    path.write_text("label\ttext\n" + "".join(f"{n % 2}\t{text}\n" for n, text in enumerate(texts)))
    found = [row["text"] for row in read(path).rows]
    assert found[:5] == ['"Great fun', "Dull", "a mess", 'loved it"', 'said "so" twice']
    assert len(found) == 20


def test_long_cells_and_blank_first_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n\ntext,label\n" + "".join(f"{'word ' * 30_000}{n},{n % 2}\n" for n in range(2)))
    assert [len(row["text"]) > 150_000 for row in read(path).rows] == [True, True]


def test_whole_numbers_written_with_a_point_are_the_same_classes(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": ("0", "1", "0.0", "1.00")[n % 4]} for n in range(24)]
    task, _ = from_files(write(tmp_path / "a.csv", rows), text=["text"])
    assert task.label_names == ("0", "1")
    other = write(tmp_path / "b.csv", [{"text": "x", "label": "1.0"}, {"text": "y", "label": "0.0"}])
    _, load = from_files(tmp_path / "a.csv", other, text=["text"])
    assert load().validation.labels.tolist() == [1, 0]


def test_classes_that_are_one_number_have_a_fixed_order(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": ("01", "1", "2", "0", "-0")[n % 5]} for n in range(25)]
    task, _ = from_files(write(tmp_path / "a.csv", rows), text=["text"])
    assert task.label_names == ("-0", "0", "01", "1", "2")


def test_labels_that_are_lists_are_no_classes(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": ["x", "y"][: 1 + n % 2]} for n in range(20)]
    expect(tmp_path, rows, "20 labels are lists", kind="classification")
    expect(tmp_path, rows, "row 1: ['x']", "finite number", kind="regression")


@pytest.mark.parametrize(
    ("labels", "metrics", "message"),
    [
        ([n / 7 for n in range(30)], ["accuracy"], "['accuracy'] do not fit a regression"),
        (["a", "b"] * 15, ["token_f1", "group_exact_match"], "do not fit a classification of 2 classes"),
        (
            ["a", "b", "c"] * 10,
            ["f1"],
            "['f1'] do not fit a classification of 3 classes: accuracy, macro_f1, matthews do",
        ),
        (["a", "b"] * 15, ["speed"], "no metrics ['speed']; those that fit a classification of 2 classes are accuracy"),
        ([["a"], ["b", "c"]] * 15, ["accuracy"], "do not fit a choice of any of 3 labels: micro_f1, macro_f1"),
    ],
)
def test_metrics_that_do_not_fit_are_refused(
    tmp_path: Path, labels: list[Any], metrics: list[str], message: str
) -> None:
    rows = [{"text": f"t{n}", "label": label} for n, label in enumerate(labels)]
    expect(tmp_path, rows, message, metrics=metrics)


def test_two_classes_may_be_scored_by_f1(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(20)]
    task, _ = from_files(write_jsonl(tmp_path / "a.jsonl", rows), text=["text"], metrics=["f1", "matthews"])
    assert task.objective == "f1"
    assert task.metrics == ("f1", "matthews", "accuracy", "macro_f1")  # what one usually looks at is told too


def test_other_names_of_metrics_and_errors_as_objectives(tmp_path: Path) -> None:
    classes = write_jsonl(tmp_path / "a.jsonl", [{"text": f"t{n}", "label": "abc"[n % 3]} for n in range(30)])
    assert from_files(classes, text=["text"], metrics=["mcc"])[0].objective == "matthews"
    numbers = write_jsonl(tmp_path / "b.jsonl", [{"text": f"t{n}", "label": n / 7} for n in range(30)])
    task, _ = from_files(numbers, text=["text"], metrics=["mae"])
    assert task.metrics == ("neg_mae", "mae", "spearman", "pearson", "rmse")  # a search maximises
    assert from_files(numbers, text=["text"], metrics=["pearson", "mae"])[0].metrics[:2] == ("pearson", "mae")


def test_numbers_are_said_on_the_scale_of_the_labels(tmp_path: Path) -> None:
    small = [{"text": f"t{n}", "label": n / 1000} for n in range(80)]  # 0 to 0.079
    task, load = from_files(write_jsonl(tmp_path / "small.jsonl", small), text=["text"])
    train = load().train
    said = {task.target_text(train, index) for index in range(len(train))}
    assert task.step == pytest.approx(0.002)
    assert len(said) > 30
    assert all(abs(float(task.target_text(train, i)) - label) <= 0.001 + 1e-9 for i, label in enumerate(train.labels))
    low = [{"text": f"t{n}", "label": -100.5 - n} for n in range(30)]
    task, load = from_files(write_jsonl(tmp_path / "low.jsonl", low), text=["text"])
    assert task.unparsable < -130
    assert float(task.target_text(load().train, 0)) == pytest.approx(load().train.labels[0], abs=0.5)
