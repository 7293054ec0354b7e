"""Settings of a search: what a person writes, in YAML or as keywords, checked strictly.

Nothing below this layer sees a settings object: `autopeft.session` turns it into plain objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml

from autopeft import yaml_files
from autopeft.came_later import without_later
from autopeft.errors import SettingsError
from autopeft.fidelity import rungs_of
from autopeft.rules import (
    CLOSED,
    Count,
    Flag,
    Many,
    Named,
    Natural,
    Options,
    Part,
    Positive,
    Probability,
    Text,
    Written,
    raise_if_any,
    read,
    violations,
)
from autopeft.sizes import bytes_of
from autopeft.training.recipe import Recipe
from autopeft.writing import write_whole


@dataclass(frozen=True)
class FileSettings:
    """A user's own files: each part a file, a folder of files, a pattern with ``*``, or a list of these.

    Args:
        train: what is trained on.
        text: the text columns, one or two.
        label: the label column.
        validation: what the search looks at; None cuts it from the training part.
        test: what a retraining reports on; None cuts it from the training part.
        kind: what the labels are: "classification", "regression", "multiple_choice", "multi_label", "text", or "auto"
            to guess.
        choices: the columns of a multiple choice.
        delimiter: between the columns of a CSV; None finds it out.
        encoding: of text files; None for UTF-8 or what a byte-order mark says.
        label_separator: what stands between several labels of one cell.
        metrics: what is scored; the first is searched for, the kind's own follow.
        class_weights: of the classes in the loss: "balanced", or a number by class, 1 for others; None for 1 each.
        threshold: the probability above which one of several labels is predicted.
        loss_on: what a decoder that writes is trained to say: the answers ("completion"), or the prompts too ("all").
    """

    train: Text | Many[Text]
    text: Many[Text]
    label: Text = "label"
    validation: Text | Many[Text] | None = None
    test: Text | Many[Text] | None = None
    kind: Text = "auto"
    choices: Many[Text] = ()
    delimiter: Text | None = None
    encoding: Text | None = None
    label_separator: Text | None = None
    metrics: Many[Text] = ()
    class_weights: Literal["balanced"] | dict[Text, Positive] | None = None
    threshold: Probability = 0.5
    loss_on: Literal["completion", "all"] = "completion"

    __pydantic_config__ = CLOSED

    def parts(self) -> dict[str, tuple[str, ...]]:
        """What is named for each part that is given."""
        given = {part: getattr(self, part) for part in _PARTS}
        return {part: (said,) if isinstance(said, str) else said for part, said in given.items() if said is not None}


@dataclass(frozen=True)
class AxisSettings:
    """One method of a space.

    Args:
        sizes: what it may have, 0 meaning absent; None for those that are usual for the method.
        roles: where it may stand; None for the method's own.
    """

    sizes: Many[Natural] | None = None
    roles: Many[Text] | None = None

    __pydantic_config__ = CLOSED


@dataclass(frozen=True)
class SpaceSettings:
    """The search space.

    Args:
        name: a space of the papers, "recommended" or "decoder" (`autopeft.spaces.named`), or None to use `methods`.
        methods: method name to sizes and roles; in the space "decoder" they take the place of LoRA.
        sharing: "shared", "layer", "placement" or "band".
        layers: "search", "all", or the 0-based layers that are on.
        bands: of the sharing "band" and the space "decoder", how many runs of neighbouring layers have sizes of their
            own; None takes 4.
        budget: "0.5%", "1.39‱", a count, or a range; None for no limit.
        count: which count the budget limits.
        rate_factors: by name of a method, or "all" for everything that is trained, factors on its learning rate to
            choose from; see `autopeft.spaces.dials.with_dials`. The space "recommended" has 1/3, 1 and 3 for all,
            "decoder" 1/4 to 4.
        scales: by name of a method, or "all" for every one that has a scale, factors on it to choose from.
        batch_factors: factors on the examples a step to choose from, such as 0.25, 0.5 and 1: with a quarter there are
            four times as many steps, and as many examples go through the model. None takes what the space has, see
            `autopeft list spaces`; empty for no choice.
        dropout_factors: 0 for no dropout and 1 for that of the recipe to choose from, where both are given; None and
            empty as for `batch_factors`.
        least_steps: steps that a training has at least before a search tries fewer, as far as `batch_factors` allow:
            baselines and learning rates are tried with the largest batches that leave so many. 0 for the recipe's; None
            for 150 where there is a choice of batches.
    """

    name: Text | None = None
    methods: Named[AxisSettings] = field(
        default_factory=lambda: {"serial": AxisSettings(), "parallel": AxisSettings(), "prefix": AxisSettings()}
    )
    sharing: Literal["shared", "layer", "placement", "band"] = "shared"
    layers: Text | Many[Natural] = "search"
    bands: Count | None = None
    budget: Text | None = None
    count: Literal["nominal", "stored"] = "nominal"
    rate_factors: dict[str, Many[Positive]] = field(default_factory=dict)
    scales: dict[str, Many[Positive]] = field(default_factory=dict)
    batch_factors: Many[Positive] | None = None
    dropout_factors: Many[Natural] | None = None
    least_steps: Natural | None = None

    __pydantic_config__ = CLOSED


_AUTO: Mapping[str, Any] = MappingProxyType({"precision": "auto"})
"""What the recipe of a search's settings has where nothing is written, in place of what `Recipe` itself has."""


