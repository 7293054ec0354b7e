"""The options that describe a search, for every command that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Concatenate

import typer

from autopeft.cli import options
from autopeft.cli.studies import TrustRemoteCode
from autopeft.errors import SettingsError
from autopeft.settings import Settings

Sets = Annotated[list[str], typer.Option("--set", help="Any setting, as key=value with dots: recipe.epochs=3.")]
TrainFiles = Annotated[
    list[str],
    typer.Option("--train-file", help="Your own CSV, TSV, JSONL or Parquet; a folder, or again for more."),
]
ValidationFile = Annotated[
    Path | None, typer.Option("--validation-file", help="What the search looks at; else cut from the train file.")
]
TestFile = Annotated[
    Path | None, typer.Option("--test-file", help="What retraining reports on; else cut from the train file.")
]
Kind = Annotated[str | None, typer.Option(help="What labels are: classification or regression; guessed unless said.")]
Metrics = Annotated[
    list[str], typer.Option("--metric", help="What is scored; again for more, the first is searched for.")
]
ClassWeights = Annotated[
    str | None, typer.Option(help="Of your classes in the loss: balanced, or numbers such as good=1,bad=4.")
]
LabelSeparator = Annotated[
    str | None, typer.Option(help="What stands between several labels of one cell of your file, such as ;")
]
Budgets = Annotated[
    list[str], typer.Option(help="Hard limit: 0.5%, 1.39‱, 837120, or 0.1%-0.5%; again for each budget of bipeft.")
]
File = Annotated[Path | None, typer.Argument(help="Settings in YAML; options override it.", metavar="[SETTINGS.yaml]")]
CostName = Annotated[str | None, typer.Option(help="What is minimised beside the metric, see `autopeft list costs`.")]
Trainings = Annotated[float | None, typer.Option(help="Budget of the search in whole trainings.")]
Promotion = Annotated[str | None, typer.Option(help="Which trials go on from a rung: `autopeft list promotions`.")]
MaxRetries = Annotated[int | None, typer.Option(help="How often a trial whose worker was lost is tried again.")]
Start = Annotated[
    str | None,
    typer.Option(help="Initial design: random, baselines and then points that fill the space, or around --warm-start."),
]
WarmStart = Annotated[
    list[str], typer.Option(help="What begins the search: a study, a file, or lora_all:8; again for more.")
]
Rates = Annotated[
    str | None, typer.Option(help="Learning rates before the search: sweep (one for all) or card (one a method).")
]
PrecisionName = Annotated[
    str | None, typer.Option(help="float32, bf16, or auto (the default): bf16 where it is faster and keeps the loss.")
]
Quantized = Annotated[str | None, typer.Option(help="8bit or 4bit: keep the model's linear maps so, by bitsandbytes.")]
Workers = Annotated[
    str | None, typer.Option(help="Processes on this machine, or auto: one a core where a measurement says it pays.")
]
MemoryLimit = Annotated[
    str | None, typer.Option(help="What a trial may need at its peak, such as 10GB; one that needs more fails.")
]
TruncationSide = Annotated[
    str | None, typer.Option(help="Where texts that are too long are cut: right (the default) or left.")
]


def asked(
    file: File = None,
    model: Annotated[str | None, typer.Option(help="A folder, a name on the Hub, or minilm.")] = None,
    quantize: Quantized = None,
    task: Annotated[str | None, typer.Option(help="A task, see `autopeft list tasks`.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the task's files in the Hub's field names.")] = None,
    train: TrainFiles = [],  # noqa: B006
    validation: ValidationFile = None,
    test: TestFile = None,
    text: Annotated[list[str], typer.Option(help="Text column of your file; twice for pairs.")] = [],  # noqa: B006
    label: Annotated[str | None, typer.Option(help="Label column of your file.")] = None,
    kind: Kind = None,
    metric: Metrics = [],  # noqa: B006
    class_weights: ClassWeights = None,
    label_separator: LabelSeparator = None,
    encoding: Annotated[str | None, typer.Option(help="Of your text files, such as cp1252; else UTF-8.")] = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated methods of the space.")] = None,
    space: Annotated[str | None, typer.Option(help="A named space, see `autopeft list spaces`.")] = None,
    budget: Budgets = [],  # noqa: B006
    sampler: Annotated[str | None, typer.Option(help="See `autopeft list samplers`.")] = None,
    preset: Annotated[str | None, typer.Option(help="One of paper, released, recommended, robust, limits.")] = None,
    cost: CostName = None,
    trials: Annotated[int | None, typer.Option(help="Total number of trials of the study.")] = None,
    trainings: Trainings = None,
    promotion: Promotion = None,
    initial: Annotated[int | None, typer.Option(help="How many of them are the initial design.")] = None,
    start: Start = None,
    warm_start: WarmStart = [],  # noqa: B006
    rates: Rates = None,
    epochs: Annotated[float | None, typer.Option(help="Epochs of every trial (the fidelity).")] = None,
    truncation_side: TruncationSide = None,
    precision: PrecisionName = None,
    train_limit: Annotated[int | None, typer.Option(help="Use at most so many training examples.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the search.")] = None,
    max_retries: MaxRetries = None,
    workers: Workers = None,
    batch: Annotated[int | None, typer.Option(help="Trials trained in one pass over the model at most.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    devices: Annotated[str | None, typer.Option(help="One for each worker in turn: cuda:0,cuda:1.")] = None,
    memory: MemoryLimit = None,
    trust_remote_code: TrustRemoteCode = False,
    sets: Sets = [],  # noqa: B006
) -> Settings:
    """The settings of a search as its options say them.

    Raises:
        SettingsError: the file or an option cannot be used, or two of them exclude each other.
    """
    plain = {  # metrics are those of files where no task is named
        "model": model, "quantize": quantize, "task": task, "data": data, "sampler": sampler, "cost": cost,
        "trials": trials, "trainings": trainings, "promotion": promotion, "initial": initial, "start": start,
        "rates": rates, "warm_start": warm_start or None, "train_limit": train_limit, "seed": seed,
        "max_retries": max_retries, "workers": _number(workers), "batch": batch, "device": device, "memory": memory,
        "devices": None if devices is None else [name.strip() for name in devices.split(",") if name.strip()],
        "space.name": space, "space.budget": budget[0] if len(budget) == 1 else None, "recipe.epochs": epochs,
        "recipe.truncation_side": truncation_side, "recipe.precision": precision,
        "files.train": train[0] if len(train) == 1 else train or None, "files.validation": validation,
        "files.test": test, "files.text": text or None, "files.label": label, "files.kind": kind,
        "files.encoding": encoding, ("metrics" if task else "files.metrics"): metric or None,
        "files.class_weights": options.class_weights(class_weights), "sampler_options.preset": preset,
        "files.label_separator": label_separator, "space.methods": methods.split(",") if methods else None,
    }  # fmt: skip
    settings = options.read(file, plain, sets, trust_remote_code=trust_remote_code)
    _check_methods(settings, methods)
    return _with_budgets(settings, budget)


def _number(text: str | None) -> int | str | None:
    """A number where the text is one; anything else is judged where settings are read."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return text


