"""A side of a comparison as a process of its own: where its model and data lie, and the JSON that it ends with."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def model_folder(model: str) -> Path:
    """The folder of a model, which may be the name of one that comes as a package."""
    from autopeft.backbones import PACKAGED

    if model not in PACKAGED:
        return Path(model)
    package = __import__(PACKAGED[model])
    return Path(package.__file__).parent / "model"


def mrpc_folder(data: Path) -> Path:
    """Where MRPC lies below `data`, or `data` itself."""
    return next(folder for folder in (data / "glue" / "mrpc", data / "mrpc", data) if folder.is_dir())


def run(name: str, words: Sequence[Any], threads: int, *, is_elsewhere: bool = False) -> dict[str, Any]:
    """Run a side to its end; its last line is JSON.

    Args:
        is_elsewhere: whether it runs in an environment of its own, where this project is not to be found.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
    if is_elsewhere:
        environment.pop("PYTHONPATH", None)
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
