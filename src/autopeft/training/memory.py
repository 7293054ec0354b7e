"""Memory of a training run: how much it took, what is given back after it, and what a shortage is called."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from autopeft.errors import OutOfMemoryFailure, is_out_of_memory

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_FORGET = "5"
"""What makes Linux forget the highest resident size of a process so far, see ``man proc_pid_clear_refs``."""


class Memory:
    """Peak memory in bytes since its creation: of the GPU's allocator, or the resident size of the process on a CPU.

    Attributes:
        is_own: False where the system keeps the peak of the whole process alone, which then is what is told: outside
            Linux, and in containers that forbid to reset it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.is_own = device, True
        if device.type == "cuda":
            # The allocator counts from here on what is in use, the frozen backbone included, since that must fit, too.
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self.is_own = _forgotten()

    def peak(self) -> int:
        """The most so far."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        if self.is_own and (found := re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)):
            return int(found[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _forgotten() -> bool:
    """Let the highest resident size begin anew; False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError):
        # Allowed to the process itself; some containers mount /proc read-only.
        _RESET.write_text(_FORGET)
        return True
    return False


@contextmanager
def memory_given_back() -> Iterator[None]:
    """Give free memory back to the system when the context ends.

    The allocator of glibc keeps what was freed, in pieces that the next architecture's sizes do not fit, so the peak
    of a search would creep up from trial to trial. Other allocators are left alone.
    """
    try:
        yield
    finally:
        trim = _of_glibc("malloc_trim")
        if trim is not None:
            trim(0)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep what is freed for what is asked for next, until the context ends.

    The allocator of glibc gives every block of 32 MB or more back to the system as soon as it is free, and the system
    clears each page of the next one: several candidates in one pass spend a tenth of a step on it. Holes that are some
    bytes short stay, so that the peak grows by a few blocks; for one candidate nothing was gained by that.
    Whoever has set one of glibc's own variables, such as ``MALLOC_MMAP_MAX_``, has chosen, and nothing is changed; nor
    is it with other allocators, or outside Linux.
    """
    choose = None if any(name.startswith(_CHOSEN) for name in os.environ) else _of_glibc("mallopt")
    if choose is None:
        yield
        return
    # No block is a mapping of its own any more, and the end of the heap is not given back either.
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)):
        choose(option, value)
    try:
        yield
    finally:
        # glibc tells nobody what it had before: these are its defaults, the thresholds as its own rule leaves them
        # once blocks of that size have been freed, which in training they are from the first step on.
        for option, value in ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**26)):
            choose(option, value)


_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1
"""The numbers of glibc's options, see ``man mallopt``."""
_CHOSEN = ("MALLOC_", "GLIBC_TUNABLES")


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where there is none of that name."""
    # Looked up and not assumed: musl, another C library for Linux, does not have what glibc has.
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


@contextmanager
def shortage_told() -> Iterator[None]:
    """Make a typed failure of what PyTorch and Python raise when memory runs out."""
    try:
        yield
    except Exception as error:
        # The failure of an inner block is told once, in the words that it already has.
        if is_out_of_memory(error) and not isinstance(error, OutOfMemoryFailure):
            raise OutOfMemoryFailure(str(error) or type(error).__name__) from error
        raise


@contextmanager
def checkpointing(model: Any, wanted: bool) -> Iterator[None]:
    """Recompute the activations of `model` in the backward pass, if `wanted`, until the context ends."""
    if not wanted:
        yield
        return
    # transformers 5 renamed the pair on the way and warns at the old names, which older releases have only.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    # It also makes the embeddings require gradients, for good; only the re-entrant kind needs that, and it would
    # send the backward pass of this and every later trial down to the embeddings.
    model.disable_input_require_grads()
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()


def let_go(failure: BaseException) -> None:
    """Free what the frames of a failed run hold.

    A failure that is kept would keep them, and with them the tensors of its run, while the next candidate is trained:
    one shortage of memory would make the next. Where it happened can still be read from it.
    """
    seen: BaseException | None = failure
    while seen is not None:
        # Its own frames do not suffice: a typed failure is raised from PyTorch's error, whose frames hold the tensors.
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
