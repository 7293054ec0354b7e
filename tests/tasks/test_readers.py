"""Readers of data files: whatever a file holds, it is read or refused by a typed error, at once."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import csv
import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pyarrow import parquet

from autopeft.errors import DataError, InputError, SettingsError
from autopeft.tasks import _bytes
from autopeft.tasks._bytes import check_encoding, text_of
from autopeft.tasks._files import from_files
from autopeft.tasks._tables import SUFFIXES, Table, files_of, read
from fuzzing import N_CASES, at_once

SEED = 12
"""Of the long run."""


def lines(n: int = 20, delimiter: str = ",", end: str = "") -> str:
    return f"text{delimiter}label{end}\n" + "".join(f"größe {i}{delimiter}{'ab'[i % 2]}{end}\n" for i in range(n))


def refused(path: Path, content: bytes | None = None, **wishes: Any) -> str:
    """The message of the refusal, which comes at once."""
    if content is not None:
        path.write_bytes(content)
    with at_once(), pytest.raises(DataError) as caught:
        from_files(path, text=["text"], **wishes)
    return str(caught.value)


# -- damaged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        pyarrow.array([b"fine", b"\xff\xfe broken"]).view(pyarrow.string()),
        pyarrow.array([0, 2**62], pyarrow.int64()).view(pyarrow.timestamp("ms")),
        pyarrow.array([0, 2**31 - 1], pyarrow.int32()).view(pyarrow.date32()),
    ],
    ids=["broken UTF-8", "a time out of range", "a date out of range"],
)
def test_parquet_that_python_cannot_hold_is_refused(tmp_path: Path, column: Any) -> None:
    parquet.write_table(pyarrow.table({"text": column, "label": ["a", "b"]}), tmp_path / "a.parquet")
    assert "a.parquet' cannot be read" in refused(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b"[" * 20_000 + b"]" * 20_000, "cannot be read: maximum recursion"),
        ("a.json", b'[{"text": ' + b"9" * 5000 + b', "label": 1}]', "cannot be read: Exceeds the limit"),
        ("a.csv", b"text,label\nx\0y,1\n", "is no text: line 2 holds a NUL"),
        ("a.tsv", b"\0", "holds a NUL"),
        ("a.csv", b'text,label\n"x,1\ny,2\n', "cannot be read as CSV: line 3: unexpected end of data"),
        ("a.csv", b'text,label\n"x"y,1\n', "cannot be read as CSV: line 2"),
        ("a.csv", b"text,label\nx,1,,2\n", "line 2 has 4 fields"),
        ("a.csv.xz", b"no xz", "cannot be read"),
        ("a.jsonl.bz2", b"no bz2", "cannot be read"),
        ("a.jsonl.zst", b"no zst", "cannot be read"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00", "cannot be read"),
    ],
)
def test_damaged_files_are_refused_at_once(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    assert expected in refused(tmp_path / name, content)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the address space is read from Linux's /proc")
@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst", ""])
def test_damaged_files_leave_nothing_reserved(tmp_path: Path, ending: str) -> None:
    def reserved() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    refused(tmp_path / f"a.jsonl{ending}", b"damaged")
    before = reserved()
    for _ in range(4):  # a process that reserves more than the machine has can start no other
        refused(tmp_path / f"a.jsonl{ending}", b"damaged")
    assert reserved() - before < 2**30


def test_a_file_of_several_parts_is_read_whole(tmp_path: Path) -> None:
    many = lines(200_000)
    assert len(many.encode()) > 2 * _bytes._AT_ONCE
    for ending, packed in ((".gz", gzip.compress(many.encode(), 1)), ("", many.encode())):
        path = tmp_path / f"a.csv{ending}"
        path.write_bytes(packed)
        assert text_of(path) == many


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    for name in ("a\0b.csv", "a" * 5000 + ".csv"):
        with pytest.raises(DataError, match="does not exist"):
            read(Path(name))


# -- what is not used may be odd -----------------------------------------------------------------------------


def test_only_columns_that_are_used_must_be_unique(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,,label,,x,x\n" + "".join(f"t{i},1,{'ab'[i % 2]},2,3,4\n" for i in range(20)))
    assert from_files(path, text=["text"])[0].label_names == ("a", "b")
    assert read(path).columns == ("text", "label")
    with pytest.raises(DataError, match="the column 'x' stands twice"):
        from_files(path, text=["x"])
    jsonl = tmp_path / "a.jsonl"
    jsonl.write_text("".join(f'{{"text": "t{i}", "x": 1, "x": 2, "label": {i % 2}}}\n' for i in range(20)))
    assert from_files(jsonl, text=["text"])[0].label_names == ("0", "1")
    with pytest.raises(DataError, match="the column 'x' stands twice"):
        from_files(jsonl, text=["text"], label="x")
    columns = [pyarrow.array(["a", "b"]), pyarrow.array(["c", "d"]), pyarrow.array(["e", "f"])]
    parquet.write_table(pyarrow.Table.from_arrays(columns, ["x", "text", "x"]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == Table(
        str(tmp_path / "a.parquet"), ("text",), [{"text": "c"}, {"text": "d"}], ("x",)
    )


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_delimiters_at_the_ends_of_lines_are_left_out(tmp_path: Path, delimiter: str) -> None:
    for text in (
        lines(delimiter=delimiter, end=delimiter * 2),
        lines(delimiter=delimiter).replace("\n", delimiter + "\n"),
    ):
        path = tmp_path / ("a.tsv" if delimiter == "\t" else "a.csv")
        path.write_text(text)
        assert read(path).columns == ("text", "label")
        assert from_files(path, text=["text"])[0].label_names == ("a", "b")
    path.write_text(
        f"text{delimiter}label\n" + "".join(f"t{i}{delimiter}{'ab'[i % 2]}{delimiter}\n" for i in range(20))
    )
    assert from_files(path, text=["text"])[0].label_names == ("a", "b")


# -- encodings and compression -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(lines().encode(encoding))
    assert read(path).rows[0] == {"text": "größe 0", "label": "a"}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_advised_rightly(tmp_path: Path, encoding: str) -> None:
    message = refused(tmp_path / "a.csv", lines().encode(encoding))
    assert f"give --encoding {encoding}" in message
    assert "latin" not in message
    assert from_files(tmp_path / "a.csv", text=["text"], encoding=encoding)[0].label_names == ("a", "b")
    marked = codecs.BOM_UTF16_LE + lines().encode("utf-16-le")
    (tmp_path / "b.csv").write_bytes(marked)
    assert read(tmp_path / "b.csv", encoding="utf-16-le").columns == ("text", "label")


WRONGLY_SAID = [
    ("utf-8", "utf-16", "is valid UTF-8 (21 lines, 40 characters beyond ASCII): leave the encoding out"),
    ("utf-8", "utf-32", "is valid UTF-8"),
    ("utf-8", "cp1252", "is valid UTF-8"),
    ("utf-8", "latin-1", "is valid UTF-8"),
    ("utf-8", "ascii", "is valid UTF-8"),
    ("utf-8-sig", "cp1252", "begins with the byte-order mark of UTF-8: leave"),
    ("utf-16", "utf-8", "begins with the byte-order mark of UTF-16: leave"),
    ("utf-16", "utf-16-be", "begins with the byte-order mark of UTF-16: leave"),
    ("utf-16-be", "utf-16-le", "looks like UTF-16-BE without a byte-order mark: give --encoding utf-16-be"),
    ("utf-16-le", "cp1252", "looks like UTF-16-LE without a byte-order mark: give --encoding utf-16-le"),
    ("utf-32", "utf-16", "begins with the byte-order mark of UTF-32: leave"),
]


@pytest.mark.parametrize(("real", "said", "expected"), WRONGLY_SAID)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_an_encoding_that_the_bytes_belie_is_refused(
    tmp_path: Path, name: str, real: str, said: str, expected: str
) -> None:
    rows = "".join(f'{{"text": "größe {i}", "label": "{i % 2}"}}\n' for i in range(21))
    text = {"a.csv": lines(), "a.tsv": lines(delimiter="\t"), "a.jsonl": rows}[name]
    message = refused(tmp_path / name, text.encode(real), encoding=said)
    assert f"is to be {said}, as was said, but" in message
    assert expected.replace("40", "42" if name == "a.jsonl" else "40") in message


@pytest.mark.parametrize("said", ["cp1252", "latin-1", "gb18030", "utf-7", "ascii", "utf-8-sig"])
def test_what_reads_alike_in_the_encoding_that_is_said_is_read(tmp_path: Path, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\nplain,a\nwords,b\n")
    assert read(tmp_path / "a.csv", encoding=said).rows[1] == {"text": "words", "label": "b"}


def test_letters_that_are_utf_8_by_chance_do_not_belie_an_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\nÃ¤,a\n".encode("cp1252"))
    assert read(tmp_path / "a.csv", encoding="cp1252").rows[0]["text"] == "Ã¤"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"text,label\n\n\n", "nothing stands below its headings ('text', 'label')"),
        (b"\n\n \n", "it is empty or blank"),
        (b"", "it is empty or blank"),
    ],
)
def test_a_file_without_rows_says_what_it_holds(tmp_path: Path, content: bytes, expected: str) -> None:
    assert f"holds no rows: {expected}" in refused(tmp_path / "a.csv", content)


@pytest.mark.parametrize(("real", "said"), [(",", ";"), (";", ","), ("\t", ","), ("|", "\t")])
def test_a_wrong_delimiter_is_told_by_the_right_one(tmp_path: Path, real: str, said: str) -> None:
    message = refused(tmp_path / "a.csv", lines(delimiter=real).encode(), delimiter=said)
    assert f"a single one with {real!r} in it: is that its delimiter?" in message


def test_an_encoding_that_is_said_is_used(tmp_path: Path) -> None:
    message = refused(tmp_path / "a.csv", lines().encode("cp1252"))
    assert "line 2 of" in message
    assert "--encoding cp1252" in message
    assert read(tmp_path / "a.csv", encoding="cp1252").rows[0]["text"] == "größe 0"
    (tmp_path / "b.csv").write_bytes(b"text,label\n\x81,1\n")
    with pytest.raises(DataError, match="is to be cp1252, as was said, but line 2"):
        read(tmp_path / "b.csv", encoding="cp1252")


@pytest.mark.parametrize("name", ["nosuch", "hex", "rot13", "idna", "punycode", "undefined", "a\0b", ""])
def test_what_is_no_encoding_of_files_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="ncoding"):
        check_encoding(name)


@pytest.mark.parametrize(
    ("name", "pack"), [("a.csv.bz2", bz2.compress), ("a.csv.xz", lzma.compress), ("a.csv.zst", None)]
)
def test_compressed_files_are_read(tmp_path: Path, name: str, pack: Any) -> None:
    if pack is None:
        with pyarrow.output_stream(str(tmp_path / name), compression="zstd") as stream:
            stream.write(lines().encode())
    else:
        (tmp_path / name).write_bytes(pack(lines().encode()))
    assert len(read(tmp_path / name)) == 20


# -- several files -------------------------------------------------------------------------------------------


def test_several_files_a_folder_and_a_pattern_are_one_part(tmp_path: Path) -> None:
    for number in range(3):
        rows = [json.dumps({"text": f"{number} {i}", "label": "ab"[i % 2]}) for i in range(10)]
        (tmp_path / f"part-{number}.ndjson").write_text("\n".join(rows))
    (tmp_path / "README.md").write_text("no data")
    for wanted in (tmp_path, str(tmp_path / "part-*.ndjson"), [tmp_path / f"part-{n}.ndjson" for n in range(3)]):
        _, load = from_files(wanted, text=["text"])
        splits = load()
        assert len(splits.train) + len(splits.validation) + len(splits.test) == 30
        assert "part-0.ndjson and 2 more" in splits.describe()["train"]["from"]
    (tmp_path / "part-1.ndjson").write_text('{"text": "x"}')
    with pytest.raises(DataError, match=r"part-1\.ndjson: there is no column 'label'"):
        from_files(tmp_path, text=["text"])


def test_a_folder_or_a_pattern_without_files_is_refused(tmp_path: Path) -> None:
    for wanted in (tmp_path, tmp_path / "*.csv"):
        with pytest.raises(DataError, match="holds no data file"):
            files_of(wanted)
    with pytest.raises(DataError, match="no file is named for the train part"):
        from_files([], text=["text"])


def test_a_file_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "one,a\ntwo,b\n" * 20)
    (tmp_path / "link.csv").symlink_to(path)
    for wanted in (
        [path, path],
        [path, tmp_path / "link.csv"],
        [tmp_path, path],
        [tmp_path / "x" / ".." / "a.csv", path],
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="is named twice in one part"):
            from_files(wanted, text=["text"])


# -- labels that look like slips -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([f"{n % 9},{n % 7}" for n in range(60)], "decimal comma"),
        (["yes", "no", "n/a"] * 10, "'n/a' (10) look like labels that are missing"),
        (["Yes", "yes", "no"] * 10, "differ in case or blanks only: 'Yes' (10), 'yes' (10)"),
        (["a  b", "a b", "no"] * 10, "differ in case or blanks only"),
        ([f"id{n}" for n in range(30)], "30 of 30 labels are different"),
        (["a", "text " * 50] * 15, "1 are longer than 200 letters"),
        (["a", "b"] * 15 + ["c"], "classes with one example: 'c' (1 in all)"),
        ([str(n % 30) for n in range(300)], "30 different whole numbers may be classes, or numbers"),
    ],
)
def test_slips_are_refused_until_a_kind_is_said(tmp_path: Path, labels: list[str], expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"t{n}", "label": label}) + "\n" for n, label in enumerate(labels)))
    message = refused(path)
    assert expected in message
    assert "--kind classification" in message
    task, _ = from_files(path, text=["text"], kind="classification")
    assert len(task.label_names) == len({" ".join([label]) for label in labels})


def test_what_was_decided_is_said_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    labels = ["a"] * 12 + ["b"] * 5 + ["c"] * 7
    path.write_text("".join(json.dumps({"text": f"t{n}", "label": label}) + "\n" for n, label in enumerate(labels)))
    _, load = from_files(path, text=["text"])
    assert load().describe()["decided"] == [
        "classification of 'label', since there are no 10 different numbers with a fraction: 3 classes, the rarest "
        "b (5), c (7), a (12)"
    ]
    path.write_text("".join(json.dumps({"text": f"t{n}", "label": n / 8}) + "\n" for n in range(24)))
    _, load = from_files(path, text=["text"])
    assert load.decided == ("regression of 'label', since 24 different numbers have a fraction: from 0 to 2.875",)
    assert "as was said" in from_files(path, text=["text"], kind="regression")[1].decided[0]


def test_a_column_of_parquet_that_is_not_used_refuses_nothing(tmp_path: Path) -> None:
    path, days = tmp_path / "a.parquet", pyarrow.array([2**40] * 20)
    table = pyarrow.table(
        {
            "text": [f"t{n}" for n in range(20)],
            "label": ["a", "b"] * 10,
            "when": days.cast(pyarrow.timestamp("s")),  # the year 36,812, which Python has no date for
        }
    )
    parquet.write_table(table, path)
    task, _ = from_files(path, text=["text"])
    assert task.label_names == ("a", "b")
    with pytest.raises(DataError, match="the column 'when': "):
        from_files(path, text=["text"], label="when")
    with pytest.raises(DataError, match=r"no column 'whem' .did you mean 'when'"):
        from_files(path, text=["text"], label="whem")


# -- anything at all -----------------------------------------------------------------------------------------

CELLS = st.sampled_from(
    ["text", "label", "a", "b", "1", "1.5", "3,7", "n/a", "", '"', "\0", "\r", "é", "\ufeff", "\ud800"]
)
MARKS = st.sampled_from([",", "\t", ";", "\n", "\r\n", '","', "[", "]", "{", "}", ":", "\\u", "null", "NaN", "1e999"])
TEXTS = st.lists(CELLS | MARKS | st.text(max_size=4), max_size=60).map("".join)
ENCODINGS = st.sampled_from(["utf-8", "utf-16", "utf-16-le", "utf-32", "latin-1"])
HEADS = st.sampled_from(["", "text,label\n", "text\tlabel\n", '{"text": "a", "label": 1}\n', "[{"])
CONTENTS = st.binary(max_size=200) | st.builds(
    lambda head, text, encoding: (head + text).encode(encoding, "replace"), HEADS, TEXTS, ENCODINGS
)
NAMES = st.sampled_from([suffix + end for suffix in SUFFIXES for end in ("", ".gz", ".bz2", ".xz", ".zst")])


def _is_read_or_refused(folder: Path, name: str, content: bytes, encoding: str | None) -> None:
    path = folder / f"any{name}"
    path.write_bytes(content)
    with at_once(), contextlib.suppress(InputError):
        task, load = from_files(path, text=["text"], encoding=encoding)
        assert task.label_names or task.kind == "regression"
        load()


ANY = given(name=NAMES, content=CONTENTS, encoding=st.none() | st.sampled_from(["utf-16", "cp1252", "hex", "utf-7"]))
FUNCTION_SCOPED = [HealthCheck.function_scoped_fixture]  # one folder for all cases, each overwrites the last


@settings(suppress_health_check=FUNCTION_SCOPED)
@ANY
def test_any_file_is_read_or_refused(tmp_path: Path, name: str, content: bytes, encoding: str | None) -> None:
    _is_read_or_refused(tmp_path, name, content, encoding)


@pytest.mark.fuzz
@pytest.mark.timeout(0)
def test_any_of_100_000_files_is_read_or_refused(tmp_path: Path) -> None:
    def one(name: str, content: bytes, encoding: str | None) -> None:
        _is_read_or_refused(tmp_path, name, content, encoding)

    seed(SEED)(settings(max_examples=N_CASES, database=None)(ANY(one)))()


@given(rows=st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.text("ab"))))
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "back.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    if rows:
        assert [(row["text"], row["label"]) for row in read(path).rows] == rows


def test_a_link_that_leads_to_itself_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").symlink_to("a.csv")
    (tmp_path / "b.csv").symlink_to("c.csv")
    (tmp_path / "c.csv").symlink_to("b.csv")
    for name in ("a.csv", "b.csv"):
        assert "does not exist" in refused(tmp_path / name)
