"""The parts of a session that settings name: defaults that depend on the sampler, the data, the search space."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autopeft import methods, promotions, samplers, tasks
from autopeft.architecture import ParameterBudget
from autopeft.backbones import Backbone
from autopeft.candidate import Changes, batch_of
from autopeft.errors import SettingsError
from autopeft.samplers.random import initial_design as random_design
from autopeft.settings import FileSettings, Settings, SpaceSettings
from autopeft.spaces import named
from autopeft.spaces._named_space import NamedSpace
from autopeft.spaces.build import BANDS, stands_at
from autopeft.spaces.dials import with_dials, with_enough_steps
from autopeft.spaces.lattice import Axis, Configuration, SearchSpace
from autopeft.spaces.variations import variations
from autopeft.tasks import Splits
from autopeft.tasks._files import Loader, from_files
from autopeft.tasks._protocols import draw_subset
from autopeft.tasks._scoring import rescored
from autopeft.tasks._task import Task
from autopeft.training.recipe import Recipe, ruled_rate

log = logging.getLogger(__name__)

_INITIAL = {"random": 20, "baselines": 30, "around": 20}
"""Configurations of an initial design before a sampler that learns from what was measured is asked."""


def answers_budgets(sampler: str) -> bool:
    """Whether the sampler of this name answers parameter budgets by a search of its own.

    Raises:
        UnknownNameError: there is no such sampler.
    """
    return not samplers.lookup(sampler).reads_trials


LEAST_STEPS = 150
"""What `space.least_steps` is where nothing is said: what the rival `settled` of `experiments/payoff-minilm.yaml` ends
at has 150 or 300 steps on all its pairs, where the recipe leaves 38."""


def resolved(settings: Settings) -> Settings:
    """`settings` with what depends on the sampler filled in: initial design, workers, the space where none is named.

    Of several devices each has a worker at least; what is done before there are workers is done on the first.

    Raises:
        UnknownNameError: there is no such sampler.
    """
    is_answering = answers_budgets(settings.sampler)
    if instead := samplers.lookup(settings.sampler).instead:
        log.warning("The sampler %r is called %r today; its former name is read as before.", settings.sampler, instead)
    own = _named(settings.space)
    start = settings.start or ("random" if own is None or is_answering else own.start)
    initial = settings.initial
    if initial is None:
        usual = _INITIAL[start] if own is None else own.n_initial or _INITIAL[start]
        initial = 0 if is_answering else usual
    space = settings.space
    # Compared without what every space has: a budget alone does not say that a person chose a space.
    if is_answering and replace(space, budget=None, count="nominal") == SpaceSettings():
        space = replace(space, name=samplers.lookup(settings.sampler).default_space)
    # Written out, so that a study keeps the choices that it was begun with.
    batch_factors, dropout_factors = _whole_factors(space)
    # What makes the same batches is one choice: of two examples a step a half and a quarter are both one.
    distinct = {batch_of(settings.recipe.batch_size, factor): factor for factor in sorted(batch_factors)}
    least = space.least_steps if space.least_steps is not None else LEAST_STEPS if distinct else 0
    space = replace(space, batch_factors=tuple(distinct.values()), dropout_factors=dropout_factors, least_steps=least)
    workers = _workers(settings, is_answering=is_answering)
    device = settings.devices[0] if settings.devices else settings.device
    return settings.with_changes(
        initial=initial,
        start=start,
        rates=_rates(settings),
        space=space,
        workers=workers,
        device=device,
        recipe=_stated(settings),
    )


def _workers(settings: Settings, *, is_answering: bool) -> Literal["auto"] | int:
    """The workers that are asked for: one at least for every device, and one alone where each would search anew."""
    asked, devices = settings.workers, len(settings.devices)
    if asked == "auto" and not devices and not is_answering:
        return "auto"
    workers = max(1 if asked == "auto" else asked, devices)
    if is_answering and workers > 1:
        log.warning("One process, not %d: each would repeat the search that %r does.", workers, settings.sampler)
        return 1
    return workers


_PAPERS = ("paper", "released")
"""Presets of samplers that do what a paper, or its code, says."""


def _stated(settings: Settings) -> Recipe:
    """The recipe; with a preset of a paper nothing of it is left to a measurement, as the paper trains as it says."""
    is_paper = settings.sampler_options.get("preset") in _PAPERS
    return in_float32(settings.recipe) if is_paper else settings.recipe


def in_float32(recipe: Recipe) -> Recipe:
    """`recipe` with float32 where it leaves the precision open."""
    return replace(recipe, precision="float32") if recipe.precision == "auto" else recipe


def _named(wanted: SpaceSettings) -> NamedSpace | None:
    return None if wanted.name is None else named.lookup(wanted.name)


def _rates(settings: Settings) -> Literal["sweep", "card", "rule"]:
    own = _named(settings.space)
    usual = settings.rates or ("sweep" if own is None else own.rates)
    # Rates that a person wrote are tried, whatever the space would do without them.
    is_open = settings.learning_rates == Settings.learning_rates
    return "sweep" if usual == "rule" and settings.rates is None and not is_open else usual


def ruled(settings: Settings, backbone: Backbone) -> Settings:
    """Resolved `settings` with the rate that the rule gives for `backbone`, where `rates` asks for the rule.

    A learning rate of the recipe that is not the default stands.
    """
    if settings.rates != "rule":
        return settings
    recipe = settings.recipe
    if recipe.learning_rate == Recipe.learning_rate:
        recipe = replace(recipe, learning_rate=ruled_rate(backbone.hidden_size))
    return settings.with_changes(recipe=recipe, learning_rates=())


def check_warm_start(settings: Settings) -> None:
    """Refuse a warm start where nothing is begun with.

    Raises:
        UnknownNameError: there is no such sampler.
        SettingsError: the sampler answers budgets by a search of its own, or there is nothing to begin around.
    """
    if settings.start == "around" and not settings.warm_start:
        raise SettingsError("`start: around` begins around what `warm_start` names, but that is empty.")
    if settings.warm_start and answers_budgets(settings.sampler):
        raise SettingsError(
            f"The sampler {settings.sampler!r} answers budgets by a search of its own, which begins with nothing that "
            "others found: leave `warm_start` out."
        )


def check_promotion(settings: Settings) -> None:
    """Refuse a promotion that has nothing to promote.

    Raises:
        UnknownNameError: there is no such promotion.
        SettingsError: its options are wrong, there are no rungs, or the sampler does not read what was measured.
    """
    if promotions.build(settings.promotion, settings.promotion_options) is None:
        return
    if not settings.rungs:
        raise SettingsError(
            f"The promotion {settings.promotion!r} pauses trials at rungs, but there are none: name them, as in "
            "`rungs: [1, 3]` for epochs or `rungs: [11%, 33%]` for shares of the steps."
        )
    if answers_budgets(settings.sampler):
        raise SettingsError(
            f"The sampler {settings.sampler!r} answers budgets by a search of its own, whose few answers are all "
            f"trained to their end: leave `promotion: {settings.promotion}` out."
        )


def load_backbone(settings: Settings) -> Backbone:
    """The model of the settings, on its device.

    Raises:
        InputError: there is none, or it cannot be used.
    """
    return Backbone.from_pretrained(
        settings.model,
        device=settings.device,
        quantize=settings.quantize,
        trust_remote_code=settings.trust_remote_code,
    )


def build_space(backbone: Backbone, wanted: SpaceSettings) -> SearchSpace:
    """The search space of the settings on `backbone`.

    Raises:
        InputError: a method, layer or name does not exist, or nothing satisfies the budget.
    """
    own = _named(wanted)
    _check_bands(wanted, own)
    space = _described(backbone, wanted) if own is None else _by_name(backbone, wanted, own)
    rate_factors = {**({} if own is None else own.rate_factors), **wanted.rate_factors}
    batch_factors, dropout_factors = _whole_factors(wanted)
    if rate_factors or wanted.scales or batch_factors or dropout_factors:
        return with_dials(
            space,
            rate_factors=rate_factors,
            scales=wanted.scales,
            batch_factors=batch_factors,
            dropout_factors=dropout_factors,
        )
    return space


def with_steps(space: SearchSpace, settings: Settings, n_train: int) -> SearchSpace:
    """`space`, where what begins a search has as many steps as `space.least_steps` of the settings, resolved, asks for.

    Args:
        n_train: training examples.
    """

    def steps_at(factor: float) -> int:
        return Changes(batch_factor=factor).recipe_for(settings.recipe).n_steps(n_train)

    return with_enough_steps(space, least, steps_at) if (least := settings.space.least_steps) else space


def at_rest(space: SearchSpace, recipe: Recipe) -> Recipe:
    """`recipe` with the examples a step where a search in `space` begins."""
    at = {dial.target: space.choices[dial.choice].values[space.resting[dial.choice]] for dial in space.dials}
    return Changes(batch_factor=at.get("batch", 1.0)).recipe_for(recipe)


def _whole_factors(wanted: SpaceSettings) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Factors on the examples a step and on dropout, the space's own where the settings say nothing."""
    own = _named(wanted)
    batches, dropouts = wanted.batch_factors, wanted.dropout_factors
    if batches is None:
        batches = () if own is None else own.batch_factors
    if dropouts is None:
        dropouts = () if own is None else own.dropout_factors
    return batches, dropouts


