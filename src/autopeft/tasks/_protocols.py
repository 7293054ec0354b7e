"""How labelled data is divided into what is trained on, what the search looks at, and what is reported.

The papers' protocols are choices here, with what is wrong with them said aloud. All are functions of the seed.

=====================  ==============================  ==================================  ===================
protocol               train                           validation (the search sees it)     test (reported once)
=====================  ==============================  ==================================  ===================
holdout                rest of train                   own part, else 10 % of train,       own part, else cut
                                                       stratified, at most 2,000           like validation
autopeft               train                           original validation                 the same: optimistic
autopeft-resplit       rest of train                   10 % of train, shuffled             original validation
autopeft-superglue     rest of train                   10 % of train, stratified           original validation
bipeft (large task)    rest of train                   2,000 of train, at random           original validation
bipeft (small task)    train                           first half of the shuffled          second half
                                                       original validation
=====================  ==============================  ==================================  ===================

Sources: AutoPEFT (arXiv 2301.12132, section 4, and its released code for the re-split); BIPEFT (EMNLP Findings
2024, section 4, and its released code).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.errors import DataError, SettingsError, UnknownNameError
from autopeft.tasks._answers import lookup
from autopeft.tasks._examples import Examples, repeated_inputs
from autopeft.tasks._task import Task

logger = logging.getLogger(__name__)

Indices = NDArray[np.int64]

_FRACTION = 0.1
_MOST_HELD_OUT = 2000
_BIPEFT_VALIDATION = 2000
_VALIDATION, _TEST, _LIMIT = 0, 1, 2  # one random stream a purpose, so that one cut does not move another


@dataclass(frozen=True)
class Source:
    """Labelled data by role ("train", "validation", "test"): what it is called, and how it is read.

    A benchmark whose test labels are secret gives its original validation split the role "test".
    """

    names: Mapping[str, str]
    read: Callable[[str], Examples]


@dataclass(frozen=True)
class Splits:
    """The three parts of one run.

    Args:
        train: what is trained on; an example with several right answers is repeated for each.
        validation: what the search looks at.
        open_test: gives the test part. Nothing but the final retraining may call it (through `test`).
        facts: where each part came from, protocol and seed.
        kind: the kind of answer, see `Task.kind`.
        label_names: the classes in the order of their ids.
    """

    train: Examples
    validation: Examples
    open_test: Callable[[], Examples]
    facts: Mapping[str, Any]
    kind: str = "classification"
    label_names: tuple[str, ...] = ()

    @cached_property
    def test(self) -> Examples:
        """The test part, opened at the first access. The search never touches it."""
        logger.info("The test part is opened: %s.", self.facts["test"])
        return self.open_test()

    def describe(self, open_test: bool = False) -> dict[str, Any]:
        """JSON-ready facts: protocol, seed, and for each part its origin, size, class balance, lengths, digest.

        Args:
            open_test: whether to open the test part for it; otherwise only its origin is told.
        """
        facts = dict(self.facts)
        facts["train"] = self._part("train", self.train)
        facts["validation"] = self._part("validation", self.validation)
        facts["validation"]["inputs_also_in_train"] = repeated_inputs(self.train, self.validation)
        facts["test"] = self._part("test", self.test) if open_test else {"from": self.facts["test"]}
        return facts

    def _part(self, role: str, examples: Examples) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "from": self.facts[role],
            "size": len(examples),
            "words": examples.words(),
            "digest": examples.digest(),
        }
        return {**facts, **lookup(self.kind).facts(examples, self.label_names)}


Protocol = Callable[[Task, Source, int], Splits]
"""``protocol(task, source, seed) -> Splits``."""


def cut(task: Task, source: Source, protocol: str, seed: int, train_limit: int | None = None) -> Splits:
    """Divide `source` by the named protocol.

    Args:
        protocol: one of `PROTOCOLS`.
        seed: what the cuts depend on; with one seed the parts are the same on every machine.
        train_limit: keep at most that many training examples, with the classes in their proportions. Applied
            after the cuts, so validation and test do not depend on it.

    Raises:
        UnknownNameError: there is no such protocol.
        SettingsError: the task does not allow it, or the limit is below 1.
        DataError: the data is too small to be cut.
    """
    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, PROTOCOLS)
    if protocol not in task.protocols:
        raise SettingsError(f"The task {task.name} allows the protocols {task.protocols}, but got {protocol!r}.")
    if train_limit is not None and train_limit < 1:
        raise SettingsError(f"A limit on the training examples is at least 1, but got {train_limit}.")
    splits = PROTOCOLS[protocol](task, source, seed)
    return _prepared(splits, task, seed, train_limit)


def holdout(task: Task, source: Source, seed: int) -> Splits:
    """The default: nothing is reported on what the search saw.

    A part that the source has is used as it is. One that it lacks is cut from train: a tenth, at most 2,000,
    classes in their proportions, whole groups together.
    """
    whole = source.read("train")
    rest = np.arange(len(whole), dtype=np.int64)
    cuts: dict[str, Indices] = {}
    # The test part first, so that it is the same whether a validation part was given or has to be cut as well.
    for role, stream in (("test", _TEST), ("validation", _VALIDATION)):
        if role not in source.names:
            # Two thousand tell two results apart to about a percent; more would only be taken from training.
            size = min(_MOST_HELD_OUT, max(1, round(_FRACTION * len(whole))))
            cuts[role], rest = _cut(whole, rest, size, task, _stream(seed, stream))
    validation = whole.subset(cuts["validation"]) if "validation" in cuts else source.read("validation")
    origin = f"{source.names['train']}, {_FRACTION:.0%}, {_manner(whole, task)}, at most {_MOST_HELD_OUT:,}"
    validation_name, test_name = (origin if role in cuts else source.names[role] for role in ("validation", "test"))
    # Opened late: nothing before the final retraining may so much as read the test part.
    opened = (lambda: whole.subset(cuts["test"])) if "test" in cuts else (lambda: source.read("test"))
    train_name = source.names["train"] + (f", without the cut {' and '.join(sorted(cuts))}" if cuts else "")
    names = (train_name, validation_name, test_name)
    return _splits(task, seed, "holdout", whole.subset(rest), validation, opened, names)


def autopeft(task: Task, source: Source, seed: int) -> Splits:
    """AutoPEFT's GLUE protocol: the original validation split is searched on and reported on.

    OPTIMISTIC: the reported score is the best of many looks at the same examples. For comparison with the
    paper's printed numbers only.
    """
    development = source.read("test")
    # Written into the facts of every study, so that no table can show such a score without the word.
    name = f"{source.names['test']}, searched on and reported on: optimistic"
    train = source.read("train")
    return _splits(task, seed, "autopeft", train, development, lambda: development, (source.names["train"], name, name))


def autopeft_resplit(task: Task, source: Source, seed: int) -> Splits:
    """AutoPEFT's released re-split: 90/10 of train, shuffled by the seed; reported on the original validation."""
    return _from_train(task, source, seed, "autopeft-resplit", _FRACTION, None, stratify=False)


