"""``reviews/movies``: real text for a first run on a machine that reaches a package index but not the Hub.

Sentences from film reviews with ratings by people, from the source distribution of the Python package
vaderSentiment 3.3.2 (MIT licence, C. J. Hutto): Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for
Sentiment Analysis of Social Media Text", ICWSM 2014; the sentences come from Rotten Tomatoes by way of Pang and
Lee (2004). Each of the 10,605 sentences has the mean of at least 20 ratings from -4 to 4. The class is the sign of
the mean; sentences with a mean closer to zero than `UNDECIDED` are left out. 10,375 remain, 49.6 % positive.

The archive is fetched once with pip, so pip's own settings (index, proxy, certificates) hold, and is checked
against a pinned SHA-256. Kept is the one file, in the cache folder.
"""

from __future__ import annotations

import hashlib
import io
import logging
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from autopeft.caches import cache_folder
from autopeft.errors import DataError
from autopeft.tasks._tables import Table
from autopeft.tasks._task import Task
from autopeft.writing import write_whole

logger = logging.getLogger(__name__)

UNDECIDED = 0.25
"""Mean ratings closer to zero than this say neither yes nor no; they are left out (230 of 10,605)."""

REQUIREMENT = "vaderSentiment==3.3.2"
ARCHIVE = "vaderSentiment-3.3.2.tar.gz"
ARCHIVE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
FILE_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"

_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_PATIENCE = 300  # seconds; the archive has 2.5 MB


def fetch(part: str) -> Table:
    """The rows of a part ("train", "validation" or "test"), fetched once and cached.

    A sentence belongs to a part by a hash of its number in the archive: about 80, 10 and 10 %, the same
    everywhere and for every seed.

    Raises:
        DataError: the archive cannot be fetched or is not the pinned one.
    """
    rows = [row for row in _rated(_cached()) if _part_of(str(row["id"])) == part]
    return Table(f"reviews/movies:{part}", ("id", "text", "label", "rating"), rows)


def _rated(content: bytes) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    # By the file's own line ends: `splitlines` would also cut at characters inside of sentences.
    for line in content.decode("utf-8").split("\r\n"):
        if not line:
            continue
        number, rating, text = line.split("\t")
        if abs(float(rating)) >= UNDECIDED:
            rows.append({"id": number, "text": text, "label": int(float(rating) > 0), "rating": float(rating)})
    return rows


def _part_of(number: str) -> str:
    # By a hash of the number and not by position, so that a part stays the same whichever sentences are left out.
    slot = int.from_bytes(hashlib.sha256(number.encode()).digest()[:4], "big") % 10
    return {0: "validation", 1: "test"}.get(slot, "train")


def _cached() -> bytes:
    path = cache_folder() / "reviews" / Path(_MEMBER).name
    if path.is_file():
        content = path.read_bytes()
        # A cache is written to by other programs and by full disks, so that it is believed only as far as it is
        # checked.
        if hashlib.sha256(content).hexdigest() == FILE_SHA256:
            return content
        logger.warning("%s is damaged and is fetched again.", path)
    content = extract(_downloaded())
    _keep(path, content)
    return content


def extract(archive: bytes) -> bytes:
    """The file of ratings in the source distribution. Read in memory: nothing of an archive is ever unpacked.

    Raises:
        DataError: the archive is not the pinned one.
    """
    _verify("source distribution", archive, ARCHIVE_SHA256)
    content = _member(_member(archive, _INNER), _MEMBER)
    _verify("file of ratings", content, FILE_SHA256)
    return content


def _verify(what: str, content: bytes, wanted: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise DataError(f"The {what} of {REQUIREMENT} must have the SHA-256 {wanted}, but has {found}. {_INSTEAD}")


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
        file = packed.extractfile(name)
        assert file is not None  # the hash says that it is a plain file
        return file.read()


_INSTEAD = (
    "Without it, pass --data FOLDER with train, validation and test files (.jsonl, .csv, ...) that have the columns "
    "text and label (0 or 1); or name a task of your own files."
)


def _downloaded() -> bytes:
    logger.info("Fetching %s once (2.5 MB) with pip, for its film reviews.", REQUIREMENT)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            # The source distribution alone holds the reviews, and nothing of it is ever built or run.
            *(sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"),
            *("--disable-pip-version-check", "--no-binary", "vaderSentiment", "--dest", folder, REQUIREMENT),
        ]
        shown = " ".join([*command[:-3], REQUIREMENT])
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"The film reviews could not be fetched by `{shown}`: {error}. {_INSTEAD}") from error
        path = Path(folder) / ARCHIVE
        if done.returncode or not path.is_file():
            said = " ".join(done.stderr.split())[-400:] or f"it left {[item.name for item in Path(folder).iterdir()]}"
            raise DataError(f"The film reviews could not be fetched by `{shown}`: {said} {_INSTEAD}")
        return path.read_bytes()


def _keep(path: Path, content: bytes) -> None:
    """Write `content` into the cache. One that cannot be written is none."""
    try:
        with write_whole(path) as part:
            part.write_bytes(content)
    except OSError as error:
        logger.warning("The film reviews could not be kept in %s: %s.", path, error)


MOVIES = Task(
    name="reviews/movies",
    kind="classification",
    inputs=("text",),
    label_names=("negative", "positive"),
    metrics=("accuracy",),
    parts=(("train", "train"), ("validation", "validation"), ("test", "test")),
    fetch=fetch,
    about="Sentiment of 10,375 film-review sentences rated by people; from vaderSentiment 3.3.2 (MIT).",
)

MEMBERS: Mapping[str, Task] = {MOVIES.name: MOVIES}
