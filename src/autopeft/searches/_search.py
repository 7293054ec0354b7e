"""Samplers that answer parameter budgets: so many architectures for each, in the order in which they were given.

BIPEFT's rivals do not read what was measured. They are asked for a budget and give the architectures that a search
of their own ended at, so one budget is one point and several budgets are a front. What they have in common is here;
a file or folder beside this one adds its settings and its `BudgetSearch`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from autopeft.architecture import Architecture, CountKind, ParameterBudget
from autopeft.errors import BudgetError, SettingsError, SpaceExhaustedError, StudyMismatchError, UnknownNameError
from autopeft.reading import read_json
from autopeft.rules import Count, misfit, raise_if_any
from autopeft.samplers import Sampler, SamplerSpec
from autopeft.samplers._propose import check_seed, taken, with_options
from autopeft.searches._candidates import Candidates
from autopeft.searches._problem import facts_of
from autopeft.searches._supernet import Starts, Supernet
from autopeft.spaces.lattice import Configuration, SearchSpace
from autopeft.training.evaluator import Evaluator
from autopeft.training.memory import checkpointing
from autopeft.trial import Trial
from autopeft.writing import write_whole

_log = logging.getLogger(__name__)


Wanted = str | float | ParameterBudget
"""A budget as people give it: a text, a count, or itself."""


class BudgetSearch(Protocol):
    """What gives the answers.

    Attributes:
        per_budget: the most architectures that one budget is answered with.
        earlier_seconds: wall-clock time that processes before this one spent on the last answer.
        told: what is to be kept of how the last answer was found, JSON-ready; empty where there is nothing to tell.
    """

    @property
    def per_budget(self) -> int: ...
    @property
    def earlier_seconds(self) -> float: ...
    @property
    def told(self) -> Mapping[str, Any]: ...
    def answer(self, limit: ParameterBudget) -> Sequence[Architecture]:
        """Architectures of the space within `limit`, none of them empty; it depends on nothing that changes.

        Raises:
            NonFiniteFailure: the loss of a search that trains became NaN or infinite.
        """
        ...


@dataclass(frozen=True)
class SearchContext:
    """What a search starts from; its budgets have been checked against the space.

    Args:
        evaluator: what is searched with: backbone, training part and recipe.
        space: every placement has a size of its own and can be absent.
        limits: what it will be asked for.
        checkpoint: the folder where an interrupted search is kept and found again, or None.
        checkpoint_every: steps between checkpoints.
    """

    evaluator: Evaluator
    space: SearchSpace
    seed: int
    limits: tuple[ParameterBudget, ...]
    checkpoint: Path | None = None
    checkpoint_every: int = 300

    def file(self, name: str, identity: str, suffix: str = ".safetensors") -> Path | None:
        """Where the search called `name` with this identity is kept: it also depends on how and on what is trained."""
        if self.checkpoint is None:
            return None
        evaluator = self.evaluator
        # An interrupted search of other data, another recipe or another model must not be taken up by mistake.
        data = [evaluator.n_train, evaluator.data_seed, evaluator.splits.train.digest()]
        text = json.dumps([identity, evaluator.recipe.identity(), data, evaluator.backbone.digest()])
        return self.checkpoint / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}{suffix}"


@contextmanager
def supernet_of(
    evaluator: Evaluator, space: SearchSpace, seed: int, count: CountKind = "stored", starts: Starts = "method"
) -> Iterator[Supernet]:
    """A fresh supernet of `space` on the evaluator's backbone, trained as its recipe says; detached at the end."""
    with (
        Supernet(evaluator.backbone, space, seed=seed, kind=count, starts=starts) as supernet,
        checkpointing(evaluator.backbone.model, evaluator.recipe.gradient_checkpointing),
    ):
        yield supernet