def autopeft_superglue(task: Task, source: Source, seed: int) -> Splits:
    """AutoPEFT's SuperGLUE protocol: a tenth of train is searched on, the original validation reported on.

    Groups (MultiRC's questions) stay together.
    """
    return _from_train(task, source, seed, "autopeft-superglue", _FRACTION, None, stratify=True)


def bipeft(task: Task, source: Source, seed: int) -> Splits:
    """BIPEFT's protocol; the split moves with the seed.

    Large tasks: 2,000 random training examples are searched on (half of train where train is smaller), the
    original validation is reported on. Small tasks: the original validation, shuffled, first half searched on,
    second half reported on, example by example even in MultiRC. The halves of a small task are small: CB 28.

    Raises:
        DataError: there are fewer than two examples to halve.
    """
    if task.is_large:
        return _from_train(task, source, seed, "bipeft", 0.5, _BIPEFT_VALIDATION, stratify=False)
    development = source.read("test")
    # The paper moves the halves with the seed, so its deviations are those of the split too.
    order = _stream(seed, _VALIDATION).permutation(len(development))
    half = len(development) // 2
    name = f"{source.names['test']}, shuffled, %s half"
    names = (source.names["train"], name % "first", name % "second")
    validation, test = np.sort(order[:half]), np.sort(order[half:])
    if half == 0:
        raise DataError(f"Halving needs 2 examples at least, but {source.names['test']} has {len(development)}.")
    train = source.read("train")
    return _splits(task, seed, "bipeft", train, development.subset(validation), lambda: development.subset(test), names)


