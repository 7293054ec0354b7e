"""Files that are there whole or not at all, in places that are free or hold an earlier result of ours.

Two owners: `whole` puts one file in its place in one move, and `check_folder` and `check_file` say before any work
whether a place may be written to. Nothing of this package replaces a file that it does not recognise as its own.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from autopeft.errors import AutopeftError, SettingsError, WriteError
from autopeft.reading import followed
from autopeft.recognising import (
    is_architecture,
    is_export,
    is_picture,
    is_predictions,
    is_report,
    is_retraining,
    is_saved_model,
    is_study,
    is_summary,
    read_mapping,
)

# -- one file, whole -------------------------------------------------------------------------------------------

_OLD_SECONDS = 24 * 3600
"""After which a part whose writer cannot be asked (another machine, a number used again) is taken for abandoned."""


@contextmanager
def write_whole(path: str | Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes the place of `path` in one move when the block ends.

    A reader, and whoever comes after a crash, finds the old file or the new one, never a part. When the block fails the
    old one stays. Folders are made, a link stays one and what it leads to is replaced, the mode is what the umask
    says. What a writer of the same file that was killed has left is removed.

    Raises:
        WriteError: the file or its folder cannot be written, for example because the disk is full.
    """
    # Resolved, or a link would be replaced by a file and what it led to would keep its old contents.
    target = followed(path)
    # A folder for the part, because libraries put temporary files of their own beside what they write.
    room = target.with_name(f".{target.name}.{_machine()}.{os.getpid()}.part")
    made = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        room.mkdir(exist_ok=True)
        part = room / target.name
        yield part
        # Temporary files of libraries are private to their maker; a folder that has just been made has what the umask
        # allows.
        part.chmod(room.stat().st_mode & 0o666)
        with part.open("rb") as written:
            # Before the move: some file systems write names before contents, and a power cut would leave an empty file.
            os.fsync(written.fileno())
        part.replace(target)
        _keep_names(target.parent)
    except AutopeftError:
        raise
    except Exception as error:
        # Named rather than imported: what is here needs no tensors.
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            reason = getattr(error, "strerror", None) or str(error)
            before = "what stood there before still stands" if target.exists() else "nothing has been left there"
            raise WriteError(f"{str(path)!r} cannot be written: {reason}; {before}.") from error
        raise
    finally:
        shutil.rmtree(room, ignore_errors=True)
        if not target.exists():
            _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Take away folders that were made for a file that could not be written; the innermost comes first."""
    for folder in folders:
        with suppress(OSError):  # somebody else has put something there meanwhile
            folder.rmdir()


def _machine() -> str:
    """This machine's name, as far as a file's name can hold it."""
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:40] or "here"


def _sweep(target: Path) -> None:
    """Remove the parts of `target` that writers left who are no more."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(?:(?P<machine>[A-Za-z0-9-]+)\.)?(?P<process>\d+)\.part")
    for path in target.parent.glob(".*.part"):
        found = pattern.fullmatch(path.name)
        if found is not None and _is_abandoned(path, found["machine"], int(found["process"])):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_abandoned(part: Path, machine: str | None, process: int) -> bool:
    try:
        is_old = time.time() - part.stat().st_mtime > _OLD_SECONDS
    except OSError:  # its writer has just finished
        return False
    return is_old or (machine == _machine() and process != os.getpid() and not _lives(process))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's, or no number of a process
        return True
    return True


