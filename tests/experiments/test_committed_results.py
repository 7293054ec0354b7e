"""The pages under results/: what their cells say today, and no picture but those that are shown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from autopeft.experiments import Experiment, read, summary
from autopeft.settings import read_yaml

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
FILES = {path.stem: path for path in (ROOT / "experiments").rglob("*.yaml") if "kind" in read_yaml(path)}
PAGES = ("README.md", "docs/results.md")


def experiment(name: str) -> Experiment:
    return read(FILES[name])


@pytest.mark.parametrize("folder", sorted(RESULTS.iterdir()), ids=lambda path: path.name)
def test_a_page_is_what_its_cells_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = read(FILES[folder.name].relative_to(ROOT))
    text, _ = summary(found, Path("results"))
    assert (folder / "README.md").read_text() == text, f"Write it again: autopeft experiment {found.path} --summary"


def test_only_pictures_that_a_page_shows_are_kept() -> None:
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    shown = "\n".join((ROOT / page).read_text() for page in PAGES)
    kept = [name for name in listed.stdout.split() if name.endswith(".png")]
    assert kept
    assert [name for name in kept if name not in shown] == []
    assert all("/cells.jsonl" in name or name.endswith(("README.md", ".png")) for name in listed.stdout.split())