def data_lines(facts: Mapping[str, Any]) -> dict[str, str]:
    """What is predicted and the parts that a search sees, in words, from what `Splits.describe` tells."""
    decided = facts.get("decided")  # what was made of a user's own labels; a benchmark's are known
    found = {"answer": "; ".join(decided)} if decided else {}
    for part in ("train", "validation"):
        own = facts[part]
        classes = ", ".join(f"{name} {count:,}" for name, count in list(own.get("classes", {}).items())[:20])
        found[part] = f"{own['size']:,} examples of {own['from']}" + (f": {classes}" if classes else "")
    return found


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "holdout": holdout,
        "autopeft": autopeft,
        "autopeft-resplit": autopeft_resplit,
        "autopeft-superglue": autopeft_superglue,
        "bipeft": bipeft,
    }
)
"""Every protocol by name."""


def stratified(labels: NDArray[Any], size: int, generator: np.random.Generator, spare: int = 1) -> Indices:
    """`size` indices into `labels`, increasing, with every class in its proportion to within one.

    A class of more than `spare` examples gets one at least, where `size` allows; what that adds, the largest class
    gives. Of every class `spare` examples are left out: 1 where what is left must know all classes, else 0.

    Raises:
        DataError: `size` is more than can be taken so.
    """
    classes, members = np.unique(labels, return_inverse=True)
    counts = np.bincount(members)
    exact = size * counts / len(labels)
    quota = np.floor(exact).astype(np.int64)
    if size > len(labels) - spare * len(classes):
        raise DataError(
            f"{size} of {len(labels)} examples cannot be cut off so that each of {len(classes)} classes keeps one."
        )
    # A class of one example stays in the training part, where alone it can be learnt.
    quota = np.minimum(quota, counts - spare)
    for _ in range(size - quota.sum()):
        # By the largest remainder: what rounding down has left over goes to the classes that lost most by it.
        quota[np.argmax(np.where(quota < counts - spare, exact - quota, -np.inf))] += 1
    # A class that validation never sees could be forgotten without a cost.
    for rare in np.flatnonzero((quota == 0) & (counts > spare)):
        if quota.max() > 1:
            quota[quota.argmax()] -= 1
            quota[rare] += 1
    picked = [generator.permutation(np.flatnonzero(members == c))[: quota[c]] for c in range(len(classes))]
    return np.sort(np.concatenate(picked)).astype(np.int64)


def draw_subset(examples: Examples, size: int, generator: np.random.Generator) -> Examples:
    """`size` random examples in their order; where they have groups, whole ones, as many as fit, one at least.

    Raises:
        DataError: there is but one group.
    """
    if examples.groups:
        return examples.subset(_whole_groups(examples.groups, size, generator))
    return examples.subset(np.sort(generator.permutation(len(examples))[:size]))


