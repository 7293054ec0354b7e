"""The settings of BIPEFT (EMNLP Findings 2024): three presets, and every point at which they differ a field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from autopeft.rules import BelowOne, Count, NotNegative, Positive, Share, misfit, raise_if_any, violations
from autopeft.searches._candidates import Misfits, ScoreRule, StabilityRule
from autopeft.searches._problem import LATER
from autopeft.searches._supernet import Starts

Variant = Literal["full", "entangled", "binary_then_size", "size_then_binary", "no_selection"]


@dataclass(frozen=True)
class BipeftSettings:
    """How the search is done. Defaults are the preset "earlier".

    The training:

    Args:
        variant: "full"; "no_selection": without removal and fixing; "entangled": one softmax over absence and the
            sizes; "binary_then_size", "size_then_binary": one kind of gate in each half. Only "full" needs a budget.
        gumbel: draw hard gates; False mixes all with their probabilities.
        epochs: passes over the first half of the training part; None takes the recipe's.
        steps: instead of `epochs`, or None.
        least_steps: that many at the least where `steps` is None, if one training by the recipe has as many.
        most_of_a_training: share of the examples of one training by the recipe that the search takes at the most, or
            None; batches become smaller for it, then steps fewer, see `sampler.Pace`.
        batch_size, learning_rate: None takes the recipe's. The learning rate falls linearly to 0.
        weight_decay, clip: of the weights; `clip` limits the gradient norm, 0 does not.
        optimiser_steps: how often one gradient is applied (the release's loop applies it twice).
        architecture_learning_rate, architecture_weight_decay: of Adam (β 0.5 and 0.999) for the gates, constant.
        regulariser: factor of the mean ``|softmax(a) - a|`` over each tensor of gate logits (release).
        updates: "alternate" updates "keep" and sizes at every other step, "both" at every step.
        first: whether a step begins with the weights or with the gates.
        is_idle_updated: let decay and momentum move the gates whose turn it is not (release: one optimiser).
        size_pass_keep: which placements are on while sizes are drawn: "sampled", or all "survivors" (release).

        is_scaled: count in shares of the search: with T steps there are 0.6 T / H triggers (5 to `triggers`), at least
            0.6 T / Z or H steps or `spacing` apart; the gates' rate is up to ten times higher where T is below 1,000;
            moving averages reach back over a twentieth of the search, or as far as `gamma` says if that is more.
        temperature_by: whether the temperature of the draws falls with every "epoch" or every "step".
        starts: train modules from the start of their "method", or from "even" ones, from which a step changes about as
            much in all (the release's low-rank adapters start so large that they outscore all others).

    The scores:

    Args:
        is_clean: whether the gradient on the second half is its own (release: added to the last training gradient).
        score: how the two halves combine, see `selection.sensitivity`.
        cosine_of: the cosine is between "gradients" of the placement, or the mean over its tensors of the cosine
            between weight-gradient "products" (release).
        counted: divide by the parameters "active" in the pass, by "all", or by "none": a sum in place of a mean.
        is_off_scored: whether a placement that was off scores 0 in that step (else it keeps its score).
        gamma: share of the old score in the moving average.
        averages: of the scores of "steps" (equation 4), or one for each of the "halves" of the data, updated when on.
        is_within_kinds: divide scores by the mean of their method before they are compared.

    The triggers:

    Args:
        triggers: Z; fewer when the steps are few.
        spacing: least number of steps from one trigger to the next.
        warmup: share of the steps before selection begins (release: 1 to 4 epochs, by task).
        is_warmup_whole: until then everything is on at its largest size, and neither gates nor scores move.
        horizon, threshold: H (steps) and τ of equation 5.
        stability: see `selection.stability`; "split": the rank correlation of the scores of every other step with
            those between (needs averages by halves), which also has to be above what noise reaches.
        is_window_cleared: begin to look back anew after each trigger.
        indicator_misfits, indicator_counts: how the indicator of equation 5 fills the budget, and with which counts:
            "expected", or "staged": full until the first trigger, then weighted by the probability of being kept.
        counts: "exact" counts at each size, or "proportional" to the size (release).
        hard_share: share of the triggers, the last ones, in which every placement counts as kept.
        removal_misfits, is_removal_carried: see `selection.removal`; whether unspent reduction is carried over.
        divergence: "end" for KL(now ‖ then), "start" for KL(then ‖ now).
        fixing_values: equation 10 compares "sizes" or their "indices" (release).
        is_fixing_carried, is_fixing_early: carry what rounding leaves over; fix everything one trigger early.
        sizes_by: "gates", fixed by equations 9 and 10; or "worth": at each trigger and at the end, what is left of the
            way to the budget is filled by worth for parameters, a size k being worth √k times the score.
        is_refilled: whether the final projection fills what is left of the budget: with what was left out, then by
            larger sizes.
        answers: how many architectures a budget is answered with, which needs sizes by worth: beside the one of all
            methods, those of one method each, see `autopeft.searches._worth.several`.
    """

    variant: Variant = "full"
    gumbel: bool = True
    epochs: Positive | None = None
    steps: Count | None = None
    batch_size: Count | None = None
    learning_rate: Positive | None = None
    weight_decay: NotNegative = 1e-4
    clip: NotNegative = 2.0
    optimiser_steps: Count = 1
    architecture_learning_rate: Positive = 0.01
    architecture_weight_decay: NotNegative = 1e-4
    regulariser: NotNegative = 0.0
    updates: Literal["alternate", "both"] = "alternate"
    first: Literal["weights", "architecture"] = "weights"
    is_idle_updated: bool = False
    size_pass_keep: Literal["sampled", "survivors"] = "sampled"
    is_clean: bool = True
    score: ScoreRule = "cosine"
    cosine_of: Literal["gradients", "products"] = "gradients"
    counted: Literal["active", "all", "none"] = "active"
    is_off_scored: bool = False
    gamma: Share = 0.85
    triggers: Count = 100
    spacing: Count = 1
    warmup: BelowOne = 0.1
    horizon: Count = 5
    threshold: Share = 0.85
    stability: StabilityRule = "consecutive"
    indicator_misfits: Misfits = "stop"
    indicator_counts: Literal["expected", "staged"] = "expected"
    counts: Literal["exact", "proportional"] = "exact"
    hard_share: Share = 0.1
    removal_misfits: Misfits = "stop"
    is_removal_carried: bool = True
    divergence: Literal["end", "start"] = "end"
    fixing_values: Literal["sizes", "indices"] = "sizes"
    is_fixing_carried: bool = True
    is_fixing_early: bool = False
    is_refilled: bool = True
    # What came after the first studies: each default is what there was before, so that those stay what they are.
    least_steps: Count | None = field(default=None, metadata=LATER)
    is_scaled: bool = field(default=False, metadata=LATER)
    is_warmup_whole: bool = field(default=False, metadata=LATER)
    temperature_by: Literal["epoch", "step"] = field(default="epoch", metadata=LATER)
    averages: Literal["steps", "halves"] = field(default="steps", metadata=LATER)
    is_within_kinds: bool = field(default=False, metadata=LATER)
    is_window_cleared: bool = field(default=False, metadata=LATER)
    sizes_by: Literal["gates", "worth"] = field(default="gates", metadata=LATER)
    starts: Starts = field(default="method", metadata=LATER)
    most_of_a_training: Positive | None = field(default=None, metadata=LATER)
    answers: Count = field(default=1, metadata=LATER)

    def __post_init__(self) -> None:
        wrong = violations(self)
        if not misfit("`answers`", Count, self.answers) and self.answers > 1 and not self.is_by_worth:
            wrong.append(f"answers {self.answers} need sizes_by 'worth' and variant 'full'")
        if self.stability == "split" and self.averages != "halves":
            wrong.append("stability 'split' needs averages 'halves'")
        raise_if_any("The settings of BIPEFT cannot be used", wrong)

    @property
    def is_selecting(self) -> bool:
        """Whether placements are removed and sizes fixed on the way."""
        return self.variant == "full"

    @property
    def is_by_worth(self) -> bool:
        """Whether sizes follow from the scores, and no gate stands for them."""
        return self.is_selecting and self.sizes_by == "worth"


_PAPER = BipeftSettings(
    learning_rate=3e-4,
    updates="both",
    counted="all",
    is_off_scored=True,
    stability="overrun",
    indicator_counts="staged",
    is_removal_carried=False,
    divergence="start",
    is_fixing_carried=False,
    is_refilled=False,
)

_RELEASED = BipeftSettings(
    learning_rate=3e-4,
    optimiser_steps=2,
    regulariser=0.01,
    first="architecture",
    is_idle_updated=True,
    size_pass_keep="survivors",
    is_clean=False,
    cosine_of="products",
    counted="all",
    is_off_scored=True,
    stability="lagged",
    indicator_misfits="skip",
    indicator_counts="staged",
    counts="proportional",
    removal_misfits="skip",
    is_removal_carried=False,
    fixing_values="indices",
    is_fixing_carried=False,
    is_fixing_early=True,
    is_refilled=False,
)

_RECOMMENDED = BipeftSettings(
    least_steps=300,
    most_of_a_training=0.6,
    is_scaled=True,
    is_warmup_whole=True,
    warmup=0.3,
    architecture_weight_decay=0.0,
    temperature_by="step",
    averages="halves",
    is_within_kinds=True,
    stability="split",
    threshold=0.5,
    is_window_cleared=True,
    hard_share=1.0,
    sizes_by="worth",
    starts="even",
)

PRESETS: Mapping[str, BipeftSettings] = MappingProxyType(
    {"paper": _PAPER, "released": _RELEASED, "recommended": _RECOMMENDED, "earlier": BipeftSettings()}
)
"""What the paper says, its gaps filled by the release; what the release does, without its crashes; the default; and
what was the default until rules scaled with the steps, sizes followed from scores, and scores were compared in kinds.

"released" ranks the modules as well as the others do and still loses good ones. Where two modules out of ten can
lower the loss (a planted problem), it keeps both in 4 of 10 seeds, "earlier" in 10. Three points together are to
blame, and any one of them set right gives 10 of 10:

* `regulariser`: Adam divides its small pull by its own size, so it moves size gates whose loss gradient is smaller,
  and with them the size at which a sensitive module is fixed: often the smallest.
* `removal_misfits`: at the last triggers, where all modules count in full, the least sensitive ones are larger than
  what may be removed; the scan goes past them and takes what fits, the sensitive module that was made small.
* `is_refilled`: nothing comes back, though the budget has room for it.

`is_fixing_early` helps them on (9 of 10 without it); no other difference to "earlier" matters there.
"""
