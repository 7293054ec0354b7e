"""What figures depend on: processor, cores, memory, load, versions; and where results are written."""

from __future__ import annotations

import gzip
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from autopeft.study.identity import versions

RESULTS = Path(__file__).parent / "results"


def facts() -> dict[str, Any]:
    """Machine, load (one-minute average) and versions; call it before and after, and keep both loads."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": os.getloadavg()[0],
        "threads": os.environ.get("OMP_NUM_THREADS", "not limited"),
        "versions": versions(),
    }


def write(name: str, result: dict[str, Any], before: dict[str, Any]) -> Path:
    """Write `result` with the facts of the machine to ``results/<name>.json``; a busy machine is noted.

    Args:
        before: `facts` from before the measurements.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    machine = {**before, "load_before": before["load"], "load_after": facts()["load"]}
    del machine["load"]
    path.write_text(json.dumps({**result, "machine": machine}, indent=1) + "\n")
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def loop_seconds() -> float:
    """Processor time of ten million additions: neighbours on a shared processor slow all figures alike."""
    start, total = time.process_time(), 0
    for n in range(10_000_000):
        total += n
    return time.process_time() - start


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of JSON at `path`, packed by gzip or not; one that was cut off counts as none, and so does no file."""
    if not path.exists():
        return []
    raw = path.read_bytes()
    found = []
    for line in (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found
