"""Families as data, and the sites that they describe in a model: where PEFT modules may stand.

A family is where things are, as dotted paths. To add one, add a file here that exports
``MEMBERS = {"family": Family(...)}``; the contract tests build its ``tiny`` configuration with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from autopeft.backbones._quantized import is_quantized, whole_weight
from autopeft.errors import BackboneError

Seam = Literal["delta", "kv", "backbone"]


@dataclass(frozen=True)
class Role:
    """Where a place is, as dotted paths from its layer (or from the model, outside the layers).

    Args:
        entry: the module whose first input is ``x``.
        exit: the module whose output is ``y``; the entry itself when None.
        norm: the LayerNorm that the block applies to ``x + y`` (post-LN families); None where there is none.
        linear_in: the Linear or norm whose input width is the width of ``x``; the entry when None.
        linear_out: the Linear or norm whose output width is the width of ``y``; the exit when None.
        seam: "delta" for input/output, "kv" for an attention that can take a prefix.
        part: of a fused projection, which of how many equal parts of the output, from 0; or "q", "k" or "v" where they
            follow each other and are as wide as the heads of each; None for all of it.
        is_before: the place is the input of `entry`, where ``x`` and ``y`` are the same: what stands there changes what
            the module is given.
        is_optional: skip silently where the path does not exist, or leads to nothing (variants of a family).
    """

    entry: str
    exit: str | None = None
    norm: str | None = None
    linear_in: str | None = None
    linear_out: str | None = None
    seam: Seam = "delta"
    part: tuple[int, int] | Literal["q", "k", "v"] | None = None
    is_before: bool = False
    is_optional: bool = False


@dataclass(frozen=True)
class Stack:
    """A pile of equal layers: `layers` is the path of the module list, `outside` holds places beyond the layers."""

    layers: str
    roles: Mapping[str, Role]
    outside: Mapping[str, Role] = field(default_factory=dict)


NORMS = ("attention_norm", "cross_attention_norm", "ffn_norm", "final_norm")
"""Roles of norms in all families."""

LINEAR = ("q", "k", "v", "qkv", "o", "ffn_in", "ffn_in_0", "ffn_in_1", "ffn_gate", "ffn_out")
"""Roles of linear maps in all families: self-attention and feed-forward, gated ones included.

