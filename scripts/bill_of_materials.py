"""Prints the bill of materials (CycloneDX 1.6, JSON) of what `sh scripts/quickstart` installs, out of its lock files.

Usage: python scripts/bill_of_materials.py > requirements/bill-of-materials.json

The same locks give the same bytes: there is neither a time nor a random serial number in it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("run", "weights")
ENTRY = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)==(?P<version>[^ ;\n]+)(?: ; (?P<marker>[^\\\n]+?))?(?= \\$)", re.M)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
TORCH = re.compile(r"torch==\$\{TORCH_VERSION:-(?P<version>[^}]+)\}")


def component(name: str, version: str, marker: str | None, hashes: list[str]) -> dict[str, Any]:
    """One package: the hashes are those of all its files, of which a platform installs one."""
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    found: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    if hashes:
        found["hashes"] = [{"alg": "SHA-256", "content": digest} for digest in hashes]
    if marker:
        found["properties"] = [{"name": "autopeft:marker", "value": marker}]
    return found


def locked(text: str) -> Iterator[dict[str, Any]]:
    """The components of one lock file, in its order."""
    starts = list(ENTRY.finditer(text))
    for entry, end in zip(starts, [*(match.start() for match in starts[1:]), len(text)], strict=True):
        hashes = HASH.findall(text[entry.end() : end])
        yield component(entry["name"], entry["version"], entry["marker"], hashes)


def bill(root: Path = ROOT) -> dict[str, Any]:
    """The whole bill. PyTorch stands in it by its version alone: which build is installed depends on the machine."""
    match = TORCH.search((root / "scripts" / "install").read_text(encoding="utf-8"))
    if match is None:
        sys.exit("scripts/install names no version of torch.")
    parts = [component("torch", match["version"], None, [])]
    for name in LOCKS:
        parts += locked((root / "requirements" / f"{name}.txt").read_text(encoding="utf-8"))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "autopeft", "name": "autopeft"}},
        "components": sorted(parts, key=lambda part: str(part["bom-ref"])),
        "dependencies": [{"ref": "autopeft", "dependsOn": sorted(str(part["bom-ref"]) for part in parts)}],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(bill(), indent=1) + "\n")
