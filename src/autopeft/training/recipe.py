"""How one architecture is trained, as data: nothing here imports PyTorch, so that settings are read in no time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Ge

from autopeft.rules import (
    CLOSED,
    EXACT,
    BelowOne,
    Count,
    Flag,
    Natural,
    NotNegative,
    Positive,
    PositiveShare,
    raise_if_any,
    violations,
)


@dataclass(frozen=True)
class Recipe:
    """How one architecture is trained.

    Args:
        learning_rate: peak learning rate of AdamW (β 0.9 and 0.999, ε 1e-8).
        rate_factors: by name of a method, what its modules' learning rate is multiplied by; 1 for all others. Searches
            in a supernet train without.
        head_rate: the learning rate of the head: "own" takes `learning_rate` as it is, "mean" the geometric mean of
            those of the methods that the architecture holds.
        epochs: passes over the training part; a fraction is allowed. The schedule spans exactly the run.
        steps: optimiser steps instead of `epochs`, or None.
        data_fraction: share of the training part that is used (fixed subset, drawn once from the data seed).
        batch_size: examples a step.
        drop_layers: AdapterDrop's robust training: at every step the modules of the first n layers of every stack are
            left out, n uniform from 0 to this; evaluation has them all.
        consistency: AdaMix's: at every step a second pass, with random choices of its own, and this much of the
            divergence between the two added to the loss; 0 for one pass. Searches in a supernet train without.
        dropout: takes the place of every dropout rate of the model and its head; None leaves them as they are.
        trunk_dropout: whether dropout acts below the lowest layer with a module, embeddings included. Without it, what
            is computed there is kept between epochs and trials within a bound; for models with one stack of layers and
            a head. Searches in a supernet train with it.
        weight_decay, warmup, clip: AdamW's decay; share of steps with linear warm-up; gradient norm limit (0: none).
        patience: evaluations without improvement after which training stops; None for never.
        evaluate_every: epochs between evaluations; the end is always evaluated.
        max_length: tokens after which an example is truncated.
        truncation_side: where an example that is too long is cut: "right" keeps its beginning, "left" its end; of a
            pair the longer text is cut. A text-to-text model is given the task's name in front, which is cut first.
        precision: "float32", or "bf16" for automatic mixed precision with float32 master weights. "auto", the default
            of a search's settings, leaves it to the search, which takes bf16 where it measures that it is faster and
            keeps the loss; nothing is trained in "auto".
        gradient_checkpointing: recompute activations instead of keeping them.
        keep: "best" restores the best evaluation, "last" does not.
    """

    learning_rate: Positive = 1e-3
    rate_factors: dict[str, Positive] = field(default_factory=dict)
    head_rate: Literal["own", "mean"] = "own"
    epochs: Positive = 1.0
    steps: Count | None = None
    data_fraction: PositiveShare = 1.0
    batch_size: Count = 32
    drop_layers: Natural = 0
    consistency: NotNegative = 0.0
    dropout: BelowOne | None = None
    trunk_dropout: Flag = True
    weight_decay: NotNegative = 0.0
    warmup: BelowOne = 0.0
    clip: NotNegative = 1.0
    patience: Count | None = None
    evaluate_every: Positive = 1.0
    max_length: Annotated[int, Ge(8), EXACT] = 128
    truncation_side: Literal["right", "left"] = "right"
    precision: Literal["auto", "float32", "bf16"] = "float32"
    gradient_checkpointing: Flag = False
    keep: Literal["best", "last"] = "best"

    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        raise_if_any("The recipe cannot be used", violations(self))

    def n_steps(self, n_examples: int) -> int:
        """Optimiser steps of the whole run for a training part of `n_examples` (after `data_fraction`)."""
        per_epoch = math.ceil(n_examples / self.batch_size)
        return self.steps if self.steps is not None else max(1, round(self.epochs * per_epoch))

    def n_processed(self, n_examples: int) -> int:
        """Training examples that a run which nothing stops goes through, repetitions counted."""
        # The last batch of an epoch may be smaller than the others.
        epochs, steps = divmod(self.n_steps(n_examples), math.ceil(n_examples / self.batch_size))
        return epochs * n_examples + steps * self.batch_size

    def head_factor(self, methods: Iterable[str]) -> float:
        """What the head's learning rate is multiplied by beside modules of these methods; 1 where there are none."""
        factors = [math.log(self.rate_factors.get(name, 1.0)) for name in sorted(set(methods))]
        # A head that learns beside one method alone then does so at that method's rate, as when that rate was chosen.
        return math.exp(fmean(factors)) if factors and self.head_rate == "mean" else 1.0

    def rate_at(self, step: int, planned: int) -> float:
        """What `learning_rate` is multiplied by at a step, from 0, of so many: linear warm-up, then linear decay."""
        warm = self.warmup * planned
        if step < warm:
            # The first step of the warm-up has a rate above zero, too, or its batch would be lost.
            return (step + 1) / (warm + 1)
        # It would reach zero at the step after the last, so that the last one still learns something.
        return max(0.0, (planned - step) / max(1.0, planned - warm))

    @property
    def reading(self) -> tuple[float, int, str]:
        """What the encoded examples depend on."""
        return self.data_fraction, self.max_length, self.truncation_side

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping of every setting."""
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """`as_dict` as it was before there were the settings that came later, where these have their defaults.

        Files of interrupted searches are named by it, and must be found by later versions.
        """
        return {name: value for name, value in self.as_dict().items() if (name, value) not in CAME_LATER.items()}

    def of_run(self) -> dict[str, Any]:
        """`as_dict`, without what runs that were written down earlier could not choose, where that has its default."""
        told, later = self.as_dict(), {"head_rate": "own", "trunk_dropout": True}
        return {name: value for name, value in told.items() if (name, value) not in later.items()}


CAME_LATER: Mapping[str, Any] = MappingProxyType(
    {"truncation_side": "right", "head_rate": "own", "trunk_dropout": True}
)
"""Settings that searches begun before them lack, with the value that they then had."""


def ruled_rate(hidden_size: int) -> float:
    """The learning rate to begin with where nothing is tried, to three digits: 5e-4 (2000 / hidden size) ^ 0.78.

    It was fitted to LoRA with alpha 32 on Llama models of several sizes ("LoRA Without Regret", Thinking Machines
    2025), where it was within a factor of two of the best.
    """
    return float(f"{5e-4 * (2000 / hidden_size) ** 0.78:.3g}")
