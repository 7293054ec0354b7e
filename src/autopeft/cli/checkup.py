"""What `autopeft doctor` finds: the machine, the packages, the model, its tokenizer and the data, and what to change.

No weight is loaded: the model is built on the device "meta" from its configuration.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import psutil
import torch

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import LINEAR, Backbone
from autopeft.backbones._quantized import check_quantize, is_available, weight_bytes
from autopeft.network.build import count
from autopeft.session.parts import load_data
from autopeft.settings import Settings
from autopeft.tasks import Examples
from autopeft.training.chosen_precision import product_seconds
from autopeft.training.forecast import kept_bytes
from autopeft.training.learners import CausalLearner, Learner, learner_for
from autopeft.training.tokens import most_tokens

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "safetensors", "peft", "botorch", "numpyro", "optuna")
"""Those whose versions decide what works; `peft` is needed to read what is exported, `numpyro` by NUTS alone."""

KERNELS = ("flash-attn", "xformers", "triton")
"""Packages of kernels; none is used by a search today."""

QUANTISER = ("bitsandbytes",)

_PRODUCTS = "matrix products in bf16, times as fast as in float32"
_WORTH_IT = 1.1

_KEPT = "kept by a step"
_MOST = 2000
_RANK = 16
_BYTES = 4  # weights that are not quantised and what is trained are kept in single precision


@dataclass(frozen=True)
class Advice:
    """Something to change.

    Args:
        weight: "wrong" where a search cannot go well as things are, "better" where it could go better.
        what: what was found and what to do about it, a sentence.
    """

    weight: Literal["wrong", "better"]
    what: str


@dataclass(frozen=True)
class Checkup:
    """What was found, by what it is about, JSON-ready, and what to change."""

    facts: Mapping[str, Mapping[str, Any]]
    advice: tuple[Advice, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return all(one.weight != "wrong" for one in self.advice)

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {**self.facts, "advice": [asdict(one) for one in self.advice], "is_well": self.is_well}


def examine(settings: Settings, *, has_data: bool) -> Checkup:
    """Look at the machine and at what `settings` name.

    Args:
        has_data: whether they name data at all; without it the task is not looked at.

    Raises:
        InputError: there is no such model or data, they cannot be read, or bitsandbytes is wanted and not installed.
    """
    check_quantize(settings.quantize)
    backbone = Backbone.without_weights(
        settings.model, has_tokenizer=True, has_checkpoint=True, trust_remote_code=settings.trust_remote_code
    )
    facts: dict[str, Mapping[str, Any]] = {
        "machine": {**_machine(), **_products(settings.device, backbone.hidden_size)},
        "packages": _versions(PACKAGES),
        "kernels": {"attention": "torch scaled dot product", **_versions(KERNELS)},
        "model": _model(backbone),
        "tokenizer": _tokenizer(backbone),
        "quantised bases": {"can be used": quantisation_told(), "wanted": settings.quantize, **_versions(QUANTISER)},
    }
    data = _data(settings, backbone) if has_data else None
    facts["memory"] = _memory(backbone, settings, data)
    if data is not None:
        facts["data"] = data
    return Checkup(facts, tuple(_advice(settings, facts)))


def _machine() -> dict[str, Any]:
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    memory = psutil.virtual_memory()
    return {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "threads of torch": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory": memory.total,
        "free memory": memory.available,
        "gpus": [f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards],
        "precision": "float32 and bf16" if not cards or torch.cuda.is_bf16_supported() else "float32 alone",
    }


def _products(device: str, width: int) -> dict[str, float]:
    """How many times as fast as in float32 a matrix product of this width is in bf16; empty where that cannot be told.

    A step has more than products, so that this is the most that a search's own measurement may find.
    """
    try:
        seconds = {dtype: product_seconds(device, width, dtype) for dtype in (torch.float32, torch.bfloat16)}
    except (RuntimeError, AssertionError):  # no such device here, or none that knows bf16
        return {}
    return {_PRODUCTS: round(seconds[torch.float32] / seconds[torch.bfloat16], 2)}


def _versions(names: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _model(backbone: Backbone) -> dict[str, Any]:
    config, family = backbone.model.config, backbone.family
    stacks = {
        name: sum(site.stack == name and site.role == "ffn_out" for site in backbone.sites.values())
        for name in family.stacks
    }
    writes = family.is_text_to_text or family.is_causal
    return {
        "name": backbone.name,
        "type": config.model_type,
        "family": f"inferred: {family.inferred}" if family.inferred else "described",
        "parameters": backbone.n_parameters,
        "hidden size": backbone.hidden_size,
        "layers": stacks,
        "roles": sorted({site.role for site in backbone.sites.values() if site.role != "model"}),
        "answers by": "writing, or a head" if writes else "a head",
        "positions": backbone.n_positions or getattr(config, "max_position_embeddings", None),
    }


def _tokenizer(backbone: Backbone) -> dict[str, Any]:
    tokenizer = backbone.tokenizer
    return {
        "words": len(tokenizer),
        "end token": tokenizer.eos_token,
        "padding token": tokenizer.pad_token,
        "pads with its end token": tokenizer.pad_token == tokenizer.eos_token,
        "chat template": bool(tokenizer.chat_template),
    }


def quantisation_told() -> str:
    """Whether `quantize` can be used here, and how."""
    return "8bit and 4bit: --quantize" if is_available() else "no: pip install 'autopeft[quantized]'"


def _memory(backbone: Backbone, settings: Settings, data: Mapping[str, Any] | None) -> dict[str, Any]:
    """What is told before a run: the weights, and what training LoRA at every linear map keeps beside them."""
    places = (Placement(key, "lora", _RANK) for key, site in backbone.sites.items() if site.role in LINEAR)
    architecture, recipe = Architecture(tuple(places)), settings.recipe
    longest = recipe.max_length if data is None else min(data["longest"], data["cut at"])
    length = min(longest, backbone.n_positions or longest)
    found = {
        "weights": weight_bytes(backbone.model, settings.quantize, _BYTES),
        f"LoRA of rank {_RANK} everywhere, its gradients and AdamW": 4 * _BYTES * count(backbone, architecture).trained,
    }
    kept = kept_bytes(backbone, architecture, recipe.batch_size, length, recipe.dropout)
    step = f"{recipe.batch_size} examples of {length} tokens, in single precision"
    missing = "the head's, what passes through a step, Python itself: `autopeft check` predicts and measures the peak"
    if kept is None:
        return {**found, "not counted": f"activations, which this model does not tell without its weights; {missing}"}
    if recipe.gradient_checkpointing:
        missing = f"less with checkpointing, which computes all but the inputs of layers again; {missing}"
    return {**found, _KEPT: kept, "a step": step, "not counted": missing}


def _data(settings: Settings, backbone: Backbone) -> dict[str, Any]:
    task, splits = load_data(settings)
    part = splits.train.subset(range(min(len(splits.train), _MOST)))
    learner = learner_for(backbone, task, settings.answer, part)
    lengths = np.array(_lengths(backbone, learner, part), dtype=np.int64)
    limit = most_tokens(backbone, learner, settings.recipe.max_length)
    return {
        "task": f"{task.name}, {task.objective}",
        "train": len(splits.train),
        "validation": len(splits.validation),
        "tokens in the median": int(np.median(lengths)),
        "tokens of 95 % at most": int(np.quantile(lengths, 0.95)),
        "longest": int(lengths.max()),
        "cut at": limit,
        "share that is cut": float((lengths > limit).mean()),
    }


def _lengths(backbone: Backbone, learner: Learner, part: Examples) -> list[int]:
    """Tokens of the training examples `part` in full."""
    if isinstance(learner, CausalLearner):
        return [len(row.ids) for row in learner.joined(part)]
    texts = list(part.segments())
    pairs = [parts[1] for parts in texts] if len(texts[0]) == 2 else None
    rows = backbone.tokenizer([parts[0] for parts in texts], pairs, truncation=False, verbose=False)["input_ids"]
    return [len(row) for row in rows]


def _advice(settings: Settings, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Advice]:
    machine, model, tokenizer = facts["machine"], facts["model"], facts["tokenizer"]
    yield from _about_memory(settings, facts)
    if settings.device == "cpu" and machine["gpus"]:
        yield Advice("better", f"There is a GPU that is not used ({machine['gpus'][0]}): --device cuda.")
    if settings.n_workers == 1 and settings.device == "cpu" and machine["threads of torch"] < machine["cores"]:
        threads, cores = machine["threads of torch"], machine["cores"]
        yield Advice("better", f"PyTorch uses {threads} of {cores} cores: unset OMP_NUM_THREADS, or --workers auto.")
    if settings.recipe.precision == "float32" and machine.get(_PRODUCTS, 0) > _WORTH_IT:
        yield Advice("better", "bf16 may be faster here: --precision auto measures it and whether it keeps the loss.")
    if model["family"] != "described":
        yield Advice("better", "The family is inferred: look whether the roles above are all that the model has.")
    if tokenizer["end token"] is None:
        yield Advice("better", "The tokenizer has no end token, so that a written answer does not learn to end.")
    if facts["packages"]["peft"] is None:
        yield Advice("better", "peft is not installed: exports are written all the same, and read where it is.")
    yield from _about_lengths(facts.get("data"), model, settings.recipe.max_length)


def _about_memory(settings: Settings, facts: Mapping[str, Mapping[str, Any]]) -> Iterator[Advice]:
    if settings.device != "cpu":
        return
    memory, machine = facts["memory"], facts["machine"]
    needed = sum(value for name, value in memory.items() if isinstance(value, int) and name != _KEPT)
    step, whole, free = memory.get(_KEPT, 0), machine["memory"], machine["free memory"]
    if needed > whole:
        yield Advice("wrong", f"The weights and LoRA need {needed:,} bytes, but there are {whole:,}.")
    elif needed > free:
        yield Advice(
            "better", f"The weights and LoRA need {needed:,} bytes, but {free:,} are free: end other programs."
        )
    elif needed + step > free and not settings.recipe.gradient_checkpointing:
        yield Advice(
            "better",
            f"With what a step keeps up to {needed + step:,} bytes are needed, but {free:,} are free: take a smaller "
            "recipe.batch_size or max_length, or recipe.gradient_checkpointing.",
        )


def _about_lengths(data: Mapping[str, Any] | None, model: Mapping[str, Any], recipe_length: int) -> Iterator[Advice]:
    if data is None:
        return
    if data["share that is cut"] > 0:
        share, longest = data["share that is cut"], data["longest"]
        most = model["positions"] or longest
        remedy = f"recipe.max_length {longest} keeps them whole."
        if longest > most:
            remedy = (
                f"the longest has {longest:,} tokens, and the model was made for {most:,}, whatever recipe.max_length "
                "is: shorten the texts, or take a model that reads longer ones."
            )
        elif data["cut at"] < recipe_length:
            remedy = (
                f"the longest has {longest:,} tokens, and the tokenizer's model_max_length is {data['cut at']:,}: "
                "shorten the texts, or correct it in tokenizer_config.json where the model reads more."
            )
        yield Advice("better", f"{share:.1%} of the examples are cut: {remedy}")