def initial_design(space: SearchSpace, settings: Settings, warm: Sequence[Configuration] = ()) -> list[Configuration]:
    """The initial design that the settings, resolved, ask for: `warm` first, which counts among its points."""
    n = min(settings.initial or 0, settings.trials)
    if settings.start == "around":
        design: Sequence[Configuration] = [one for point in warm for one in variations(space, point)]
    elif settings.start == "baselines":
        design = named.design(_named(settings.space), space, settings.seed, n)
    else:
        design = random_design(space, settings.seed, n)
    # What comes from others counts among the points, and may be among the design's own.
    found = {space.identity(one): one for one in (*warm, *design)}
    return list(found.values())[: max(n, len(warm))]


def _budget(backbone: Backbone, wanted: SpaceSettings) -> ParameterBudget | None:
    if wanted.budget is None:
        return None
    return ParameterBudget.parse(wanted.budget, backbone.n_parameters, wanted.count)


def _check_bands(wanted: SpaceSettings, own: NamedSpace | None) -> None:
    has_bands = wanted.sharing == "band" if own is None else "bands" in own.takes
    if wanted.bands is not None and not has_bands:
        others = ", ".join(repr(name) for name, one in named.SPACES.items() if "bands" in one.takes)
        raise SettingsError(
            f"`space.bands` is of the space {others} and of `sharing: band`, but this space is "
            f"{wanted.name or f'shared by {wanted.sharing}'!r}."
        )


