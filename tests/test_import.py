"""Importing the package, or asking for help, talks to nobody."""

from __future__ import annotations

import subprocess
import sys

import pytest

LISTEN = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
"""

EVERYTHING = """
import importlib, pkgutil, autopeft
names = [found.name for found in pkgutil.walk_packages(autopeft.__path__, "autopeft.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""


def heard(program: str) -> subprocess.CompletedProcess[str]:
    """`program` in a process that ends with the event's name as soon as a socket is used to reach somebody."""
    return subprocess.run([sys.executable, "-c", LISTEN + program], capture_output=True, text=True)


@pytest.mark.slow
def test_every_module_is_imported_without_a_network() -> None:
    """Every module, those of the command line and of every member of a kind with them."""
    found = heard(EVERYTHING)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 100


@pytest.mark.parametrize("arguments", [["--help"], ["list", "methods"]])
@pytest.mark.slow
def test_the_command_line_answers_without_a_network(arguments: list[str]) -> None:
    found = heard(f"sys.argv = ['autopeft', *{arguments}]\nfrom autopeft.__main__ import main\nmain()")
    assert found.returncode == 0, found.stderr


def test_the_listener_hears_a_connection() -> None:
    found = heard("import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=1)")
    assert found.returncode == 1
    assert found.stderr.startswith("socket.")
