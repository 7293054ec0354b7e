"""The rivals of a pay-off by name, and those that search nothing of this package: known architectures, and Optuna.

All of them train with the same seed at first and pay from the same purse; what they propose meets in `settle`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar, Self

import optuna

from autopeft.architecture import Architecture
from autopeft.backbones import LINEAR
from autopeft.candidate import Candidate, Changes
from autopeft.errors import SettingsError
from autopeft.experiments._experiment import Origin
from autopeft.experiments._payoff_finals import Asked, Entrant, Known, Rival
from autopeft.experiments._payoff_purse import Purse
from autopeft.experiments._payoff_search import Search
from autopeft.rules import raise_if_any
from autopeft.samplers._propose import quiet
from autopeft.session import Session
from autopeft.training.evaluator import Evaluator
from autopeft.training.rate_sweep import try_rates
from autopeft.training.retraining import Baseline, baseline
from autopeft.training.run import check_untrained, measure_untrained

# -- a grid ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Architectures of the literature at several learning rates: what a careful person does.

    Args:
        baselines: names, perhaps with a size, see `autopeft.training.retraining.baseline`.
        rates: that each of them is trained at.
        widen: how many rates beyond them each may try while its best is the smallest or the largest.
        finals: see `Rival`.
        batch_factors: what the examples a step are multiplied by, each at every rate, see `autopeft.candidate.Changes`.
        dropout_factors: 0 for none, 1 for that of the recipe, each at every rate.
    """

    required: ClassVar[frozenset[str]] = frozenset({"baselines", "rates"})

    baselines: tuple[str, ...]
    rates: tuple[float, ...]
    widen: int = 0
    finals: float = 0.25
    batch_factors: tuple[float, ...] = (1.0,)
    dropout_factors: tuple[float, ...] = (1.0,)

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """The grid that `raw` describes."""
        rates, batches, dropouts = (
            tuple(float(one) for one in raw.get(name, (1.0,)))  # YAML reads 1e-3 as text
            for name in ("rates", "batch_factors", "dropout_factors")
        )
        widen, finals = int(raw.get("widen", 0)), float(raw.get("finals", 0.25))
        return cls(tuple(raw["baselines"]), rates, widen, finals, batches, dropouts)

    def check_settings(self, asked: Asked) -> None:
        """Nothing: it has none."""

    def check(self, asked: Asked) -> None:
        """The baselines exist, and one rate after the other can be paid for."""
        session = Session.build(asked.settings)
        for name in self.baselines:
            baseline(name, session.backbone)
        if len(self._all()) * len(self.rates) > int(asked.share * asked.settings.trials):
            ways = len(self.batch_factors) * len(self.dropout_factors)
            each = "" if ways == 1 else f" trained in {ways} ways each"
            raise SettingsError(
                f"{len(self.baselines)} baselines{each} at {len(self.rates)} rates are more than the "
                f"{int(asked.share * asked.settings.trials)} trainings that a rival has before its finals."
            )

    def propose(self, asked: Asked, purse: Purse) -> list[Entrant]:
        """Every baseline at every rate, with each number of examples a step."""
        evaluator = Session.build(asked.settings).evaluator
        found: list[Entrant] = []
        for place, known in enumerate(self._all()):
            # What the baselines to come need at least.
            rest = len(self.rates) * (len(self._all()) - place)
            # Rates beyond the edge must leave enough for the baselines to come.
            widen = min(self.widen, purse.left(evaluator, asked.share) - rest)
            if widen < 0:
                raise SettingsError(f"{len(self._all())} baselines at {len(self.rates)} rates cost more than allowed.")
            tried = try_rates(self.rates, widen, partial(self._value, known, evaluator, asked, purse))
            pairs = ((replace(known, rate=rate), value) for rate, value in tried if value is not None)
            found += [Entrant(str(one), one.on(evaluator), evaluator, value, [value], "grid") for one, value in pairs]
        return found

    def _all(self) -> list[Known]:
        ways = itertools.product(self.baselines, self.batch_factors, self.dropout_factors)
        return [Known(name, batch_factor=batch, dropout_factor=dropout) for name, batch, dropout in ways]

    @staticmethod
    def _value(known: Known, evaluator: Evaluator, asked: Asked, purse: Purse, rate: float) -> float | None:
        at = replace(known, rate=rate)
        return purse.value(evaluator, at.on(evaluator), asked.seed, "rates", str(at))


# -- Optuna ------------------------------------------------------------------------------------------------------

_TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"q and v": ("q", "v"), "attention": ("q", "k", "v", "o"), "all": LINEAR}
)