def nested_fraction(examples: Examples, fraction: float, seed: int) -> Examples:
    """A random share of `examples` in their order, one at least; a larger share of one seed contains the smaller."""
    if fraction >= 1:
        return examples
    # The beginning of one permutation, so that fidelities are nested.
    n = max(1, round(fraction * len(examples)))
    return examples.subset(np.sort(np.random.default_rng(seed).permutation(len(examples))[:n]))


def _from_train(
    task: Task, source: Source, seed: int, name: str, fraction: float, size: int | None, *, stratify: bool
) -> Splits:
    whole = source.read("train")
    most = max(1, round(fraction * len(whole)))
    wanted = most if size is None else min(size, most)
    everything = np.arange(len(whole), dtype=np.int64)
    held, rest = _cut(whole, everything, wanted, task, _stream(seed, _VALIDATION), stratify=stratify)
    origin = f"{wanted:,} of {source.names['train']}, {_manner(whole, task, stratify)}"
    names = (f"{source.names['train']}, without the cut validation", origin, source.names["test"])
    return _splits(task, seed, name, whole.subset(rest), whole.subset(held), lambda: source.read("test"), names)


def _manner(whole: Examples, task: Task, stratify: bool = True) -> str:
    """How `_cut` goes about it."""
    if whole.groups and stratify:
        return "in whole groups"
    return "stratified" if stratify and task.answers.is_stratified else "at random"


def _cut(
    whole: Examples,
    allowed: Indices,
    size: int,
    task: Task,
    generator: np.random.Generator,
    stratify: bool = True,
    spare: int = 1,
) -> tuple[Indices, Indices]:
    """`size` of the `allowed` indices of `whole`, and the rest of them, with `spare` of each class; both increasing."""
    if len(allowed) <= size:
        raise DataError(f"Cutting {size} examples from {len(allowed)} leaves none to train on.")
    if whole.groups and stratify:
        held = _whole_groups([whole.groups[index] for index in allowed], size, generator)
    elif stratify and task.answers.is_stratified:
        held = stratified(whole.labels[allowed], size, generator, spare)
    else:
        held = np.sort(generator.permutation(len(allowed))[:size])
    return allowed[held], np.delete(allowed, held)


def _whole_groups(groups: Sequence[str], size: int, generator: np.random.Generator) -> Indices:
    """Positions of random whole groups, as many as fit into `size`, one at least."""
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    names = list(sizes)
    if len(names) < 2:
        raise DataError(f"Cutting by groups needs 2 groups at least, but there is {len(names)}: {names}.")
    taken: set[str] = set()
    left = size
    for index in generator.permutation(len(names)):
        # The first group is taken whatever its size: a part of one group is better than an empty one.
        if taken and sizes[names[index]] > left:
            break
        taken.add(names[index])
        left -= sizes[names[index]]
    return np.array([position for position, group in enumerate(groups) if group in taken], dtype=np.int64)


def _stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose])


def _splits(
    task: Task,
    seed: int,
    protocol: str,
    train: Examples,
    validation: Examples,
    open_test: Callable[[], Examples],
    names: tuple[str, str, str],
) -> Splits:
    facts = {
        "task": task.name,
        "protocol": protocol,
        "is_optimistic": protocol == "autopeft",
        "seed": seed,
        **dict(zip(("train", "validation", "test"), names, strict=True)),
    }
    return Splits(train, validation, open_test, facts, task.kind, task.label_names)


def _prepared(splits: Splits, task: Task, seed: int, limit: int | None) -> Splits:
    train, facts = splits.train, dict(splits.facts)
    # After the cuts, so that validation and test are those of the full data and results can be compared.
    if limit is not None and limit < len(train):
        everything = np.arange(len(train), dtype=np.int64)
        kept, _ = _cut(train, everything, limit, task, _stream(seed, _LIMIT), spare=0)  # the rest is used nowhere
        train = train.subset(kept)
        facts["train"] += f", {len(train):,} kept"
    facts["train_limit"] = limit
    return Splits(train.expanded(), splits.validation, splits.open_test, facts, task.kind, task.label_names)
