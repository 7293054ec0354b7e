"""What `pip install autopeft` brings: a wheel, built from the tree and installed into an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "autopeft"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path) -> str:
    """What a command prints; it knows nothing of the tree and of the folder that the tests run in."""
    surrounding = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, capture_output=True, text=True, env=surrounding, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling, which scripts/install brings, builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, ROOT)
    (found,) = folder.glob("autopeft-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment with the wheel; what it needs is lent by this one."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Appended to the path and not processed, so this environment's own editable autopeft is not seen.
    (packages / "lent.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    return folder / "bin"


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    """Modules, py.typed and data files, such as the style of the report; and nothing but them and its metadata."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", PACKAGE],
        capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout.splitlines()  # fmt: skip
    wanted = {path.removeprefix("src/") for path in listed if (ROOT / path).exists()}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "autopeft/py.typed" in names
    assert wanted == {name for name in names if not name.split("/")[0].endswith(".dist-info")}


def test_the_installed_package_is_the_wheels(installed: Path) -> None:
    where = run(installed / "python", "-c", "import autopeft; print(autopeft.__file__)").strip()
    assert Path(where).is_relative_to(installed.parent)


def test_the_installed_command_line_answers(installed: Path) -> None:
    assert "search" in run(installed / "autopeft", "--help")
    listed = run(installed / "autopeft", "list")
    assert all(name in listed for name in ("serial", "bert", "reviews/movies", "saas-nehvi", "bipeft"))


def test_an_installed_page_can_be_written(installed: Path) -> None:
    """Data files are read where they were installed."""
    program = """
import pathlib, autopeft
found = [path for path in pathlib.Path(autopeft.__file__).parent.rglob("*") if path.suffix not in (".py", ".pyc", "")]
print(*sorted(path.name for path in found))
"""
    names = run(installed / "python", "-c", program).split()
    assert names == sorted(path.name for path in PACKAGE.rglob("*") if path.suffix not in (".py", ".pyc", ""))
    assert "py.typed" in names
