"""Examples of a task: parallel sequences of texts and labels, and what can be said of them without a model."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Segments = tuple[str, ...]
"""One text or a pair of texts, in the order in which an encoder reads them."""


@dataclass(frozen=True, eq=False)
class Examples:
    """A light container of n examples. Its sequences are parallel; those that a task does not need are empty.

    Args:
        labels: shape ``(n,)``. int64 class ids, float64 targets (regression), or the int64 index of the right
            choice (multiple choice); where there may be several labels ``(n, labels)``, int64 0 and 1.
        texts: one or two segments an example; empty for multiple choice.
        choices: for multiple choice, the candidate texts of every example, one or two segments each. Their
            number may differ between examples.
        groups: a name an example; examples of one name are scored together (MultiRC: the question) and stay in
            one part when a part is cut by groups.
        answers: gold answers as text, for metrics that compare strings (ReCoRD).
        names: what each choice stands for as text (ReCoRD: the entities).
        gold: indices of every right choice where several are right (ReCoRD); `labels` holds the first.
        fields: named raw fields for text-to-text models, where they differ from `texts`.
    """

    labels: NDArray[Any]
    texts: Sequence[Segments] = ()
    choices: Sequence[Sequence[Segments]] = ()
    groups: Sequence[str] = ()
    answers: Sequence[tuple[str, ...]] = ()
    names: Sequence[tuple[str, ...]] = ()
    gold: Sequence[tuple[int, ...]] = ()
    fields: Sequence[tuple[tuple[str, str], ...]] = ()

    def __post_init__(self) -> None:
        sizes = {name: len(getattr(self, name)) for name in (*_PARALLEL, "labels")}
        # Found here instead of in a batch, where a sequence that is too long would shift texts against labels.
        wrong = {name: size for name, size in sizes.items() if size not in (0, len(self.labels))}
        if wrong:
            raise ValueError(f"Parallel sequences need one length, {len(self.labels)}, but got {wrong}.")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Examples:
        """The examples at `indices`, in that order; an index may be repeated."""
        chosen = np.asarray(indices, dtype=np.int64)
        columns = {name: _take(getattr(self, name), chosen) for name in _PARALLEL}
        return Examples(self.labels[chosen], **columns)

    def expanded(self) -> Examples:
        """For training: an example with several right choices is repeated once for each of them.

        Without `gold` the examples themselves. (ReCoRD in the BIPEFT release: one example a gold answer.)
        """
        if not self.gold:
            return self
        pairs = [(row, choice) for row, right in enumerate(self.gold) for choice in right]
        repeated = self.subset([row for row, _ in pairs])
        labels = np.array([choice for _, choice in pairs], dtype=np.int64)
        return Examples(labels, **{name: getattr(repeated, name) for name in _PARALLEL})

    def segments(self) -> Iterator[Segments]:
        """Every text that an encoder reads, choices one by one."""
        yield from self.texts
        for candidates in self.choices:
            yield from candidates

    def words(self) -> dict[str, int]:
        """Length in words (split at white space) of a whole input: median, 95th percentile, longest.

        Sub-word tokens are usually a third more. All zero without examples.
        """
        lengths = [sum(len(part.split()) for part in parts) for parts in self.segments()] or [0]
        median, high = np.percentile(lengths, [50, 95], method="nearest")
        return {"median": int(median), "p95": int(high), "longest": int(max(lengths))}

    def balance(self) -> dict[str, int]:
        """How often each label occurs, most frequent first; meant for classes."""
        counts = Counter(str(label) for label in self.labels.tolist())
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def digest(self) -> str:
        """Sixteen hexadecimal digits of the texts and labels in their order, stable across processes."""
        sha = hashlib.sha256()
        for label in self.labels.tolist():
            # By `repr`, which writes a float with all its digits and tells 1 from 1.0.
            sha.update(f"{label!r}\n".encode())
        for parts in self.segments():
            # A separator that no text holds, or two texts and one long text would be the same.
            sha.update("\x1f".join(parts).encode("utf-8", "surrogatepass") + b"\n")
        return sha.hexdigest()[:16]


_PARALLEL = ("texts", "choices", "groups", "answers", "names", "gold", "fields")


def repeated_inputs(first: Examples, second: Examples) -> int:
    """How many examples of `second` have an input that also occurs in `first`: a leak, when they are two parts."""
    seen = set(_inputs(first))
    return sum(item in seen for item in _inputs(second))


def _inputs(examples: Examples) -> Iterable[tuple[Any, ...]]:
    return examples.texts if examples.texts else (tuple(item) for item in examples.choices)


def _take(column: Sequence[Any], chosen: NDArray[np.int64]) -> list[Any]:
    return [column[index] for index in chosen] if len(column) else []
