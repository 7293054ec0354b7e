"""Memory of a training run: how much it took, what is given back after it, and what a shortage is called."""

from __future__ import annotations

import ctypes
import resource
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from autopeft.errors import OutOfMemoryFailure, is_out_of_memory


class Memory:
    """Peak memory in bytes since its creation (GPU), or of the process so far (CPU: only the peak is kept)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def peak(self) -> int:
        """Bytes."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def memory_given_back() -> Iterator[None]:
    """Give free memory back to the system when the context ends.

    The allocator of glibc keeps what was freed, in pieces that the next architecture's sizes do not fit, so the peak
    of a search would creep up from trial to trial. Other allocators are left alone.
    """
    try:
        yield
    finally:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)


@contextmanager
def shortage_told() -> Iterator[None]:
    """Make a typed failure of what PyTorch and Python raise when memory runs out."""
    try:
        yield
    except Exception as error:
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
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
