"""Which precision a search computes in, by measurement: the faster one, if a short run keeps its loss there.

The decision reads numbers alone (`choose_precision`); what gives them is a bench, of which `StepBench` is the real one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean, stdev
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from autopeft.architecture import Architecture
from autopeft.errors import TrialFailure
from autopeft.network.attach import attach
from autopeft.training.batches import Batch, collate
from autopeft.training.evaluator import Evaluator
from autopeft.training.layer_drop import LayerDrop
from autopeft.training.loop import Training
from autopeft.training.memory import checkpointing, let_go, memory_given_back, shortage_told
from autopeft.training.precision_choice import Precision, PrecisionChoice
from autopeft.training.together import rated_parameters

_BOTH: tuple[Precision, Precision] = ("float32", "bf16")

_TOKENS, _REPEATS = 512, 5
"""Of the products that are timed before any step, and how many; the quickest counts."""

_TIMED = 3
"""Steps of each precision that are timed, after one that is not; the quickest counts."""

_FASTER = 1.1
"""How many times as fast bf16 must be: what gains less than a tenth is not worth another rounding."""

_HOPELESS, _HOPELESS_AT_FIRST = 1.5, 4.0
"""How many times as slow as float32 bf16 must be for no other step to be timed; and the first step, which prepares."""

_STEPS, _FEWEST = 100, 20
"""Steps of the runs that are compared, and the fewest that say anything where the recipe has as many."""

_TWO_LOSSES = 8
"""The fewest steps whose last quarter has a spread."""

_SHARE_TIMED, _SHARE_COMPARED = 0.01, 0.05
"""What timing and comparing may take at the most, of the steps that the search trains."""

_ERRORS, _SHARE_OF_LOSS = 2.0, 0.01


class PrecisionBench(Protocol):
    """What gives the numbers: matrix products, a batch to time steps on, and short runs."""

    def product(self, precision: Precision) -> float:
        """Seconds of a matrix product of the backbone's width, which takes next to no time."""
        ...

    def seconds(self, precision: Precision) -> float:
        """Of another training step in `precision`, always on the same batch."""
        ...

    def losses(self, precision: Precision, steps: int) -> Sequence[float]:
        """The loss of every step of a run that is so many steps long; the same batches in both precisions."""
        ...


def choose_precision(
    bench: PrecisionBench, *, planned: float, a_run: int, device: str = "", tell: Callable[[str], None] | None = None
) -> PrecisionChoice:
    """The faster precision, if it is faster by more than a tenth and a short run keeps its loss.

    bf16 keeps the loss if the mean over the last quarter of its run is finite and at most that of the float32 run plus
    a margin: two standard errors of that run's own mean, so that what is seen is more than the luck of its batches, but
    at least a hundredth of its mean over the first quarter, as a loss that has come to nothing has no spread either.
    Both runs see the same batches from the same beginning. Nothing is timed, or nothing compared, where that would take
    more than a hundredth, or a twentieth, of what the search trains.

    Args:
        planned: training steps of the whole search.
        a_run: steps of each of its trainings.
        device: its name, for the record.
        tell: told in a line before the runs, which take a while.
    """
    steps = min(_STEPS, a_run, int(planned * _SHARE_COMPARED / 2))
    if steps < max(_TWO_LOSSES, min(_FEWEST, a_run)) or planned * _SHARE_TIMED < 2 * (1 + _TIMED):
        why = f"{planned:,.0f} training steps, {a_run:,} in each run, are too few to measure whether bf16 pays"
        return PrecisionChoice("float32", why, device)
    try:
        return _measured(bench, steps, device, tell or _ignore)
    except (TrialFailure, RuntimeError) as failure:
        # Whatever bf16 cannot do on a device (a kernel that is lacking, memory, numbers without an end) is no reason
        # to end a search that float32 can do; what float32 cannot do either, its first training tells.
        let_go(failure)
        return PrecisionChoice("float32", f"the measurement failed: {failure}", device)


def _measured(bench: PrecisionBench, steps: int, device: str, tell: Callable[[str], None]) -> PrecisionChoice:
    products = {precision: bench.product(precision) for precision in _BOTH}
    if products["bf16"] > products["float32"]:
        # Most of a step is products, and nothing else of it gains by bf16. Where a processor has no instructions for
        # it, a single step may take half a minute, for which nobody who begins a search should wait.
        told = f"a matrix product takes {products['bf16']:.3g} s in bf16 and {products['float32']:.3g} s in float32"
        return PrecisionChoice("float32", told, device)
    seconds = _timed(bench)
    speed = seconds["float32"] / seconds["bf16"]
    timed = f"a step takes {seconds['bf16']:.3g} s in bf16 and {seconds['float32']:.3g} s in float32"
    if speed <= _FASTER:
        return PrecisionChoice("float32", timed, device, seconds)
    tell(f"{timed}: {steps} steps in each show whether bf16 keeps the loss")
    full, half = (bench.losses(precision, steps) for precision in _BOTH)
    end, margin = _last_quarter(full), _margin(full)
    reached = _last_quarter(half)
    # Written so that a loss that is NaN keeps nothing.
    is_kept = all(map(math.isfinite, half)) and reached <= end + margin
    why = (
        f"{timed}, and after {steps} steps the loss is {reached:.4g} and {end:.4g}, "
        f"{'within' if is_kept else 'not within'} the margin of {margin:.2g}"
    )
    losses = {"float32": end, "bf16": reached} if math.isfinite(reached) else {"float32": end}
    return PrecisionChoice("bf16" if is_kept else "float32", why, device, seconds, losses, margin, steps)