def _keep_names(folder: Path) -> None:
    """Have the disk remember a folder's new names too. Some systems cannot open a folder, some disks not be asked."""
    with suppress(PermissionError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(opened)


# -- whose is what stands there ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """A kind of result of this package: what it is called, and how one that stands somewhere is recognised.

    Args:
        what: it is, for a message.
        is_one: whether a path that exists is one. It may raise OSError, ValueError and what wrong types raise.
        names: of a folder, the only files that it consists of; None where others may stand beside them.
        is_renewed: whether writing it again is no loss: a study goes on, a page is made anew from its study.
        is_kept: whether an earlier one is never replaced, whatever is asked for.
    """

    what: str
    is_one: Callable[[Path], bool]
    names: frozenset[str] | None = None
    is_renewed: bool = False
    is_kept: bool = False

    def stands_at(self, path: Path) -> bool:
        """Whether what is at `path` is such a result and nothing else."""
        try:
            if self.names is not None and {item.name for item in _items(path)} - self.names:
                return False
            return self.is_one(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False


SAVED_MODEL = Result(
    "a saved model", is_saved_model, frozenset(("architecture.json", "model.safetensors", "README.md"))
)
EXPORT = Result(
    "an exported adapter", is_export, frozenset(("adapter_config.json", "adapter_model.safetensors", "README.md"))
)
STUDY = Result("a study", is_study, is_renewed=True)
RETRAINING = Result("the results of a retraining", is_retraining)
PREDICTIONS = Result("predictions", is_predictions)
REPORT = Result("a report", is_report, is_renewed=True)
PICTURE = Result("a picture of a front", is_picture, is_renewed=True)
SUMMARY = Result("the results of an experiment", is_summary, is_renewed=True)
ARCHITECTURE = Result("an architecture", is_architecture)
FINALS = Result(
    "the finals of a search", lambda path: {"verdicts", "entries", "cost"} <= read_mapping(path).keys(), is_renewed=True
)

SCHEMA = Result(
    "the schema of a file of settings",
    lambda path: {"$defs", "properties"} <= read_mapping(path).keys(),
    is_renewed=True,
)

_KINDS = (SAVED_MODEL, EXPORT, STUDY, SUMMARY)
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_MODEL_FILES = (*_WEIGHTS, "tokenizer_config.json")

# -- where may be written ---------------------------------------------------------------------------------------

Inputs = Mapping[str, str | Path | None]
"""What is read meanwhile, by what a message calls it; None and names of the Hub are passed over."""


def check_folder(
    option: str, folder: Path | None, result: Result, inputs: Inputs | None = None, *, overwrite: bool = False
) -> None:
    """Make sure, before any work, that `folder` may be made, or filled where it is empty or holds such a result.

    Args:
        option: that asks for it, or what it is, for the message.
        folder: None for none.
        result: what is to be written.
        inputs: see `Inputs`. None of them may be the folder or lie in it, but for a result that goes on where it is.
        overwrite: whether an earlier result that is lost by it may be replaced.

    Raises:
        SettingsError: something else stands there, or nothing can be written there.
    """
    if folder is None:
        return
    check_place(option, folder, is_folder=True)
    folder = followed(folder) if not folder.exists() else folder
    is_ours = folder.exists() and result.stands_at(folder)
    if is_ours and result.is_renewed:
        return
    for name, given in (inputs or {}).items():
        if given is not None and _is_within(Path(given), folder):
            raise SettingsError(f"{option} {str(folder)!r} would write over {name}, {str(given)!r}: give a new folder.")
    check_outside_of_models(option, folder, inputs or {})
    if not folder.exists() or not _items(folder):
        return
    if not is_ours:
        raise SettingsError(
            f"{option} takes a new or empty folder, but {str(folder)!r} holds {_described(folder)}; nothing there is "
            "replaced."
        )
    if result.is_kept:
        raise SettingsError(
            f"{option} {str(folder)!r} holds {result.what} of an earlier run, which is never replaced: give a new "
            "folder."
        )
    if not overwrite:
        raise SettingsError(
            f"{option} {str(folder)!r} holds {result.what} of an earlier run: give a new folder, or --overwrite."
        )


def check_file(
    option: str, path: Path | None, result: Result, inputs: Inputs | None = None, *, overwrite: bool = False
) -> None:
    """Make sure, before any work, that the file `path` may be written: it is new, or such a result stands there.

    Args:
        option: and the others as for `check_folder`.

    Raises:
        SettingsError: something else stands there, it is read meanwhile, or nothing can be written there.
    """
    if path is None:
        return
    check_place(option, path, is_folder=False)
    path = followed(path) if not path.exists() else path
    for name, given in (inputs or {}).items():
        if given is not None and _is_same(Path(given), path):
            raise SettingsError(f"{option} {str(path)!r} would replace {name}: give another name.")
    if not path.exists():
        check_outside_of_models(option, path, inputs or {})
    if not path.exists() or path.stat().st_size == 0:
        return
    if not result.stands_at(path):
        raise SettingsError(
            f"{option} takes a new file, but {str(path)!r} exists and does not hold {result.what} that autopeft wrote; "
            "it is not replaced."
        )
    if not (overwrite or result.is_renewed):
        raise SettingsError(
            f"{option} {str(path)!r} holds {result.what} of an earlier run: give another name, or --overwrite."
        )


def check_outside_of_models(option: str, path: Path, inputs: Inputs) -> None:
    """Refuse a place inside of a model's folder, which is copied, compared and uploaded as a whole.

    A study that an earlier version made in such a place goes on there.

    Args:
        option: and the others as for `check_folder`.

    Raises:
        SettingsError: it is in one.
    """
    for name, given in inputs.items():
        if given is not None and _is_model(Path(given)) and followed(given) in followed(path).parents:
            raise SettingsError(
                f"{option} {str(path)!r} lies in the folder of {name}, {str(given)!r}, which holds that model alone: "
                "give a place outside of it."
            )
    for above in followed(path).parents:
        if STUDY.stands_at(above):
            return
        if what := _held_alone(above):
            raise SettingsError(
                f"{option} {str(path)!r} lies in {str(above)!r}, which holds {what} alone: give a place outside of it."
            )


def _held_alone(folder: Path) -> str | None:
    """What a folder holds beside which nothing else may stand; None for any other folder."""
    # Weights are asked for too: many a project has some `config.json` at its top.
    if _is_model(folder) and any((folder / weights).is_file() for weights in _WEIGHTS):
        return "a model"
    return next((result.what for result in (SAVED_MODEL, EXPORT) if result.stands_at(folder)), None)


def _is_model(folder: Path) -> bool:
    return folder.is_dir() and (folder / "config.json").is_file()


def check_place(option: str, path: Path, *, is_folder: bool) -> None:
    """Refuse a place of the other kind, and one that is protected.

    Raises:
        SettingsError: it is one of these.
    """
    # Resolved, for `nowhere/../model` is no path while there is no `nowhere`, and is one once its folder has been made.
    there = followed(path)
    if there.exists() and there.is_dir() != is_folder:
        wanted, got = ("folder", "no folder") if is_folder else ("file", "a folder")
        raise SettingsError(f"{option} takes a {wanted}, but {str(path)!r} is {got}.")
    if there.exists() and not os.access(there, os.W_OK):
        raise SettingsError(f"{option} takes what can be written, but {str(path)!r} is protected.")
    # The nearest folder that exists decides, since those below it are made only when something is written.
    above = there if is_folder else there.parent
    nearest = next(place for place in (above, *above.parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise SettingsError(f"Nothing can be written in {str(above)!r}: {str(nearest)!r} is no folder or is protected.")


def _items(folder: Path) -> list[Path]:
    """What stands in a folder, but for parts of files that were never finished."""
    return sorted(item for item in folder.iterdir() if not re.fullmatch(r"\..+\.\d+\.part", item.name))


def _is_same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        # By what the system says: two names may lead to one file, and letters' case means nothing on some disks.
        return one.samefile(other)
    return followed(one) == followed(other)


def _is_within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder`, or exists somewhere in it."""
    there = followed(path)
    if not path.exists():  # perhaps a name of the Hub
        return _is_same(path, folder)
    return any(_is_same(place, folder) for place in (there, *there.parents))


def _described(folder: Path) -> str:
    items = [item.name for item in _items(folder)]
    shown = ", ".join(items[:4]) + (f" and {len(items) - 4} more" if len(items) > 4 else "")
    if "config.json" in items and any(name in items for name in _MODEL_FILES):
        return f"a model ({shown})"
    ours = next((result.what for result in _KINDS if result.stands_at(folder)), None)
    return f"{ours} ({shown})" if ours else shown
