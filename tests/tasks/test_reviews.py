"""The film reviews: the archive of the tests is a small one made here; the real one is fetched by a slow test."""

import hashlib
import io
import logging
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from autopeft import tasks
from autopeft.caches import cache_folder
from autopeft.errors import DataError
from autopeft.tasks import reviews

CONTENT = "".join(
    f"{number}\t{rating}\tSentence {number} caf\u00e9.\r\n"
    for number, rating in enumerate([2.5, -1.0, 0.2, -0.24, 0.25, 0.0] * 20, start=1)
).encode()


def packed(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = packed(reviews._INNER, packed(reviews._MEMBER, CONTENT))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, the small archive's sums pinned, and no pip."""
    monkeypatch.setenv("AUTOPEFT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(reviews, "ARCHIVE_SHA256", hashlib.sha256(ARCHIVE).hexdigest())
    monkeypatch.setattr(reviews, "FILE_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(subprocess, "run", None)
    return tmp_path / "home"


def pip_that(monkeypatch: pytest.MonkeyPatch, content: bytes | None, said: str = "") -> list[list[str]]:
    """Stand in for pip: it leaves `content`, or fails and says something. The commands it got are returned."""
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if content is not None:
            folder = Path(command[command.index("--dest") + 1])
            (folder / reviews.ARCHIVE).write_bytes(content)
        return subprocess.CompletedProcess(command, 0 if content is not None else 1, "", said)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_it_is_fetched_once_and_then_cached(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pip_that(monkeypatch, ARCHIVE)
    first = tasks.load(tasks.lookup("reviews/movies"))
    second = tasks.load(tasks.lookup("movies"), seed=5)
    assert len(commands) == 1
    assert reviews.REQUIREMENT in commands[0]
    assert [item.name for item in (home / "reviews").iterdir()] == ["movieReviewSnippets_GroundTruth.txt"]
    assert list(first.train.texts) == list(second.train.texts)
    # of six sentences three are decided: 2.5 and 0.25 positive, -1 negative
    sizes = len(first.train) + len(first.validation) + len(first.test)
    assert sizes == 60
    labels = Counter([*first.train.labels.tolist(), *first.validation.labels.tolist(), *first.test.labels.tolist()])
    assert labels == {1: 40, 0: 20}
    assert all("café" in text for (text,) in first.train.texts)


def test_a_damaged_cache_is_fetched_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commands = pip_that(monkeypatch, ARCHIVE)
    (home / "reviews").mkdir(parents=True)
    (home / "reviews" / "movieReviewSnippets_GroundTruth.txt").write_bytes(CONTENT[:50])
    with caplog.at_level(logging.WARNING):
        assert len(reviews.fetch("train")) > 0
    assert "damaged" in caplog.text
    assert len(commands) == 1


@pytest.mark.parametrize(
    ("content", "phrase"),
    [(None, "no such index"), (ARCHIVE + b"x", "must have the SHA-256")],
)
def test_what_cannot_be_fetched_says_what_was_tried_and_what_to_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, phrase: str
) -> None:
    pip_that(monkeypatch, content, said="ERROR: no such index")
    with pytest.raises(DataError, match=phrase) as caught:
        tasks.load(tasks.lookup("reviews/movies"))
    assert "--data FOLDER" in str(caught.value)
    assert reviews.REQUIREMENT in str(caught.value)
    assert not (home / "reviews").exists()


def test_a_pip_that_hangs_or_is_missing_is_the_same_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 300)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match="timed out"):
        reviews.fetch("train")


def test_a_cache_that_cannot_be_written_does_no_harm(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_text("a file where the folder should be")
    pip_that(monkeypatch, ARCHIVE)
    assert len(reviews.fetch("train")) > 0


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPEFT_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("AUTOPEFT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/autopeft")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "autopeft"


def test_a_folder_of_ones_own_takes_its_place(home: Path, tmp_path: Path) -> None:
    for part in ("train", "validation", "test"):
        lines = ["text,label", *(f"{part} {n},{n % 2}" for n in range(10))]
        (tmp_path / f"{part}.csv").write_text("\n".join(lines))
    splits = tasks.load(tasks.lookup("reviews/movies"), data=tmp_path)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [10, 10, 10]


@pytest.mark.slow
def test_the_real_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs a package index. Sizes and balance as the docstring of the task states them."""
    monkeypatch.setenv("AUTOPEFT_HOME", str(tmp_path))
    splits = tasks.load(tasks.lookup("reviews/movies"))
    parts = (splits.train, splits.validation, splits.test)
    assert sum(len(part) for part in parts) == 10_375
    assert sum(int(part.labels.sum()) for part in parts) / 10_375 == pytest.approx(0.496, abs=5e-4)
    assert len({text for part in parts for text in part.texts}) >= 10_373
