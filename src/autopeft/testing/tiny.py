"""Very small models with random weights, a word-level tokenizer, and tasks that can be learnt in seconds."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone, families, family_of
from autopeft.network.attach import Attached
from autopeft.spaces.build import stands_at
from autopeft.tasks._examples import Examples
from autopeft.tasks._protocols import Splits
from autopeft.tasks._task import Task
from autopeft.testing._copying import Copier

MODEL_TYPES = tuple(name for family in families().values() for name in family.model_types)
"""Every model type of every family."""

LEADS = tuple(family.model_types[0] for family in families().values() if not family.alike)
"""The first model type of every family whose layers are like no other's."""

_SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")  # T5 wants the padding token at 0 and the end token at 1
WORDS = ("good", "bad", *(f"w{number}" for number in range(80)), "0", "1", "2", "1.0", "3.0")


def backbone(model_type: str = "bert", *, seed: int = 0, with_tokenizer: bool = False, **changes: Any) -> Backbone:
    """The family's `tiny` configuration with random weights of unit scale and no dropout.

    transformers starts weights at 0.02, which makes attention uniform and hides mistakes in masks; here they are
    about 1 / sqrt(width).
    """
    made = _made(model_type, seed, with_tokenizer, tuple(sorted(changes.items())), torch.get_default_dtype())
    found: Backbone = made()
    return found


# A copy takes a tenth of the time of making one, and no test sees what another has done to it. The precision decides on
# what is made: without it in the key, tests that compute in double precision would leave such models to all others.
@cache
def _made(
    model_type: str, seed: int, with_tokenizer: bool, changes: tuple[tuple[str, Any], ...], precision: torch.dtype
) -> Copier:
    options = {"pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 1, **family_of(model_type).tiny, **_NO_DROPOUT}
    config = CONFIG_MAPPING[model_type](**{**options, **dict(changes)})
    found = Backbone.from_config(config, seed=seed, tokenizer=tokenizer(model_type) if with_tokenizer else None)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in found.model.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5, generator=generator)
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(generator=generator)
    return Copier(found)


_NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "dropout_rate": 0.0,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "embedding_dropout": 0.0,
    "mlp_dropout": 0.0,
}


@cache
def tokenizer(model_type: str = "bert") -> PreTrainedTokenizerFast:
    """Words and special tokens, framed as the family does it: ``<s> a b </s>``, for T5 ``a b </s>``."""
    vocabulary = {word: number for number, word in enumerate((*_SPECIAL, *WORDS))}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    family = family_of(model_type)
    start = "" if family.is_text_to_text else "<s> "
    end = "" if family.pooling == "last" else " </s>"
    raw.post_processor = processors.TemplateProcessing(
        single=f"{start}$A{end}",
        pair=f"{start}$A{end} $B:1{end and end + ':1'}",
        special_tokens=[("<s>", 3), ("</s>", 1)],
    )
    types = ["token_type_ids"] if model_type in ("bert", "electra") else []
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        cls_token="<s>",
        sep_token="</s>",
        model_input_names=["input_ids", *types, "attention_mask"],
        model_max_length=64,
    )


def inputs(found: Backbone) -> dict[str, Tensor]:
    """Two rows of token ids, the second padded on the right after five of seven."""
    generator = torch.Generator().manual_seed(11)
    batch = {
        "input_ids": torch.randint(4, 90, (2, 7), generator=generator),
        "attention_mask": torch.ones(2, 7, dtype=torch.long),
    }
    batch["input_ids"][1, 5:] = 0
    batch["attention_mask"][1, 5:] = 0
    if found.family.is_text_to_text:
        batch["decoder_input_ids"] = torch.randint(4, 90, (2, 3), generator=generator)
    return batch


def output(found: Backbone, batch: dict[str, Tensor] | None = None) -> Tensor:
    """The last hidden state, or the logits of a text-to-text model, without those at padding."""
    batch = inputs(found) if batch is None else batch
    result: Tensor = found.model(**batch)[0]
    return result if found.family.is_text_to_text else result[batch["attention_mask"].bool()]


def everywhere(found: Backbone, method: str, size: int = 3) -> Architecture:
    """`method` at every site that has one of its roles; empty where there is none."""
    member = methods.lookup(method)
    size = size if member.is_sized else 1
    sites = [site for site in found.sites.values() if stands_at(member, site) and site.seam == member.seam]
    return Architecture(tuple(Placement(site.key, method, size) for site in sites))


@torch.no_grad()
def fill(attached: Attached, seed: int = 5, std: float = 0.3) -> Attached:
    """Random weights in every added module, so that nothing is hidden by a zero, and no chance while computing."""
    generator = torch.Generator().manual_seed(seed)
    attached.train(False)
    for module in attached.modules.values():
        for parameter in module.parameters():
            parameter.normal_(std=std, generator=generator)
    return attached


@cache
def fitting(model_type: str) -> tuple[str, ...]:
    """The methods that stand somewhere in this family by default."""
    found = backbone(model_type)
    return tuple(name for name in methods.names() if len(everywhere(found, name)))


def sentiment(n: int, seed: int = 0, n_classes: int = 2) -> Examples:
    """Balanced examples that one word decides: ``good`` is class 1, ``bad`` class 0, ``w0`` class 2."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % n_classes
    texts = []
    for label in labels:
        filler = [f"w{number}" for number in rng.integers(1, 80, size=rng.integers(2, 7))]
        filler.insert(int(rng.integers(len(filler) + 1)), ("bad", "good", "w0")[label])
        texts.append((" ".join(filler),))
    return Examples(labels, texts=texts)


SENTIMENT = Task(name="tiny/sentiment", kind="classification", inputs=("text",), label_names=("bad", "good"))
"""A task of two classes; saying always the same is right half of the time."""


def splits(train: Examples, validation: Examples, kind: Any = "classification") -> Splits:
    """Ready-made parts; the test part is the validation part."""
    facts = {"train": "made", "validation": "made", "test": "made", "protocol": "holdout", "seed": 0}
    return Splits(train, validation, lambda: validation, facts, kind)