@dataclass(frozen=True)
class LoraTpe:
    """Optuna's tree-structured Parzen estimator over LoRA's rank, scale, learning rate and places.

    Args:
        ranks: smallest and largest, on a logarithmic scale.
        scales: smallest and largest factor on alpha = r.
        rates: smallest and largest.
        startup: random trials before the estimator is asked.
        finals: see `Rival`.
    """

    required: ClassVar[frozenset[str]] = frozenset()

    ranks: tuple[int, int] = (1, 64)
    scales: tuple[float, float] = (0.25, 4.0)
    rates: tuple[float, float] = (1e-4, 3e-2)
    startup: int = 6
    finals: float = 0.25

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """The search that `raw` describes; ranges are lists of two numbers."""
        return cls(
            ranks=_ends(raw, "ranks", int, cls.ranks),
            scales=_ends(raw, "scales", float, cls.scales),
            rates=_ends(raw, "rates", float, cls.rates),
            startup=int(raw.get("startup", cls.startup)),
            finals=float(raw.get("finals", cls.finals)),
        )

    def check_settings(self, asked: Asked) -> None:
        """Nothing: it has none."""

    def check(self, asked: Asked) -> None:
        """Nothing: LoRA has a place on every backbone."""

    def propose(self, asked: Asked, purse: Purse) -> list[Entrant]:
        """Trial by trial. Optuna draws from the seed alone, so that what was trained before is proposed again."""
        evaluator = Session.build(asked.settings).evaluator
        found: dict[Candidate, Entrant] = {}
        with quiet(asked.seed):
            # Optuna says on standard error that it made a study, which is no news of the experiment.
            before = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            sampler = optuna.samplers.TPESampler(seed=asked.seed, n_startup_trials=self.startup)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            optuna.logging.set_verbosity(before)
            while purse.left(evaluator, asked.share):
                trial = study.ask()
                candidate = self._candidate(trial, evaluator)
                value = purse.value(evaluator, candidate, asked.seed, "search", str(candidate.changes))
                # Optuna is told of a failure as such: a value in its place would bend the estimator.
                state = optuna.trial.TrialState.FAIL if value is None else None
                study.tell(trial, value, state=state)
                if value is not None:
                    name = f"trial {trial.number}"
                    found.setdefault(candidate, Entrant(name, candidate, evaluator, value, [value], "tpe"))
        return list(found.values())

    def _candidate(self, trial: optuna.Trial, evaluator: Evaluator) -> Candidate:
        rank = trial.suggest_int("rank", *self.ranks, log=True)
        scale = trial.suggest_float("scale", *self.scales, log=True)
        rate = trial.suggest_float("rate", *self.rates, log=True)
        roles = _TARGETS[trial.suggest_categorical("targets", tuple(_TARGETS))]
        # Alpha is the rank times the scale, so that the scale means the same at every rank.
        plain = Baseline((("lora", rank),), roles=roles).on(evaluator.backbone)
        scaled = Architecture(tuple(replace(placement, scale=scale) for placement in plain))
        return Candidate(scaled, Changes(learning_rate=rate))


# -- nothing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ZeroShot:
    """The model as it is, asked in words: nothing is trained, and nothing is paid.

    Args:
        finals: see `Rival`; there is nothing to choose among.
    """

    required: ClassVar[frozenset[str]] = frozenset()

    finals: float = 0.0

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Self:
        """It, whose only value is the usual one."""
        return cls()

    def check_settings(self, asked: Asked) -> None:
        """Nothing: it has none."""

    def check(self, asked: Asked) -> None:
        """The model answers in words."""
        check_untrained(Session.build(asked.settings).evaluator)

    def propose(self, asked: Asked, purse: Purse) -> list[Entrant]:
        """The model without a module."""
        evaluator = Session.build(asked.settings).evaluator
        value = measure_untrained(evaluator).value
        return [Entrant("nothing trained", Candidate(Architecture()), evaluator, value, [value], "none")]


def _ends(raw: Mapping[str, Any], name: str, kind: type, default: tuple[Any, Any]) -> tuple[Any, Any]:
    low, high = raw.get(name, default)
    return kind(low), kind(high)


# -- by name -----------------------------------------------------------------------------------------------------

HOWS: Mapping[str, type[Grid] | type[LoraTpe] | type[Search] | type[ZeroShot]] = MappingProxyType(
    {"grid": Grid, "lora-tpe": LoraTpe, "search": Search, "zero-shot": ZeroShot}
)
"""What `how` of a rival may be."""


def read_rival(name: str, raw: Any, origin: Origin) -> Rival:
    """The rival that an entry of `rivals` describes.

    Raises:
        SettingsError: a value is wrong.
    """
    where = f"The rival {name!r} of the experiment {origin.told} cannot be used"
    if not isinstance(raw, Mapping) or raw.get("how") not in HOWS:
        raise_if_any(where, [f"`how` is one of {', '.join(HOWS)}, but got {raw!r}"])
    kind = HOWS[raw["how"]]
    known = {one for one in kind.__dataclass_fields__}
    wrong = [f"`{key}` is not known; it has {', '.join(sorted(known))}" for key in sorted(set(raw) - known - {"how"})]
    wrong += [f"`{key}` is missing" for key in sorted(kind.required - set(raw))]
    raise_if_any(where, wrong)
    try:
        found = kind.read(raw)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {error}.") from error
    raise_if_any(where, [] if 0 <= found.finals < 1 else [f"`finals` is a share below 1, but got {found.finals}"])
    return found