def _timed(bench: PrecisionBench) -> dict[str, float]:
    """Seconds of the quickest step in each precision; no more of them than show that bf16 is slow."""
    # In turn, so that what else the machine does meanwhile slows both.
    first: dict[str, float] = {precision: bench.seconds(precision) for precision in _BOTH}
    if first["bf16"] > _HOPELESS_AT_FIRST * first["float32"]:
        return first
    found: dict[str, float] = dict.fromkeys(_BOTH, math.inf)
    for _ in range(_TIMED):
        for precision in _BOTH:
            found[precision] = min(found[precision], bench.seconds(precision))
        if found["bf16"] > _HOPELESS * found["float32"]:
            break
    return found


def _last_quarter(losses: Sequence[float]) -> float:
    return fmean(losses[-(len(losses) // 4) :])


def _margin(losses: Sequence[float]) -> float:
    quarter = len(losses) // 4
    error = stdev(losses[-quarter:]) / math.sqrt(quarter)
    return max(_ERRORS * error, _SHARE_OF_LOSS * fmean(losses[:quarter]))


def product_seconds(
    device: str, width: int, dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Of the quickest of several products of some hundred tokens with a feed-forward map of this width.

    Raises:
        RuntimeError: there is no such device here, or none that knows the type.
    """
    tokens, weight = (torch.ones(n, width, dtype=dtype, device=device) for n in (_TOKENS, 4 * width))
    found = []
    for _ in range(_REPEATS):
        before = clock()
        # Read back, as a GPU is told what to do and left at it.
        float((tokens @ weight.T)[0, 0])
        found.append(clock() - before)
    return min(found)


def _ignore(line: str) -> None:
    """The listener of those who want no lines."""


class StepBench:
    """Training steps of one architecture on an evaluator's backbone and examples: a `PrecisionBench`."""

    def __init__(
        self,
        evaluator: Evaluator,
        architecture: Architecture,
        seed: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._evaluator, self._architecture, self._seed, self._clock = evaluator, architecture, seed, clock

    def product(self, precision: Precision) -> float:
        """See `PrecisionBench.product`."""
        backbone = self._evaluator.backbone
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        return product_seconds(str(backbone.device), backbone.hidden_size, dtype, self._clock)

    def seconds(self, precision: Precision) -> float:
        """See `PrecisionBench.seconds`. Of the length that a batch has in the median, as all of one are alike."""
        with self._training(precision, 1) as run:
            # The modules are put in for every step anew, which is not timed; their optimiser has no moments yet, and
            # making those takes as long in either precision.
            return run.timed(self._batch(), self._clock)

    def losses(self, precision: Precision, steps: int) -> Sequence[float]:
        """See `PrecisionBench.losses`. The schedule spans the steps, so that the rate falls as in a whole training.

        Raises:
            TrialFailure: NaN or a memory shortage; the backbone is as before.
        """
        with self._training(precision, steps) as run:
            run.advance()
            return [float(loss) for loss in run.told]

    def _batch(self) -> Batch:
        evaluator = self._evaluator
        lengths, size = evaluator.train_part.lengths, evaluator.recipe.batch_size
        order, half = np.argsort(lengths, kind="stable"), len(lengths) // 2
        chosen = order[max(0, half - size // 2) : half + (size + 1) // 2]
        return collate(evaluator.train_part, chosen, evaluator.learner.pad, evaluator.backbone.device)

    @contextmanager
    def _training(self, precision: Precision, steps: int) -> Iterator[_Told]:
        # Never evaluated for real: an evaluation may take longer than all these steps, and nothing is asked of it.
        short: dict[str, Any] = {"steps": steps, "patience": None, "keep": "last"}
        evaluator = self._evaluator.with_recipe(precision=precision, **short)
        backbone, learner, recipe = evaluator.backbone, evaluator.learner, evaluator.recipe
        with (
            memory_given_back(),
            shortage_told(),
            attach(backbone, self._architecture, seed=self._seed) as attached,
            checkpointing(backbone.model, recipe.gradient_checkpointing),
        ):
            parameters, factors = rated_parameters(attached, learner.reset(self._seed), recipe)
            drop = LayerDrop(attached, recipe.drop_layers, self._seed) if recipe.drop_layers else None
            objective = evaluator.task.metrics[0]
            yield _Told(
                learner, parameters, evaluator.train_part, recipe, lambda: {objective: 0.0},
                objective=objective, seed=self._seed, before_step=drop, factors=factors,
            )  # fmt: skip


class _Told(Training):
    """A training that remembers the loss of every step, and can time one."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.told: list[Tensor] = []

    def take_step(self, loss: Tensor, n_examples: int) -> None:
        # On the device: reading it here would wait for the device at every step.
        self.told.append(loss.detach())
        super().take_step(loss, n_examples)

    def timed(self, batch: Batch, clock: Callable[[], float]) -> float:
        """Seconds of one step on `batch`."""
        with self._trains():
            self._wait()
            before = clock()
            self._step(batch)
            self._wait()
            return clock() - before

    def _wait(self) -> None:
        # A GPU is told what to do and left at it, so that a clock that does not wait is wrong.
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
