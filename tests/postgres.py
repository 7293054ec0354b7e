"""A PostgreSQL server of the tests' own, where one is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy


def programs() -> Path | None:
    """The folder of `initdb`, which Debian does not put on the path."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    return max((path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")), default=None)


def reason_to_skip() -> str | None:
    """Why there is no server, or None when one can be started."""
    if find_spec("psycopg") is None:
        return "the extra `postgres` is not installed"
    return "PostgreSQL is not installed" if programs() is None else None


def call(*command: str) -> None:
    """Run a program of PostgreSQL, which refuses to be run by root."""
    folder = programs()
    assert folder is not None
    # Not by `runuser`: a path that was made for users has no programs of the administrator's.
    as_other: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    quiet = subprocess.DEVNULL  # the server would hold a pipe open
    subprocess.run([str(folder / command[0]), *command[1:]], check=True, stdout=quiet, stderr=quiet, **as_other)


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        url: without a database.
    """

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        call("pg_ctl", "-D", f"{self.folder}/data", "-w", "-o", options, "start")

    def stop(self) -> None:
        """As after a crash: nobody is waited for."""
        call("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", "immediate", "stop")

    def database(self) -> str:
        """The URL of a new database."""
        name = f"study_{uuid.uuid4().hex}"
        # The usual template cannot be copied while the server itself tidies it up.
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return f"{self.url}/{name}"

    def drop_connections(self) -> None:
        """End every connection but the one that asks for it."""
        self.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def require_password(self, role: str) -> None:
        """Let nobody in as this role without its password; everybody else is believed."""
        rules = self.folder / "data" / "pg_hba.conf"
        # The first line that fits decides.
        rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self.execute("SELECT pg_reload_conf()")

    def execute(self, statement: str) -> None:
        engine = sqlalchemy.create_engine(f"{self.url}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text(statement))
        engine.dispose()


@contextmanager
def running() -> Iterator[Server]:
    """A server, for as long as the block takes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # short: the path of a socket has at most 107 characters
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    server = Server(folder, port)
    try:
        call("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres")
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
