"""Files that are there whole or not at all, in places that are free."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from autopeft.architecture import Architecture, Placement
from autopeft.errors import SettingsError, WriteError
from autopeft.writing import write_whole

# Processes and signals by the clock: where a busy machine makes a sound one fail, its second try is told as a rerun.
pytestmark = pytest.mark.flaky(reruns=1)


def test_a_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    for text in ("first", "second"):
        with write_whole(path) as part:
            part.write_text(text)
            assert path.exists() == (text == "second")
        assert path.read_text() == text
    assert [item.name for item in path.parent.iterdir()] == ["file.txt"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(WriteError, match="the disk is full; what stood there before still stands"):
        _write_half(path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file.txt"]


def _write_half(path: Path) -> None:
    with write_whole(path) as part:
        part.write_text("ne")
        raise OSError("the disk is full")


def in_a_process(text: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `text`."""
    command = [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


FULL = """
    import resource, sys
    import torch
    from pathlib import Path
    from safetensors.torch import save_file
    from autopeft.errors import WriteError
    from autopeft.writing import write_whole

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # no file may grow beyond that, as on a full disk
    for name, write in (
        ("page.html", lambda part: part.write_text("x" * 5000)),
        ("model.safetensors", lambda part: save_file({"a": torch.ones(5000)}, part)),
    ):
        try:
            with write_whole(Path(sys.argv[1]) / name) as part:
                write(part)
        except WriteError as error:
            print(error)
"""


@pytest.mark.slow
def test_a_full_disk_is_one_error_and_leaves_what_stood_there(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("old")
    out, err = in_a_process(FULL, tmp_path).communicate()
    lines = out.splitlines()
    assert len(lines) == 2, err
    assert "page.html' cannot be written: File too large; what stood there before still stands." in lines[0]
    assert "model.safetensors' cannot be written:" in lines[1]
    assert "nothing has been left there" in lines[1]
    assert [item.name for item in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "old"


def test_no_folder_is_left_for_a_file_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="nothing has been left there"):
        _write_half(tmp_path / "new" / "newer" / "file.txt")
    assert list(tmp_path.iterdir()) == []


SLOW = """
    import sys, time
    from autopeft.writing import write_whole

    with write_whole(sys.argv[1]) as part:
        part.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
"""


def test_what_a_killed_writer_left_goes_with_the_next_writer_and_a_living_one_s_stays(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    dead, living = in_a_process(SLOW, path), in_a_process(SLOW, path)
    try:
        for process in (dead, living):
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
        dead.kill()
        dead.wait()
        foreign = [tmp_path / ".found.json.part", tmp_path / ".other.json.1.part", tmp_path / ".found.json.x.part"]
        old = tmp_path / ".found.json.1.part"  # as earlier versions called it; its process lives on, as the first one
        new = tmp_path / ".found.json.2.part"  # perhaps of another machine that shares the folder
        for file in (*foreign, old, new):
            file.write_text("half")
        os.utime(old, (0, time.time() - 2 * 24 * 3600))
        assert len(list(tmp_path.glob(f".found.json.*.{dead.pid}.part"))) == 1
        with write_whole(path) as part:
            part.write_text("whole")
        mine = next(iter(tmp_path.glob(f".found.json.*.{living.pid}.part")))
        assert {item for item in tmp_path.iterdir()} == {path, new, mine, *foreign}
    finally:
        for process in (dead, living):
            process.send_signal(signal.SIGKILL)
            process.communicate()


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_modes_follow_the_umask_whoever_writes_the_part(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        with write_whole(tmp_path / "file") as part:
            part.write_text("x")
            part.chmod(0o600)  # as libraries do that write to temporary files
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    with write_whole(tmp_path / "link") as part:
        part.write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "x"


def test_an_architecture_replaces_an_architecture_alone(tmp_path: Path) -> None:
    architecture = Architecture((Placement("encoder.0.ffn", "serial", 3),))
    for _ in range(2):
        architecture.save(tmp_path / "own.json")
    (tmp_path / "config.json").write_text('{"hidden_size": 32}')
    with pytest.raises(SettingsError, match="does not hold an architecture"):
        architecture.save(tmp_path / "config.json")
    assert (tmp_path / "config.json").read_text() == '{"hidden_size": 32}'