def _with_auto(value: Any) -> Any:
    # Here and not as the default of `Recipe`: whoever trains by a recipe of his own gets the arithmetic that it says.
    return {**_AUTO, **(value or {})} if value is None or isinstance(value, Mapping) else value


RecipeOfASearch = Annotated[Recipe, Written(_with_auto, also=lambda _: {"type": "null"})]
"""A recipe whose precision is left to the search unless it is written."""


@dataclass(frozen=True)
class Settings:
    """A whole search.

    A resumed one may have other `trials`, `trainings`, `max_retries`, `workers`, `batch`, `trackers`, `device`,
    `devices` and `memory`.

    Args:
        model: a folder, a name on the Hub, or "minilm" (packaged weights).
        quantize: "8bit" or "4bit" keeps the linear maps of the model so, by bitsandbytes (extra `quantized`).
        task: a task's name; None when `files` are given.
        data: a folder with the task's files in the Hub's field names; None for the task's own source.
        files: the user's own files.
        metrics: of a named task, what is scored; the first is searched for, the task's own follow. Of files it is
            `files.metrics`.
        protocol: how the data is split.
        data_seed: seed of the splits.
        train_limit: keep at most that many training examples.
        validation_limit: keep at most that many validation examples, a random subset drawn from `data_seed`.
        space: what is searched.
        answer: how an answer is read. Of a text-to-text model "score" compares the likelihoods of the labels,
            "generate" decodes greedily, and what is no label is wrong. Of a decoder "score" is a head; it answers in
            words for "generate", for "words" (the likelihoods of the labels compared) and for "words_per_token" (their
            means over the tokens). Where the answer is free text, models that write decode it, whatever is said here.
        label_words: whether a text-to-text model says the names of the classes instead of their numbers.
        recipe: how every architecture is trained during the search (the fidelity).
        rungs: points of every training at which it is measured besides, such as 1 and 3 for epochs or "10%" for a share
            of the steps; the end is the last one.
        promotion, promotion_options: which trials go on from a rung to the next, see `autopeft list promotions`; "all"
            trains every one to its end.
        rates: "sweep" finds one learning rate for all before the search, "card" one for each method of the space,
            "rule" trains nothing for it and takes what usually suits LoRA on a model of this hidden size, unless the
            recipe has a rate that is not the default. None takes the card in the space "recommended", the rule in the
            space "decoder" where no `learning_rates` are written, and the sweep elsewhere.
        learning_rates: what is tried for that; empty keeps the recipe's learning rate.
        sampler, sampler_options: who proposes.
        cost: what is minimised beside the metric, see `autopeft list costs`, or a dotted path to one of your own.
        trials: total number of trials; samplers that answer budgets need no more than they have answers.
        trainings: how much the trials may train in all, in trainings from beginning to end, of which one that is
            paused is a part; `trials` is a limit all the same. None for no such limit.
        initial: how many of them form the initial design; None takes 20, 30 of those that start with baselines, 12 in
            the space "decoder", or none where the sampler does not read what was measured but answers budgets.
        start: the initial design: "random"; "baselines", which begins with uniform architectures and then fills the
            space evenly, see `autopeft.spaces.start`; or "around", what lies around the points of `warm_start`, one
            choice changed at a time, see `autopeft.spaces.variations`. None takes "baselines" in the spaces
            "recommended" and "decoder", else random ones.
        warm_start: what begins the initial design: baselines such as "lora_all:8"; files of architectures; studies, of
            which it is the front, put on this model by relative depth and width. Each as the nearest point of the
            space; read when the search begins, and not when it goes on.
        seed: of the search and of every training run in it.
        max_retries: how often a trial whose worker was lost is tried again.
        workers: processes on this machine; "auto" measures on a CPU whether one a core trains more than one alone.
        batch: trials that a process trains in one pass over the backbone at most.
        device: where everything is computed, such as "cpu" or "cuda".
        devices: one for each worker in turn, such as "cuda:0" and "cuda:1"; empty lets all use `device`.
        memory: what a training may need at its peak, such as "10GB" or "512MiB": of a GPU its memory, on a CPU what of
            the process lies in memory. A trial that is predicted to need more, or does, fails as "oom". None for no
            limit.
        trackers: experiment trackers that are told of every trial, such as "tensorboard" or "wandb".
        trust_remote_code: whether code that the model brings is run. No file can say so, and none is written that does:
            whoever runs the program does, with ``--trust-remote-code``.
    """

    model: Text = "minilm"
    quantize: Literal["8bit", "4bit"] | None = None
    task: Text | None = None
    data: Text | None = None
    files: FileSettings | None = None
    metrics: Many[Text] = ()
    protocol: Text = "holdout"
    data_seed: Natural = 0
    train_limit: Count | None = None
    validation_limit: Count | None = None
    space: Part[SpaceSettings] = field(default_factory=SpaceSettings)
    answer: Literal["score", "generate", "words", "words_per_token"] = "score"
    label_words: Flag = False
    recipe: RecipeOfASearch = field(default_factory=lambda: Recipe(**_AUTO))
    rungs: Many[Text] = ()
    promotion: Text = "all"
    promotion_options: Options = field(default_factory=dict)
    rates: Literal["sweep", "card", "rule"] | None = None
    learning_rates: Many[Positive] = (3e-4, 1e-3, 3e-3)
    sampler: Text = "saas-nehvi"
    sampler_options: Options = field(default_factory=dict)
    cost: Text = "nominal"
    trials: Count = 60
    trainings: Positive | None = None
    initial: Natural | None = None
    start: Literal["random", "baselines", "around"] | None = None
    warm_start: Many[Text] = ()
    seed: Natural = 42
    max_retries: Natural = 3
    workers: Literal["auto"] | Count = 1
    batch: Count = 1
    trackers: Many[Text] = ()
    device: Text = "cpu"
    devices: Many[Text] = ()
    memory: Text | None = None
    trust_remote_code: Flag = False

    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        # All mistakes are gathered before any is told: whoever writes a file wants to mend it once, and not once a
        # mistake.
        wrong = violations(self)
        if (self.task is None) == (self.files is None):
            wrong.append("either `task` or `files` must be given, and not both")
        if self.files is not None and self.metrics:
            wrong.append("`metrics` are of a named task: say `files.metrics` of files")
        wrong += _wrong_with(rungs_of, "rungs", self.rungs)
        # What is no text has been told above.
        wrong += _wrong_with(bytes_of, "memory", self.memory) if isinstance(self.memory, str) else []
        raise_if_any("The settings cannot be used", wrong)

    @property
    def n_workers(self) -> int:
        """Processes on this machine; one as long as that is left to a measurement."""
        return 1 if self.workers == "auto" else self.workers

    def as_dict(self) -> dict[str, Any]:
        """A mapping ready for YAML and JSON; `from_dict` is its inverse."""
        return dict(_to_json(self))

    def identity(self) -> dict[str, Any]:
        """What must not differ when a study is resumed."""
        found = self.as_dict()
        # How long, how fast and where it is searched may change between two calls.
        for name in (
            "trials",
            "trainings",
            "max_retries",
            "workers",
            "batch",
            "trackers",
            "device",
            "devices",
            "memory",
        ):
            del found[name]
        found["recipe"] = without_later(found["recipe"])
        found["space"] = without_later(found["space"])
        # The parts inside the settings have grown entries too, and a study from before must still be recognised by each
        # of them.
        found["files"] = None if self.files is None else without_later(found["files"])
        return without_later(found)

    def with_changes(self, **changes: Any) -> Settings:
        """A copy with some settings replaced."""
        return replace(self, **changes)

    @property
    def most_memory(self) -> int | None:
        """Bytes that a training may need at its peak; None for no limit."""
        return None if self.memory is None else bytes_of(self.memory)

    def inputs(self) -> dict[str, str | None]:
        """The files and folders that are read, by what a message calls them; the model may be a name of the Hub."""
        own = {} if self.files is None else self.files.parts()
        named = {
            f"the {part} file" + (f" {number}" if len(paths) > 1 else ""): path
            for part, paths in own.items()
            for number, path in enumerate(paths, start=1)
        }
        begun = {f"what `warm_start` names ({source})": source for source in self.warm_start}
        return {"the base model": self.model, "the data": self.data, **named, **begun}


