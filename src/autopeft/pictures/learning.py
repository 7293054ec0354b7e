"""Learning curves of a few trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopeft.errors import DataError
from autopeft.objective import Objective
from autopeft.objectives import NOMINAL
from autopeft.pictures.canvas import COLOURS, legend, say_nothing
from autopeft.pictures.labels import metric_label
from autopeft.pictures.points import evenly
from autopeft.trial import Trial, front_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class LearningCurve:
    """One training run: epochs counted from 1, the metric after each and the training loss; equal lengths."""

    name: str
    epochs: tuple[float, ...]
    values: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def best(self) -> int:
        """Index of the first epoch with the largest metric."""
        return max(range(len(self.values)), key=lambda i: (self.values[i], -i))


@dataclass(frozen=True)
class LearningData:
    """Learning curves of a few trials; each is a single training run."""

    title: str
    metric: str
    curves: tuple[LearningCurve, ...]
    size: tuple[float, float] = (9.6, 4.0)

    @property
    def alt(self) -> str:
        """The best epoch of each curve, in words."""
        parts = [f"{c.name}: best {c.values[c.best]:.4g} at epoch {c.epochs[c.best]:g}" for c in self.curves]
        return f"Learning curves, {self.metric} and training loss by epoch. {'; '.join(parts) or 'None was recorded'}."

    def draw(self, ax: Axes) -> None:
        """The metric by epoch on the left, the best epoch ringed; the training loss on the right."""
        from matplotlib.ticker import MaxNLocator

        ax.set_title(self.title)
        ax.axis("off")
        if not self.curves:
            say_nothing(ax)
            return
        left, right = ax.inset_axes((0, 0, 0.46, 0.97)), ax.inset_axes((0.56, 0, 0.44, 0.97))
        for index, curve in enumerate(self.curves):
            colour, style = COLOURS[index % len(COLOURS)], ("-", "--")[index // len(COLOURS) % 2]
            left.plot(curve.epochs, curve.values, style, color=colour, lw=1.5, marker="o", ms=2.5)
            best = (curve.epochs[curve.best], curve.values[curve.best])
            left.plot(*best, "o", ms=8, mfc="none", mec=colour, mew=1.2)
            right.plot(curve.epochs, curve.losses, style, color=colour, lw=1.5, label=curve.name)
        left.set(xlabel="epoch (best one ringed)", ylabel=self.metric)
        right.set(xlabel="epoch", ylabel="training loss")
        for inner in (left, right):
            inner.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(right, "trial, cost; single seeds")


def learning_data(
    trials: Sequence[Trial],
    numbers: Sequence[int] | None = None,
    *,
    cost: Objective = NOMINAL,
    most: int = 6,
    title: str = "Learning curves",
) -> LearningData:
    """Learning curves of the trials called `numbers`, or of points spread evenly over the front.

    Trials without a recorded history are left out.

    Args:
        most: at most this many points of the front; `numbers` are all drawn.

    Raises:
        DataError: a number is not among the measured trials.
    """
    measured = {t.number: t for t in trials if t.measurement is not None}
    unknown = sorted(set(numbers or ()) - set(measured))
    if unknown:
        raise DataError(f"Only measured trials have a learning curve, but got {', '.join(map(str, unknown))}.")
    if numbers is None:
        with_history = [t for t in measured.values() if t.measurement is not None and t.measurement.history]
        points = front_of(with_history, cost).points
        numbers = [points[i].key for i in evenly(len(points), most)]
    curves = (_learning_curve(measured[number], cost) for number in numbers)
    return LearningData(title, metric_label(list(measured.values())), tuple(c for c in curves if c.epochs))


def _learning_curve(trial: Trial, cost: Objective) -> LearningCurve:
    measurement = trial.measurement
    assert measurement is not None
    points = [point for point in measurement.history if measurement.objective in point.metrics]
    return LearningCurve(
        name=f"#{trial.number}" + ("" if (value := cost.of(measurement)) is None else f", {cost.roughly(value)}"),
        epochs=tuple(point.epoch for point in points),
        values=tuple(float(point.metrics[measurement.objective]) for point in points),
        losses=tuple(point.loss for point in points),
    )