def _by_name(backbone: Backbone, wanted: SpaceSettings, own: NamedSpace) -> SearchSpace:
    plain = SpaceSettings()
    # Told instead of left out, as a setting that changes nothing is taken for one that does.
    given = [f"`{name}`" for name in ("layers", "sharing") if getattr(wanted, name) != getattr(plain, name)]
    if given:
        raise SettingsError(f"The space {wanted.name!r} has {' and '.join(given)} of its own: leave that out.")
    asked = [] if wanted.methods == plain.methods else _axes(backbone, wanted)
    if asked and "methods" not in own.takes:
        # No error: a study that began when nothing was said of it goes on.
        log.warning("The space %r has methods of its own; `space.methods` is not looked at.", wanted.name)
        asked = []
    return own.build(backbone, budget=_budget(backbone, wanted), bands=wanted.bands, axes=asked)


def _described(backbone: Backbone, wanted: SpaceSettings) -> SearchSpace:
    if isinstance(wanted.layers, str) and wanted.layers not in ("search", "all"):
        raise SettingsError(f"`layers` is 'search', 'all' or a list of layers, but got {wanted.layers!r}.")
    layers: Any = wanted.layers
    axes, budget = _axes(backbone, wanted), _budget(backbone, wanted)
    bands = wanted.bands or BANDS
    return SearchSpace.build(backbone, axes, sharing=wanted.sharing, layers=layers, budget=budget, bands=bands)


