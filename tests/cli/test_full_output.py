"""An output that takes nothing more ends in a message or in silence, and never in a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """`line` in a shell, in which ``autopeft`` is this package."""
    asked = f'autopeft() {{ "{sys.executable}" -m autopeft "$@"; }}; {line}'
    return subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=120)


# `list` writes little, which is written when the program ends; the schema is longer than what is held back.
@pytest.mark.parametrize("command", ["list promotions", "schema", "--help"])
def test_a_full_disk_is_told_in_one_line(command: str) -> None:
    done = shell(f"autopeft {command} > /dev/full")
    assert (done.returncode, done.stderr) == (1, "failed: The output cannot be written: No space left on device.\n")


def test_who_reads_a_pipe_may_stop_reading() -> None:
    # `true` is gone long before anything is written.
    done = shell("autopeft schema | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (1, "")


def test_a_closed_output_is_none() -> None:
    done = shell("autopeft list promotions >&-")
    assert (done.returncode, done.stderr) == (0, "")
