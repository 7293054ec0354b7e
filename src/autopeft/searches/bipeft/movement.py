"""How far the gates of a search have moved: whether it has decided anything, or ended where it began."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopeft.searches.bipeft.selector import Beliefs

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Movement:
    """How far the gates have come from where they began, at one half.

    Args:
        least, most: the extreme probabilities of being kept.
        mean: of their distances from one half.
        decided: share of the placements at which the distance is a quarter or more.
    """

    least: float
    most: float
    mean: float
    decided: float

    @classmethod
    def of(cls, probabilities: NDArray[np.float64]) -> Movement:
        """Of the probabilities of all placements, ``(n,)``."""
        distance = np.abs(probabilities - 0.5)
        least, most = float(probabilities.min()), float(probabilities.max())
        return cls(least, most, float(distance.mean()), float((distance >= 0.25).mean()))

    def __str__(self) -> str:
        return (
            f"the gates' probabilities lie between {self.least:.2f} and {self.most:.2f}, {self.mean:.2f} from one half "
            f"on average; {self.decided:.0%} of them are below 0.25 or above 0.75"
        )


def told(beliefs: Beliefs, steps: int) -> Movement:
    """The movement of the gates after so many steps, with a line in the log, and a warning where it is small."""
    # Where gates are entangled, a size of 0 is absence, and the sizes alone do not add up to 1.
    found = Movement.of(beliefs.keep * beliefs.sizes.sum(axis=1))
    _log.info("BIPEFT: after %d steps %s.", steps, found)
    if found.decided < 0.5:
        _log.warning(
            "BIPEFT: the gates have not decided: %s. More steps, or a higher `architecture_learning_rate`, move them "
            "further.",
            found,
        )
    return found
