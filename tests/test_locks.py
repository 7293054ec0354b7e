"""The lock files: what README's commands install is what pyproject.toml asks for, to the hash, without PyTorch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ALL = ("dev", "saas", "postgres", "docs", "notebooks", "slurm", "text")
EXTRAS = {"run": (), "dev": ALL, "oldest": ALL}
# What other packages of the ranges need later than we do.
ABOVE = {"safetensors>=0.5 is locked at 0.8.0"}  # transformers
HASHES = r"(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
ENTRY = re.compile(r"^([A-Za-z0-9_.-]+)==([^ ;]+)( ; [^\\]+?)? \\\n(" + HASHES + ")", re.M)


def locked(name: str) -> dict[str, set[str]]:
    """The versions that a lock file has of every package: more than one where the version of Python decides."""
    found: dict[str, set[str]] = {}
    for package, version, _, _ in ENTRY.findall((ROOT / "requirements" / f"{name}.txt").read_text()):
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


def wanted(name: str) -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS[name] for line in extras[extra])]
    return [found for found in map(Requirement, lines) if found.name != "torch"]


@pytest.mark.parametrize("name", EXTRAS)
def test_a_lock_has_what_the_project_asks_for(name: str) -> None:
    found = locked(name)
    for asked in wanted(name):
        versions = found.get(canonicalize_name(asked.name), set())
        assert versions, f"{asked.name} is not in requirements/{name}.txt: run scripts/lock."
        wrong = [version for version in versions if not asked.specifier.contains(version, prereleases=True)]
        assert not wrong, f"requirements/{name}.txt has {asked.name} {wrong}, but the project asks for {asked}."


def test_the_oldest_lock_is_at_the_lower_end_of_what_is_declared() -> None:
    """Other packages may need a later version than ours; a lock that nobody made anew is behind in many."""
    found, above = locked("oldest"), []
    for asked in wanted("oldest"):
        lowest = [Version(one.version) for one in asked.specifier if one.operator == ">="]
        versions = found[canonicalize_name(asked.name)]
        if lowest and min(map(Version, versions)).release[:2] != (*lowest[0].release, 0)[:2]:
            above.append(f"{asked} is locked at {min(versions)}")
    assert set(above) <= ABOVE, "Run scripts/lock; where another package needs more, say so in ABOVE."


@pytest.mark.parametrize("name", [*EXTRAS, "weights"])
def test_every_line_of_a_lock_is_an_entry_with_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert not ENTRY.sub("", text).strip()
    assert ENTRY.findall(text)
    assert "http" + "s://" not in text


@pytest.mark.parametrize("name", EXTRAS)
def test_pytorch_is_installed_apart(name: str) -> None:
    assert not [package for package in locked(name) if re.fullmatch(r"torch|triton|nvidia-.*|cuda-.*", package)]


def test_the_bill_of_materials_is_that_of_the_locks() -> None:
    path = ROOT / "requirements" / "bill-of-materials.json"
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bill_of_materials.py"], check=True, capture_output=True, text=True
    ).stdout
    assert path.read_text() == made, "Run scripts/lock, or scripts/bill_of_materials.py."


def test_the_bill_of_materials_names_every_locked_package_with_its_hashes() -> None:
    bill = json.loads((ROOT / "requirements" / "bill-of-materials.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    billed = {
        (part["name"], part["version"]): {one["content"] for one in part.get("hashes", [])}
        for part in bill["components"]
    }
    installed = {
        (package, version): set(re.findall("sha256:([0-9a-f]{64})", hashes))
        for name in ("run", "weights")
        for package, version, _, hashes in ENTRY.findall((ROOT / "requirements" / f"{name}.txt").read_text())
    }
    (torch,) = [key for key in billed if key[0] == "torch"]
    assert billed.pop(torch) == set()
    assert f"torch==${{TORCH_VERSION:-{torch[1]}}}" in (ROOT / "scripts" / "install").read_text()
    assert billed == installed
    assert all(installed.values())
