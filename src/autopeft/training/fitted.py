"""What a training run left behind."""

from __future__ import annotations

from dataclasses import dataclass

from autopeft.objective import Epoch


@dataclass(frozen=True)
class Fit:
    """What a training run left behind. The parameters hold the kept evaluation's values.

    Args:
        history: one point an evaluation.
        kept: index into `history` of the evaluation whose parameters were kept.
        steps: optimiser steps done, fewer than planned after early stopping or where the run was paused.
        planned: optimiser steps of the whole run, over which its schedule spans.
        n_processed: training examples that went through the model, repetitions counted.
        seconds: wall-clock time of training, evaluations included, over all processes that worked on the run.
        train_seconds: the same without evaluations.
        is_over: False where the run was paused and may go on.
        first_loss: of the first step; 0 where the run was begun by a version that did not keep it.
    """

    history: tuple[Epoch, ...]
    kept: int
    steps: int
    planned: int
    n_processed: int
    seconds: float
    train_seconds: float
    is_over: bool = True
    first_loss: float = 0.0
