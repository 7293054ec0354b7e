"""Which file or server a storage names, and whether a study may lie there.

A path means a SQLite file; so does a URL of the form ``sqlite:///path``. SQLite coordinates processes through file
locks, which network file systems do not keep, so such places are refused. Several machines share a study through a
database server, ``postgresql+psycopg://user:password@host/name``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import psutil

from autopeft.errors import StorageError
from autopeft.masking import masked, parts_of

OWN_STUDY = "search"
"""The name of the study in a file of its own, inside of its folder."""

_NETWORK = frozenset(
    "nfs nfs3 nfs4 cifs smb smb2 smb3 smbfs afs ncpfs afpfs webdav davfs davfs2 ceph ceph-fuse lustre gpfs beegfs "
    "glusterfs orangefs pvfs2 sshfs s3fs rclone gcsfuse goofys".split()
)


def sqlite_path(storage: str | Path) -> Path | None:
    """The file that `storage` names, or None when it is the URL of a database server.

    Raises:
        StorageError: a URL that cannot be read, or SQLite in memory, which no second process could see.
    """
    _check_text(str(storage))
    if isinstance(storage, Path) or "://" not in storage:
        return Path(storage)
    if not re.match(r"sqlite[+:]", storage):
        server_url(storage)
        return None
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError

    try:
        url = sqlalchemy.make_url(storage)
    except (ArgumentError, ValueError):
        raise StorageError(_unreadable(storage, "SQLite's form is sqlite:///path")) from None
    if not url.database or url.database == ":memory:":
        raise StorageError(f"A study in memory cannot be resumed: give a path instead of {storage!r}.")
    if "\0" in url.database:  # the URL spells it %00, which only reading it turns into one
        raise StorageError(_unreadable(storage, "its path holds a NUL"))
    return Path(url.database)


def server_url(storage: str) -> str:
    """The URL of a database server with what is special in user and password percent-encoded.

    Raises:
        StorageError: it cannot be read; no word of the password is repeated. Or there is no such database.
    """
    # Not at the top: a path, which most storages are, is read without it.
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    parts = parts_of(storage)
    port = re.search(r":([^:/\]]*)(?:/|$)", parts.place)
    if port is not None and port[1] and not (port[1].isdecimal() and int(port[1]) < 65536):
        raise StorageError(_unreadable(storage, "the port must be a number below 65536"))
    try:
        url = sqlalchemy.make_url(parts.normalised())
        url.get_dialect()
    except (NoSuchModuleError, ImportError) as error:
        raise StorageError(driver_message(storage, masked(storage), error)) from error
    except (ArgumentError, ValueError, TypeError, AttributeError):
        # What these say may hold a piece of the password: without a cause.
        raise StorageError(_unreadable(storage, "it has another form")) from None
    return parts.normalised()


def _check_text(storage: str) -> None:
    """Refuse what cannot be a path or a URL, before anything is made.

    Raises:
        StorageError: it holds a NUL, a URL holds control characters or bytes that are no text, or it is a connection
            string, which would be taken for the name of a file.
    """
    if "\0" in storage:
        raise StorageError(_unreadable(storage, "it holds a NUL"))
    if "://" in storage:
        if not storage.isprintable():
            raise StorageError(_unreadable(storage, "it holds a control character or bytes that are no text"))
    elif masked(storage) != storage or re.match(r"(postgres|mysql|mariadb|sqlite)\S*:", storage):
        raise StorageError(_unreadable(storage, "a connection string has another form"))


def _unreadable(storage: str, why: str) -> str:
    shown = repr(masked(storage)) if "://" in storage else "what was given"
    return f"A storage is a path or a URL (scheme://user:password@host/name), but {shown} cannot be read: {why}."


def mounts() -> tuple[tuple[str, str], ...]:
    """The mount table: pairs of mount point and file system type, later mounts last."""
    return tuple((item.mountpoint, item.fstype) for item in psutil.disk_partitions(all=True))


def file_system_of(path: Path, table: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Mount point and type of the file system that holds `path`, or two empty strings when none does.

    Args:
        path: absolute and resolved; it need not exist.
        table: pairs of mount point and type; of two at the same place the later one covers the earlier.
    """
    found = ("", "")
    for point, kind in table:
        # The longest mount point holds the path, and of two equal ones the later covers the earlier.
        if path.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found


def check_is_local(path: Path, table: Iterable[tuple[str, str]]) -> None:
    """Refuse a SQLite file on a network file system.

    Raises:
        StorageError: `path` lies on one; the message names it and the ways out.
    """
    point, kind = file_system_of(path, table)
    # File systems in user space give themselves this prefix, whichever protocol they speak.
    if kind.lower().removeprefix("fuse.") in _NETWORK:
        raise StorageError(
            f"A SQLite file must lie on a local disk, because network file systems do not keep its locks, but {path} "
            f"is on {point}, which is {kind}. Give a path on a local disk, or share the study through a database: "
            f"postgresql+psycopg://user:password@host/name."
        )


def driver_message(url: str, label: str, error: Exception) -> str:
    """What to say where the driver of a database is missing, and how to come by it."""
    if url.startswith("postgres"):
        way = "Install it with: pip install 'autopeft[postgres]', and write the URL as postgresql+psycopg://..."
    else:
        way = "Install the driver that the URL names; SQLAlchemy's documentation lists them by database."
    return f"The database driver for {label} is missing ({' '.join(str(error).split()).rstrip('.')}). {way}"