def _wrong_with(read: Callable[[Any], Any], name: str, value: Any) -> list[str]:
    try:
        read(value)
    except SettingsError as error:
        return [f"`{name}`: {str(error).removesuffix('.')}"]
    return []


_PARTS = ("train", "validation", "test")


def from_dict(data: Mapping[str, Any], *, trust_remote_code: bool = False) -> Settings:
    """Settings from a mapping as YAML gives it.

    Args:
        trust_remote_code: whether whoever runs the program lets a model bring code; the mapping cannot allow that.

    Raises:
        SettingsError: unknown keys (with the nearest right one) and values of the wrong type, all together.
    """
    # A file that comes from somebody else must not be able to have their code run.
    asked = data.get("trust_remote_code", False)
    # Read with what the program allows, so that all other mistakes are told together with this one.
    found = read(Settings, {**data, "trust_remote_code": trust_remote_code if isinstance(asked, bool) else asked})
    mistakes = found if isinstance(found, list) else []
    if asked is True and not trust_remote_code:
        mistakes = [*mistakes, _TRUST]
    if mistakes or isinstance(found, list):
        raise SettingsError(f"The settings cannot be used: {'; '.join(mistakes)}.")
    return found


_TRUST = (
    "`trust_remote_code` cannot be allowed by settings, because it runs the code of others on your machine: "
    "leave it out, and if you trust the model, give --trust-remote-code at the command line"
)


def load(path: str | Path, *, trust_remote_code: bool = False) -> Settings:
    """Settings from a YAML file; see `from_dict`.

    Raises:
        SettingsError: the file cannot be read, is not a mapping, or see `from_dict`.
    """
    return from_dict(read_yaml(path), trust_remote_code=trust_remote_code)


def save(settings: Settings, path: str | Path) -> None:
    """Write the resolved settings as YAML; whether a model may bring code is asked anew of whoever reads them."""
    # Settings are passed on with a study: the trust of whoever began it must not travel to whoever opens it.
    told = {name: value for name, value in settings.as_dict().items() if name != "trust_remote_code"}
    with write_whole(path) as part:
        part.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        SettingsError: it cannot be read, or holds something else; see `autopeft.yaml_files`.
    """
    data = yaml_files.read(path)
    if not isinstance(data, dict):
        raise SettingsError(f"The settings file {str(path)!r} must hold a mapping, but holds {type(data).__name__}.")
    return data


def _to_json(value: Any) -> Any:
    if is_dataclass(value):  # not by `asdict`, which copies every value deeply before it is looked at
        return {item.name: _to_json(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, (list, tuple)) else value
