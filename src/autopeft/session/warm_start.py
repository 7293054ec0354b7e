"""What a search may take over from those before it: the architectures at the front of other studies.

Their measurements stay behind, as another task or model, other data or another recipe makes them incomparable; that
an architecture was among the best elsewhere is a reason to try it early, and no more. AutoPEFT moves architectures from
task to task (arXiv 2301.12132, section 4.2).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autopeft.backbones import Backbone
from autopeft.candidate import Candidate
from autopeft.errors import ArchitectureError, SettingsError
from autopeft.reading import read_json
from autopeft.spaces.choices import Configuration
from autopeft.spaces.lattice import SearchSpace
from autopeft.spaces.nearest import nearest
from autopeft.spaces.transfer import transfer
from autopeft.study.reading import opened_for_reading
from autopeft.training.retraining import BASELINES, baseline
from autopeft.trial import front_of
from autopeft.writing import STUDY

log = logging.getLogger(__name__)

_MOST = 8
"""Points that are taken of one front: more would leave a short search nothing to find."""


def warm_starts(sources: Sequence[str], backbone: Backbone, space: SearchSpace) -> tuple[Configuration, ...]:
    """Points of `space` to begin with: what `sources` hold, in their order, the best of each study first.

    Args:
        sources: names of baselines, perhaps with a size, see `autopeft.training.retraining.baseline`; folders of
            studies, of saved models, or files of architectures.

    Returns:
        None twice; fewer where the space holds nothing like some of them, which is logged.

    Raises:
        SettingsError: there is nothing at a source, or nothing of any source is in the space.
        InputError: a source cannot be read, or has no place on `backbone`.
    """
    found: dict[tuple[int, ...], Configuration] = {}
    for source in sources:
        for candidate in _candidates(Path(source), backbone):
            point = nearest(space, candidate)
            if point is None:
                log.warning("Nothing in this space is near to %s of %s.", candidate, source)
            else:
                found.setdefault(space.identity(point), point)
    if sources and not found:
        raise SettingsError(f"Nothing of `warm_start` ({', '.join(sources)}) has a place in this search space.")
    return tuple(found.values())


def _candidates(source: Path, backbone: Backbone) -> Iterator[Candidate]:
    """What stands at `source`, on `backbone`."""
    if not source.exists():
        if str(source).partition(":")[0] not in BASELINES:
            raise SettingsError(
                f"There is nothing at `warm_start: {source}`, which is no baseline either: {', '.join(BASELINES)}."
            )
        yield Candidate(baseline(str(source), backbone))
        return
    if STUDY.stands_at(source):
        yield from _of_study(source, backbone)
        return
    path = source / "architecture.json" if source.is_dir() else source
    data = read_json(path, "The architecture file", ArchitectureError)
    about = data.get("backbone") if isinstance(data, dict) else None
    about = about if isinstance(about, dict) else {}
    yield _moved(Candidate.load(path), about.get("name"), about.get("identity", {}).get("config"), backbone)


def _of_study(source: Path, backbone: Backbone) -> Iterator[Candidate]:
    with opened_for_reading(source / "study.db") as study:
        trials = {trial.number: trial for trial in study.trials(with_history=False)}
        points = front_of(list(trials.values()), study.cost).points
        if not points:
            raise SettingsError(f"The study at `warm_start: {source}` has no measured trial yet.")
        # Over the whole range of costs, from the best value down, so that whoever takes few has what was best.
        chosen = np.unique(np.linspace(0, len(points) - 1, min(_MOST, len(points))).round().astype(int))[::-1]
        model, name = dict(study.fact("model") or {}), study.settings.get("model")
        for index in chosen:
            yield _moved(trials[points[index].key].candidate, name, model.get("config"), backbone)


def _moved(candidate: Candidate, name: str | None, config: dict[str, Any] | None, backbone: Backbone) -> Candidate:
    """`candidate` on `backbone`, by relative depth and width; as it is where nothing says what it was found on."""
    if name is None:
        return candidate
    old = Backbone.without_weights(name, config)
    return Candidate(transfer(candidate.architecture, old, backbone), candidate.changes)
