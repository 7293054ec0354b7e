"""Backbones whose linear maps are kept in 8 or 4 bits by bitsandbytes: how they are loaded, and what they hold.

8 bits are LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339), 4 bits NF4 with doubly quantised constants, as in QLoRA
(Dettmers et al. 2023, arXiv 2305.14314). Embeddings, norms and biases keep their precision. bitsandbytes comes with the
extra `quantized` and is imported nowhere before such a backbone is loaded.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autopeft.errors import BackboneError

Quantize = Literal["8bit", "4bit"]
"""How many bits a weight of a linear map is kept in."""

QUANTIZED: tuple[str, ...] = get_args(Quantize)

# The classes of bitsandbytes' parameters, told by their names so that nothing of it is imported to ask.
_BITS = (("Params4bit", "4bit"), ("Int8Params", "8bit"))

_BLOCK, _OUTER = 64, 256
"""NF4 has a constant for each block of so many weights, and one more for so many of these constants."""

_TABLES = 4 * (16 + 256 + 1)
"""Bytes that every map in 4 bits has besides: both tables of values, and the mean of the constants."""


def is_available() -> bool:
    """Whether bitsandbytes is installed."""
    return importlib.util.find_spec("bitsandbytes") is not None


def check_quantize(quantize: str | None) -> None:
    """Refuse to quantise where that cannot be done.

    Raises:
        BackboneError: `quantize` is neither None nor one of `QUANTIZED`, or bitsandbytes is not installed.
    """
    if quantize is None:
        return
    if quantize not in QUANTIZED:
        raise BackboneError(f"A backbone is quantised to {' or '.join(QUANTIZED)}, but got {quantize!r}.")
    if not is_available():
        raise BackboneError(
            f"A backbone in {quantize} needs bitsandbytes, which is not installed: pip install 'autopeft[quantized]'."
        )


def loading_options(quantize: str | None, dtype: torch.dtype, device: str | torch.device) -> dict[str, Any]:
    """What transformers is told to load weights in so many bits right onto `device`; nothing for None.

    Products are computed in `dtype`, or in what automatic mixed precision says within it; those in 8 bits take float16.
    """
    if quantize is None:
        return {}
    from transformers import BitsAndBytesConfig

    _hush()
    options = (
        {"load_in_8bit": True}
        if quantize == "8bit"
        else {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        }
    )
    # A quantised model cannot be moved afterwards, so that its place is said at once.
    return {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": str(device)}}


def _hush() -> None:
    """bitsandbytes logs at every product that its inputs become float16, which `loading_options` says once."""
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "inputs will be cast" not in str(record.msg)


def quantization_of(model: nn.Module) -> str | None:
    """In how many bits `model` keeps its linear maps, one of `QUANTIZED`; None where they are ordinary."""
    names = {type(parameter).__name__ for parameter in model.parameters()}
    return next((bits for name, bits in _BITS if name in names), None)


def is_quantized(module: nn.Module) -> bool:
    """Whether the weight of this very module is kept in 8 or 4 bits."""
    return type(getattr(module, "weight", None)).__name__ in dict(_BITS)


def whole_weight(module: Any) -> Tensor:
    """The weight ``(d_out, d_in)`` of a quantised linear map as ordinary numbers: a copy, made anew at every call."""
    from bitsandbytes import functional

    weight = module.weight
    if type(weight).__name__ == "Params4bit":
        found: Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
        return found
    # The scales move from the weight to the state of the module with its first pass.
    scales = weight.SCB if weight.SCB is not None else module.state.SCB
    found = functional.int8_vectorwise_dequant(weight.data, scales)
    return found


def n_numbers(parameters: Iterable[nn.Parameter]) -> int:
    """How many weights `parameters` are; two in 4 bits lie in one byte."""
    # What is packed knows the shape that it had; ordinary parameters, and those in 8 bits, have theirs.
    packed = ((getattr(parameter, "quant_state", None), parameter) for parameter in parameters)
    return sum(math.prod(parameter.shape if state is None else state.shape) for state, parameter in packed)


def weight_bytes(model: nn.Module, quantize: str | None, width: int = 4) -> int:
    """Bytes of the weights of `model`, which may have none yet, once they are kept in so many bits.

    Args:
        width: bytes of a number that is not quantised.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    maps = [] if quantize is None else [module.weight.shape for module in _quantisable(model)]
    return (total - sum(map(math.prod, maps))) * width + sum(_map_bytes(shape, quantize) for shape in maps)


def _quantisable(model: nn.Module) -> list[Any]:
    """The maps that transformers hands to bitsandbytes: all but one that is the last module of all, and ties."""
    named = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    tied = _tied(model)
    return [
        module
        for name, module in named
        if isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in tied and name != named[-1][0]
    ]


def _tied(model: nn.Module) -> set[int]:
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    return {id(table) for table in tables}


def _map_bytes(shape: torch.Size, quantize: str | None) -> int:
    n, rows = math.prod(shape), shape[0]
    if quantize == "8bit":
        return n + 4 * rows  # a scale a row
    constants = math.ceil(n / _BLOCK)
    return math.ceil(n / 2) + constants + 4 * math.ceil(constants / _OUTER) + _TABLES
