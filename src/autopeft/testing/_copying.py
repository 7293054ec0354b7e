"""Copies of one object, many times, faster than `copy.deepcopy` makes them."""

from __future__ import annotations

import copy
import io
import pickle
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor


class Copier:
    """Makes copies of `original`; tensors and functions may be anywhere in it.

    A deep copy walks through every mapping of every module in Python, which takes five times as long as to read a
    pickle does, and half of the time that a promise about a tiny model takes to check.
    """

    def __init__(self, original: object) -> None:
        buffer = io.BytesIO()
        writer = _Writer(buffer)
        writer.dump(original)
        self._text = buffer.getvalue()
        self._apart = writer.apart

    def __call__(self) -> Any:
        """A copy that shares nothing with the original or another copy but functions."""
        return _Reader(self._text, self._apart).load()


class _Writer(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO) -> None:
        super().__init__(buffer, pickle.HIGHEST_PROTOCOL)
        self.apart: list[Tensor | FunctionType] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, one: Any) -> int | None:
        """The number of what is kept apart; None for all else, which is pickled.

        Tensors take PyTorch's own way through a file when they are pickled, which is slow, and a function that has no
        name in its module cannot be pickled at all.
        """
        if not isinstance(one, Tensor | FunctionType):
            return None
        if id(one) not in self._numbers:
            self._numbers[id(one)] = len(self.apart)
            self.apart.append(one)
        return self._numbers[id(one)]

    def reducer_override(self, one: Any) -> Any:
        """How a bound method is taken apart; all else goes its usual way."""
        # Pickle looks it up by its name, in an object that may not be filled yet or have it under another name.
        return (_bound, (one.__func__, one.__self__)) if isinstance(one, MethodType) else NotImplemented


def _bound(function: FunctionType, owner: object) -> MethodType:
    return MethodType(function, owner)


class _Reader(pickle.Unpickler):
    def __init__(self, text: bytes, apart: list[Tensor | FunctionType]) -> None:
        super().__init__(io.BytesIO(text))
        self._apart = apart
        # One memory for all tensors of a copy, so that weights that are tied stay tied.
        self._copied: dict[int, Any] = {}

    def persistent_load(self, number: int) -> Any:
        """A copy of the tensor with this number, or the function itself."""
        return copy.deepcopy(self._apart[number], self._copied)