def _check_methods(settings: Settings, methods: str | None) -> None:
    if methods and (name := settings.space.name) and not _takes_methods(name):
        raise SettingsError(f"--methods {methods} and the named space {name!r} exclude each other.")


def _takes_methods(name: str) -> bool:
    from autopeft.spaces import named  # brings torch, which few commands need

    return "methods" in named.lookup(name).takes


def takes(*sources: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of `sources` in place of its first parameters, which are what each of them returns."""

    def given_to(command: Callable[..., None]) -> Callable[..., None]:
        # Evaluated, as annotations are text in this package and typer reads the objects behind them.
        shared = [inspect.signature(source, eval_str=True).parameters for source in sources]
        own = list(inspect.signature(command, eval_str=True).parameters.values())[len(sources) :]

        @wraps(command)
        def run(**given: Any) -> None:
            found = [
                source(**{name: given.pop(name) for name in names})
                for source, names in zip(sources, shared, strict=True)
            ]
            command(*found, **given)

        merged = [parameter for names in shared for parameter in names.values()] + own
        # typer builds its options from the signature, so that several commands share one list of them.
        run.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
        del run.__wrapped__  # its signature is another
        return run

    return given_to


def takes_a_search(command: Callable[Concatenate[Settings, ...], None]) -> Callable[..., None]:
    """Give `command` the options of `asked` in place of its first parameter, the settings."""
    return takes(asked)(command)


def _with_budgets(settings: Settings, budgets: list[str]) -> Settings:
    """Several budgets go to a sampler that answers each; a single one limits the space, whatever the sampler."""
    if len(budgets) < 2:
        return settings
    from autopeft.session import answers_budgets

    if not answers_budgets(settings.sampler):
        raise SettingsError(f"The sampler {settings.sampler!r} has one budget: give one range, such as 0.1%-0.5%.")
    options = {**settings.sampler_options, "budgets": list(budgets), "count": settings.space.count}
    return settings.with_changes(sampler_options=options)