class BudgetedSampler:
    """Proposes the answers to one budget after the other. Its only state is a memory of searches already done.

    Where checkpoints are kept, so are answers: a budget that leaves no trial, because another's answer is the same, is
    not searched again by the next process.

    Attributes:
        earlier_seconds: what processes before this one spent on the searches behind the last `ask`.
        told: by budget, what its search has to tell of how it went; see `BudgetSearch`.
    """

    def __init__(self, name: str, context: SearchContext, settings: Mapping[str, Any], search: BudgetSearch) -> None:
        self.name, self._context, self._settings, self._search = name, context, dict(settings), search
        self._answers: dict[int, Sequence[Architecture]] = {}
        self._spent: dict[int, float] = {}  # by number of the budget, seconds that no trial has been charged with
        self.earlier_seconds = 0.0
        self.told: dict[str, Mapping[str, Any]] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved options, JSON-ready."""
        return {**self._settings, "budgets": [str(limit) for limit in self._context.limits]}

    @property
    def n_answers(self) -> int:
        """The most architectures that it will ever propose."""
        return self._search.per_budget * len(self._context.limits)

    def ask(self, trials: Sequence[Trial], n: int = 1) -> list[Configuration]:
        """The architectures found for the next `n` places that no trial has filled yet. See `Sampler.ask`.

        A place whose search ends at an architecture that is taken is passed over, with a line in the log.

        Raises:
            NonFiniteFailure: the loss of a search became NaN or infinite.
        """
        self.earlier_seconds = 0.0
        # Counted in the trials and not here, so that a resumed study goes on at the budget that is next.
        answered = sum(trial.origin == self.name and trial.is_taken for trial in trials)
        known, found = taken(self._context.space, trials), list[Configuration]()
        for number, configuration in self._from(answered):
            identity = self._context.space.identity(configuration)
            if identity in known:
                _log.info("%s: a search ended at a known architecture.", self.name)
                continue
            known.add(identity)
            found.append(configuration)
            # Charged once, to the first trial that a search led to.
            self.earlier_seconds += self._spent.pop(number, 0.0)
            if len(found) == n:
                break
        if not found:
            raise SpaceExhaustedError(f"All {len(self._context.limits)} budgets of {self.name} have been answered.")
        return found

    def _from(self, first: int) -> Iterator[tuple[int, Configuration]]:
        """What stands at the places from `first` on, with the number of its budget."""
        each = self._search.per_budget
        for place in range(first, self.n_answers):
            number, position = divmod(place, each)
            answers = self.answers(number)
            if position < len(answers):
                configuration = self._context.space.configuration(answers[position])
                assert configuration is not None  # it was made of the space's own placements and sizes
                yield number, configuration

    def answers(self, number: int) -> Sequence[Architecture]:
        """The architectures for the budget with this number, from 0; searched at most once."""
        if number not in self._answers:
            self._answers[number] = self._kept(number) or self._searched(number)
        return self._answers[number]

    def _searched(self, number: int) -> Sequence[Architecture]:
        began = time.perf_counter()
        found = self._search.answer(self._context.limits[number])
        self._spent[number] = self._search.earlier_seconds
        self._tell(number, self._search.told)
        if path := self._file(number):
            seconds = time.perf_counter() - began + self._spent[number]
            answer = {"architectures": [one.as_dict() for one in found], "seconds": seconds}
            answer |= {"told": dict(self._search.told)} if self._search.told else {}
            with write_whole(path) as part:
                part.write_text(json.dumps(answer))
        return found

    def _kept(self, number: int) -> Sequence[Architecture]:
        """The answer of an earlier process; empty when there is none."""
        path = self._file(number)
        if path is None or not path.exists():
            return ()
        data = read_json(path, "The kept answer", StudyMismatchError)
        try:
            self._spent[number] = float(data["seconds"])
            self._tell(number, data.get("told", {}))
            return tuple(map(Architecture.from_dict, data["architectures"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StudyMismatchError(f"{str(path)!r} is not what a search keeps: {error}. Move it away.") from error

    def _tell(self, number: int, told: Mapping[str, Any]) -> None:
        if told:
            self.told[str(self._context.limits[number])] = told

    def _file(self, number: int) -> Path | None:
        context = self._context
        facts = [self._settings, str(context.limits[number]), context.seed, context.space.fingerprint]
        return context.file(self.name, json.dumps(facts), ".json")


def spec(
    name: str,
    presets: Mapping[str, Any],
    start: Callable[[SearchContext, Any], BudgetSearch],
    about: str,
    *,
    is_budget_needed: Callable[[Any], bool] = lambda settings: True,
    space: str = "S2",
    instead: str = "",
) -> SamplerSpec:
    """The member of its kind for a search that answers budgets; the arguments are those of `BudgetedFactory`.

    Args:
        space: the named space that it searches when none is asked for.
        about: one sentence for lists.
        instead: what it is called today, where `name` is a former name.
    """
    build = BudgetedFactory(name, presets, start, is_budget_needed)
    return SamplerSpec(name, build, about, presets, default_space=space, reads_trials=False, instead=instead)


@dataclass(frozen=True)
class BudgetedFactory:
    """Builds the samplers of one search that answers budgets.

    Args:
        name: of the sampler.
        presets: frozen dataclasses of settings by name, "recommended" among them.
        start: checks the context further and gives the search, without any work yet.
        is_budget_needed: whether a search with these settings is for a budget; where not, and none is given, it has
            one that everything fits.
    """

    name: str
    presets: Mapping[str, Any]
    start: Callable[[SearchContext, Any], BudgetSearch]
    is_budget_needed: Callable[[Any], bool]

    def __call__(
        self,
        space: SearchSpace,
        seed: int,
        *,
        evaluator: Evaluator | None = None,
        budgets: Sequence[Wanted] | Wanted = (),
        count: CountKind | None = None,
        preset: str = "recommended",
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 300,
        **options: Any,
    ) -> Sampler:
        """The sampler.

        Args:
            space: every placement needs a size of its own and must be able to be absent (spaces S1 and S2).
            budgets: upper limits, "1.39‱", "0.5%", or counts; the space's own when empty.
            count: which count the budgets limit; that of the space's budget, else "stored".
            checkpoint, checkpoint_every: see `SearchContext`; searches that take no steps keep nothing.
            options: fields of the settings, in place of the preset's.

        Raises:
            InputError: an option is unknown or cannot be used, or nothing satisfies a budget.
        """
        check_seed(seed)
        if preset not in self.presets:
            raise UnknownNameError("preset", preset, self.presets)
        settings = with_options(self.presets[preset], options, self.name)
        raise_if_any(f"The sampler {self.name!r} cannot be used", misfit("`checkpoint_every`", Count, checkpoint_every))
        if evaluator is None:
            raise SettingsError(f"The sampler {self.name!r} needs an `evaluator`: the backbone and its training part.")
        # Made for its checks alone: a space without a gate a placement is refused before anything is trained.
        Candidates.of(space)
        wanted: tuple[Wanted, ...]
        if isinstance(budgets, str | float | int | ParameterBudget):
            wanted = (budgets,)
        elif isinstance(budgets, Sequence):
            wanted = tuple(budgets)
        else:
            raise SettingsError(f"`budgets` is a budget or a list of budgets, but got {budgets!r}.")
        if not wanted and space.budget is None and not self.is_budget_needed(settings):
            wanted = (ParameterBudget(space.cost(space.largest(), count or "stored"), count=count or "stored"),)
        limits = limits_of(self.name, space, wanted, count, evaluator.backbone.n_parameters)
        folder = None if checkpoint is None else Path(checkpoint)
        context = SearchContext(evaluator, space, seed, limits, folder, checkpoint_every)
        return BudgetedSampler(self.name, context, facts_of(settings), self.start(context, settings))


def limits_of(
    name: str,
    space: SearchSpace,
    wanted: Sequence[Wanted],
    count: CountKind | None,
    backbone: int,
) -> tuple[ParameterBudget, ...]:
    """The budgets in `wanted`, or the space's own when there are none.

    Args:
        name: of the sampler that will answer them, for messages.
        count: which count bare texts and numbers limit; that of the space's budget, else "stored".
        backbone: parameters of the backbone, the denominator of shares.

    Raises:
        BudgetError: there is none, one is no upper limit alone or more than the space allows, or the smallest
            module is above one.
    """
    kind = count or (space.budget.count if space.budget is not None else "stored")
    limits = [b if isinstance(b, ParameterBudget) else ParameterBudget.parse(b, backbone, kind) for b in wanted]
    if not limits and space.budget is None:
        raise BudgetError(
            f"The sampler {name!r} answers parameter budgets: give the option `budgets`, for example ('1.39‱',), or "
            "the space a budget."
        )
    if not limits and space.budget is not None:
        limits = [replace(space.budget, count=kind)]
    wrong = _misfits(space, limits)
    if wrong:
        raise BudgetError(f"The sampler {name!r} cannot answer these budgets: {'; '.join(wrong)}.")
    for limit in limits:
        Candidates.of(space, limit.count).check_budget(limit.most)
    return tuple(limits)


def _misfits(space: SearchSpace, limits: Sequence[ParameterBudget]) -> list[str]:
    """What is wrong with each limit."""
    wrong = [f"{limit}: it must be an upper limit alone" for limit in limits if limit.least]
    whole = space.budget
    if whole is None:
        return wrong
    if whole.least:
        wrong.append(f"the space's {whole}: it must be an upper limit alone")
    for limit in limits:
        # What is stored is never less than what is nominal, so a limit on it is at least as tight.
        if limit.most > whole.most or (limit.count, whole.count) == ("nominal", "stored"):
            wrong.append(f"{limit}: the space allows {whole}")
    return wrong