A fused projection whose parts do not lie one behind the other (GPT-NeoX: head by head) is one place, "qkv".
"""


@dataclass(frozen=True)
class Family:
    """A model family.

    Args:
        model_types: values of ``config.model_type`` that belong to it.
        stacks: "encoder", "decoder" or both, in the order in which layers are numbered.
        mixing: path from a layer of the last module that looks across tokens and gives the layer's hidden states: what
            comes after it treats every token by itself. Empty where no single module is that.
        positions: path of the table of positions, which a text may not outgrow; empty where there is none (T5, most
            rotary ones).
        padded: the module whose argument ``attention_mask`` marks the padding of the encoder; the model when empty.
        pooling: which position a classification head reads: the first, or the last that is not padding.
        is_text_to_text: an encoder-decoder that answers with text and gets no head.
        prepare: what is done to a model before it is used, such as giving it an attention that can take a prefix; it
            computes the same afterwards. Models of the same class that were not prepared are not touched.
        tiny: keyword arguments of a very small configuration, for tests.
        alike: the family whose layers these are at other paths: what methods promise is tried on that one alone.
        inferred: what was found by the structure of a model whose type no file describes; empty where one does.
    """

    model_types: tuple[str, ...]
    stacks: Mapping[str, Stack]
    tiny: Mapping[str, Any]
    mixing: str = ""
    positions: str = ""
    padded: str = ""
    pooling: Literal["first", "last"] = "first"
    is_text_to_text: bool = False
    prepare: Callable[[PreTrainedModel], None] | None = None
    alike: str = ""
    inferred: str = ""

    @property
    def is_causal(self) -> bool:
        """Whether a token sees only those before it, so that the model can write what follows a text."""
        return self.pooling == "last" and not self.is_text_to_text


@dataclass(frozen=True)
class Site:
    """A place in a backbone where a module may stand.

    Args:
        stack, layer, role: what it is; layers count from 0; None outside the layers.
        entry, exit, norm: dotted paths from the model, see `Role`.
        d_in, d_out: widths of ``x`` and ``y``; for the "kv" seam both are ``heads * d_head``.
        heads, d_head: key/value heads and their width; 0 outside the "kv" seam.
        epsilon: what a norm adds to the variance; None where the site is no norm.
        is_centred: whether that norm subtracts the mean (LayerNorm) or not (RMSNorm).
        part: the first and the last coordinate (exclusive) of a fused projection's output that belong to the place, or
            None for all.
        is_before: whether the place is the input of its module, see `Role`.
    """

    stack: str
    layer: int | None
    role: str
    entry: str
    exit: str
    norm: str | None
    d_in: int
    d_out: int
    seam: Seam = "delta"
    heads: int = 0
    d_head: int = 0
    epsilon: float | None = None
    is_centred: bool = False
    part: tuple[int, int] | None = None
    is_before: bool = False

    @property
    def key(self) -> str:
        """What placements call it: ``encoder.3.ffn``, or ``decoder.final_norm`` outside the layers."""
        return ".".join(str(part) for part in (self.stack, self.layer, self.role) if part not in (None, ""))


def hidden_size(config: Any) -> int:
    """The width of the hidden states, which sizes of methods and heads follow.

    Raises:
        BackboneError: the configuration does not say it.
    """
    width = getattr(config, "hidden_size", None)
    if not isinstance(width, int):
        raise BackboneError(
            f"The model type {config.model_type!r} cannot be used: its configuration has no hidden_size, and is of "
            f"a {type(config).__name__}."
        )
    return width


def find_sites(model: PreTrainedModel, family: Family, n_parameters: int) -> Iterator[Site]:
    """Every site that `family` describes in `model`, in the order of the layers.

    Raises:
        BackboneError: the description does not fit the model.
    """
    # Full fine-tuning stands at a site like any method, so that its cost and its identity need no case of their own.
    yield Site("", None, "model", "", "", None, n_parameters, n_parameters, "backbone")
    for name, stack in family.stacks.items():
        try:
            layers = model.get_submodule(stack.layers)
        except AttributeError as error:
            raise BackboneError(
                f"The family {family.model_types} has no {stack.layers!r} in {type(model).__name__}."
            ) from error
        for layer in range(len(list(layers.children()))):
            for role, where in stack.roles.items():
                yield from _site(model, name, layer, role, where, f"{stack.layers}.{layer}.")
        for role, where in stack.outside.items():
            yield from _site(model, name, None, role, where, "")


def _site(model: PreTrainedModel, stack: str, layer: int | None, role: str, where: Role, root: str) -> Iterator[Site]:
    entry, exit_ = root + where.entry, root + (where.exit or where.entry)
    norm = None if where.norm is None else root + where.norm
    try:
        d_in = _width(model, root + where.linear_in if where.linear_in else entry, "in_features", where.seam)
        d_out = _width(model, root + where.linear_out if where.linear_out else exit_, "out_features", where.seam)
        for path in (entry, exit_, norm or ""):
            # A layer without its norm may have an identity in its place, which has no width and nothing to tune.
            if where.is_optional and isinstance(model.get_submodule(path), nn.Identity):
                return
    except AttributeError as error:
        if where.is_optional:
            return
        raise BackboneError(
            f"The role {role!r} of {model.config.model_type!r} does not fit the model: {error}."
        ) from error
    if where.seam == "kv":
        heads, d_head = _heads(model)
        yield Site(stack, layer, role, entry, exit_, norm, heads * d_head, heads * d_head, "kv", heads, d_head)
    else:
        epsilon, is_centred = _norm(model.get_submodule(exit_))
        part, is_before = _part(model, where, d_out), where.is_before
        # What stands before a module changes its input, so the width behind the module does not matter there.
        d_out = d_in if is_before else d_out if part is None else part[1] - part[0]
        yield Site(
            stack, layer, role, entry, exit_, norm, d_in, d_out,
            epsilon=epsilon, is_centred=is_centred, part=part, is_before=is_before,
        )  # fmt: skip


def _part(model: PreTrainedModel, where: Role, width: int) -> tuple[int, int] | None:
    """The coordinates of an output of `width` that belong to the role."""
    if where.part is None:
        return None
    if isinstance(where.part, str):
        heads, d_head = _heads(model)
        ends = (0, width - 2 * heads * d_head, width - heads * d_head, width)
        place = "qkv".index(where.part)
        return ends[place], ends[place + 1]
    index, count = where.part
    return index * width // count, (index + 1) * width // count


def _norm(module: nn.Module) -> tuple[float | None, bool]:
    """The epsilon of a norm and whether it subtracts the mean; None where the module is none."""
    # PyTorch and transformers give the same number two names.
    epsilon = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    return (None if epsilon is None else float(epsilon)), isinstance(module, nn.LayerNorm)


def _width(model: PreTrainedModel, path: str, side: str, seam: Seam) -> int:
    module = model.get_submodule(path)
    # An attention is no map with a width: heads and their width say what a prefix needs, see `_heads`.
    if seam == "kv":
        return 0
    weight = getattr(module, "weight", None)
    if isinstance(module, Conv1D):
        # GPT-2 stores its linear maps transposed, from the days when they were convolutions of width one.
        return int(module.weight.shape[side == "out_features"])
    if isinstance(getattr(module, side, None), int):
        return int(getattr(module, side))
    if isinstance(weight, torch.Tensor) and weight.dim() == 1:  # a norm
        return int(weight.shape[0])
    raise AttributeError(f"{path!r} is neither a Linear nor a norm")


def _heads(model: PreTrainedModel) -> tuple[int, int]:
    config = model.config
    heads = int(config.num_attention_heads)
    # Where a configuration gives the width of a head it need not be the hidden size divided by the heads (T5, Llama).
    d_head = getattr(config, "d_kv", None) or getattr(config, "head_dim", None) or config.hidden_size // heads
    # With grouped queries a prefix has keys and values for the groups alone.
    return int(getattr(config, "num_key_value_heads", None) or heads), int(d_head)


def linear_weight(module: nn.Module, site: Site) -> tuple[Tensor, Tensor | None]:
    """The weight ``(d_out, d_in)`` and the bias ``(d_out,)`` or None of `module`, the linear map at `site`.

    Of a fused projection they are the rows that belong to the site. Views of the frozen parameters, not copies, but of
    a quantised map, whose weight is made anew at every call.

    Raises:
        BackboneError: the module is no linear map.
    """
    if isinstance(module, Conv1D):
        weight, bias = module.weight.T, module.bias
    elif isinstance(module, nn.Linear) and is_quantized(module):
        weight, bias = whole_weight(module), module.bias
    elif isinstance(module, nn.Linear):
        weight, bias = module.weight, module.bias
    else:
        raise BackboneError(f"There is no linear map at {site.key}, but a {type(module).__name__}.")
    rows = slice(*site.part) if site.part is not None else slice(None)
    return weight[rows], None if bias is None else bias[rows]