def _axes(backbone: Backbone, wanted: SpaceSettings) -> list[Axis]:
    """The methods that a person named, with what they may not have told first."""
    axes = [Axis(methods.lookup(name), axis.sizes, axis.roles) for name, axis in wanted.methods.items()]
    _check_roles(backbone, axes)
    _check_trainable(backbone, axes)
    _check_prefixes(backbone, axes)
    return axes


def _check_roles(backbone: Backbone, axes: Sequence[Axis]) -> None:
    """A role that a person wrote and that nothing has is a slip, not a wish."""
    sites = list(backbone.sites.values())
    wrong = [
        f"`space.methods.{axis.method.name}.roles` has {role!r}"
        for axis in axes
        for role in axis.roles or ()
        if not any(stands_at(axis.method, site, [role]) for site in sites)
    ]
    if wrong:
        known = ", ".join(sorted({site.role for site in sites}))
        raise SettingsError(f"The space cannot be built: {'; '.join(wrong)}. The roles of {backbone.name} are {known}.")


def _check_trainable(backbone: Backbone, axes: Sequence[Axis]) -> None:
    """Weights that are rounded to few bits take no step."""
    if backbone.quantized and (wrong := [axis.method.name for axis in axes if axis.method.seam == "backbone"]):
        raise SettingsError(
            f"`space.methods` has {', '.join(wrong)}, which trains the weights of the model, but these are in "
            f"{backbone.quantized}: leave `quantize` out."
        )


def _check_prefixes(backbone: Backbone, axes: Sequence[Axis]) -> None:
    """A prefix at an attention that takes none would be searched for nothing."""
    wrong = [
        f"`space.methods` has {axis.method.name}, but the attention at {site.key} takes no prefix"
        for axis in axes
        for site in backbone.sites.values()
        if site.seam == "kv" and stands_at(axis.method, site, axis.roles) and site.key not in backbone.reached
    ]
    if wrong:
        raise SettingsError(f"The space cannot be built on {backbone.name}: {'; '.join(wrong)}.")


def load_data(settings: Settings, is_begun: bool = False) -> tuple[Task, Splits]:
    """The task and the parts of its data, cut to what the settings allow.

    Args:
        is_begun: whether a study has begun on it, see `autopeft.tasks._files.from_files`.

    Raises:
        InputError: there is no such task, or its data cannot be read.
    """
    task, splits = _whole_data(settings, is_begun)
    task = task.in_words() if settings.label_words else task
    limit, whole = settings.validation_limit, splits.validation
    if limit is None or limit >= len(whole):
        return task, splits
    # Drawn by the seed of the data and not of the search, so that several searches are measured on the same examples.
    return task, replace(splits, validation=draw_subset(whole, limit, np.random.default_rng(settings.data_seed)))


def _whole_data(settings: Settings, is_begun: bool) -> tuple[Task, Splits]:
    if settings.files is not None:
        task, loader = _own_files(settings.files, is_begun)
        return task, loader(settings.protocol, settings.data_seed, settings.train_limit)
    assert settings.task is not None  # Settings allows nothing else
    task = rescored(tasks.lookup(settings.task).under(settings.protocol), settings.metrics)
    data = None if settings.data is None else Path(settings.data)
    return task, tasks.load(
        task, data=data, protocol=settings.protocol, seed=settings.data_seed, train_limit=settings.train_limit
    )


def _own_files(files: FileSettings, is_begun: bool) -> tuple[Task, Loader]:
    return from_files(
        files.train,
        files.validation,
        files.test,
        text=files.text,
        label=files.label,
        kind=files.kind,
        choices=files.choices,
        delimiter=files.delimiter,
        encoding=files.encoding,
        label_separator=files.label_separator,
        metrics=files.metrics,
        class_weights=files.class_weights,
        threshold=files.threshold,
        loss_on=files.loss_on,
        is_begun=is_begun,
    )
