"""Writes the reference that our PEFT modules are compared with: what the package `adapters` 1.3.0 computes.

`adapters` needs transformers 4.57 and cannot be installed next to this project, so this script runs in an
environment of its own, by hand, and its two small results are kept in the repository::

    python -m venv /path/to/peer && /path/to/peer/bin/pip install torch==2.13.0 adapters==1.3.0
    /path/to/peer/bin/python tests/reference/make_adapters.py

Before anything is written, every output is computed a second time by `plain_forward`, a BERT in plain torch
that reads the neutral tensor names only and follows the formulas of AutoPEFT (Zhou, Wan, Vulić, Korhonen
2024, arXiv 2301.12132, section 3.1, as its released code has them); the script fails if the two differ by
more than `TOLERANCE`.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapters
import torch
import transformers
from adapters import ConfigUnion, LoRAConfig, ParBnConfig, PrefixTuningConfig, SeqBnConfig
from adapters.composition import Stack
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

SEED = 20240601
TOLERANCE = 1e-5
LAYERS, HIDDEN, HEADS = 3, 32, 4
BOTTLENECK, PREFIX, PREFIX_HIDDEN, RANK = 8, 3, 20, 4
PARALLEL_SCALE = 4.0

Tensors = dict[str, Tensor]

CONFIG: Mapping[str, Any] = {
    "vocab_size": 99,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}

FORMULAS: Mapping[str, str] = {
    "none": "LN(x + h)",
    "serial": "LN(x + h + SA(LN(x + h)))",
    "parallel": "LN(x + h + 4 PA(x))",
    "serial+parallel": "LN(x + h + SA(LN(x + h)) + 4 PA(x))",
    "stack parallel, serial": "LN(x + 4 PA(x) + SA(LN(x + 4 PA(x))))",
    "stack serial, parallel": "LN(x + h + 4 PA(x))",
}


@dataclass(frozen=True)
class Case:
    """One architecture. `layers` are the active ones, from 0; `ffn` is a key of `FORMULAS`."""

    name: str
    methods: tuple[str, ...]
    layers: tuple[int, ...]
    ffn: str = "none"
    is_folded: bool = False
    is_gated: bool = False
    note: str = ""

    @property
    def leave_out(self) -> list[int]:
        """The layers that hold no module, as `adapters` wants to be told."""
        return [layer for layer in range(LAYERS) if layer not in self.layers]


PLAIN = Case("plain", (), ())
ALL_THREE = ("serial", "parallel", "prefix")
UNIPELT = ("serial", "prefix", "lora")


def cases() -> list[Case]:
    """Every case: each architecture in three sets of layers, and the two stacks that do not add up."""
    found = []
    places = (("", (0, 1, 2)), ("_layers_0_2", (0, 2)), ("_layer_1", (1,)))
    for suffix, layers in places:
        found += [
            Case("serial" + suffix, ("serial",), layers, "serial"),
            Case("parallel" + suffix, ("parallel",), layers, "parallel"),
            Case("lora" + suffix, ("lora",), layers),
            Case("prefix" + suffix, ("prefix",), layers),
            Case("prefix_folded" + suffix, ("prefix",), layers, is_folded=True),
            Case("prefix_parallel" + suffix, ("prefix", "parallel"), layers, "parallel"),
            Case("serial_parallel_prefix" + suffix, ALL_THREE, layers, "serial+parallel"),
        ]
    return [
        PLAIN,
        *found,
        Case("stack_parallel_serial", ALL_THREE, (0, 1, 2), "stack parallel, serial",
             note="what Stack(prefix+parallel, serial) computes: the feed-forward output h is lost"),
        Case("stack_serial_parallel", ALL_THREE, (0, 1, 2), "stack serial, parallel",
             note="what Stack(serial, prefix+parallel) computes: the serial adapter is lost"),
        *(Case("unipelt" + suffix, UNIPELT, layers, "serial", is_gated=True,
               note="the gates average over padding too, so only a row without padding is what the formula says")
          for suffix, layers in places),
    ]  # fmt: skip


# -- the field's side --------------------------------------------------------------------------------------


def tiny_bert() -> BertModel:
    """A BERT with every parameter random, the LayerNorms and biases too, so that no term vanishes."""
    model = BertModel(BertConfig(**CONFIG, attn_implementation="sdpa"), add_pooling_layer=False).eval()
    randomise(model, torch.Generator().manual_seed(SEED), scale=0.2)
    return model


def randomise(module: nn.Module, generator: torch.Generator, scale: float) -> None:
    """Draw every parameter of `module` from N(0, scale²), LayerNorm weights from N(1, scale²)."""
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            is_norm_weight = name.endswith("LayerNorm.weight")
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator) + float(is_norm_weight))


def inputs() -> Tensors:
    """Token ids (3, 7) and an attention mask of that shape, 1 for a token and 0 for padding on the right."""
    ids = torch.randint(1, CONFIG["vocab_size"], (3, 7), generator=torch.Generator().manual_seed(SEED + 1))
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 2 + [0] * 5])
    return {"input_ids": ids * mask, "attention_mask": mask}


def configs(case: Case) -> dict[str, Any]:
    """The `adapters` configurations of a case by adapter name; "union" holds prefix and parallel together."""
    reduction = HIDDEN / BOTTLENECK
    single = {
        "serial": SeqBnConfig(reduction_factor=reduction, leave_out=case.leave_out, use_gating=case.is_gated),
        "parallel": ParBnConfig(reduction_factor=reduction, scaling=PARALLEL_SCALE, leave_out=case.leave_out),
        "prefix": PrefixTuningConfig(
            flat=False,
            prefix_length=PREFIX,
            bottleneck_size=PREFIX_HIDDEN,
            leave_out=case.leave_out,
            use_gating=case.is_gated,
        ),
        "lora": LoRAConfig(
            r=RANK, alpha=RANK, attn_matrices=["q", "v"], leave_out=case.leave_out, use_gating=case.is_gated
        ),
    }
    wanted = {method: single[method] for method in case.methods}
    if "prefix" in wanted and "parallel" in wanted:
        wanted["union"] = ConfigUnion(wanted.pop("prefix"), wanted.pop("parallel"))
    return wanted


def adapted(case: Case, seed: int) -> BertModel:
    """The tiny BERT with the adapters of `case` added, all their weights random, and active."""
    model = tiny_bert()
    if not case.methods:
        return model
    adapters.init(model)
    generator = torch.Generator().manual_seed(seed)
    for name, config in sorted(configs(case).items()):
        model.add_adapter(name, config=config)
        for layer in model.get_adapter(name).values():
            for module in dict(sorted(layer.items())).values():
                randomise(module, generator, scale=0.3)
    serial_first = case.ffn == "stack serial, parallel"  # elsewhere "union" stands before "serial"
    model.set_active_adapters(Stack(*sorted(configs(case), reverse=not serial_first)))
    if case.ffn == "serial+parallel":
        for layer in case.layers:
            compose_both(model.encoder.layer[layer].output)
    return model


def compose_both(site: nn.Module) -> None:
    """Make one feed-forward output add up a serial and a parallel adapter, as the AutoPEFT release does.

    `adapters` 1.3.0 has no composition for this: one adapter may not hold both, and either order of a `Stack`
    loses a term (see `FORMULAS`). The library's own modules compute each part; only their order is ours.
    """

    def forward(hidden_states: Tensor, residual_input: Tensor, layer_norm: nn.Module) -> Tensor:
        serial, parallel = site.adapters["serial"], site.adapters["union"]
        read, _, kept = serial.pre_forward(hidden_states, residual_input, layer_norm)
        with_serial = serial(read, residual_input=kept)[0]  # h + SA(LN(x + h))
        read, _, kept = parallel.pre_forward(hidden_states, residual_input, layer_norm)
        added = parallel(read, residual_input=kept)[0]  # 4 PA(x)
        return parallel.post_forward(added, with_serial, residual_input, layer_norm)

    site.bottleneck_layer_forward = forward


@torch.no_grad()
def field_output(case: Case, model: BertModel) -> Tensor:
    """The last hidden state, (batch, sequence, hidden). A folded case ejects the prefix of `model` first."""
    if case.is_folded:
        model.eject_prefix_tuning("prefix")
    return model(**inputs()).last_hidden_state


# -- neutral names -----------------------------------------------------------------------------------------


def neutral(case: Case, model: BertModel) -> Tensors:
    """The adapter weights of `case` under neutral names, read before a prefix is ejected."""
    found: Tensors = {}
    holders = {"serial": "serial", "parallel": "union" if "prefix" in case.methods else "parallel"}
    for layer in case.layers:
        output, attention = model.encoder.layer[layer].output, model.encoder.layer[layer].attention.self
        for method, name in holders.items():
            if method in case.methods:
                module = output.adapters[name]
                found |= named(f"{method}/layer/{layer}/down", module.adapter_down[0])
                found |= named(f"{method}/layer/{layer}/up", module.adapter_up)
                if case.is_gated:
                    found |= named(f"{method}/layer/{layer}/gate", module.gate)
        if "lora" in case.methods:
            for target in ("query", "value"):
                lora = getattr(attention, target).loras["lora"]
                found[f"lora/layer/{layer}/{target}/A"] = lora.lora_A
                found[f"lora/layer/{layer}/{target}/B"] = lora.lora_B
                if case.is_gated:
                    found |= named(f"lora/layer/{layer}/{target}/gate", lora.gate)
        if "prefix" in case.methods and case.is_gated:
            found |= named(f"prefix/layer/{layer}/gate", attention.prefix_tuning.prefix_gates["prefix"])
    if "prefix" in case.methods:
        found |= neutral_prefix(case, model)
    return {key: value.detach().clone().contiguous() for key, value in found.items()}


def named(prefix: str, linear: nn.Linear) -> Tensors:
    """Weight (out, in) and bias (out,) of a linear map."""
    return {f"{prefix}.weight": linear.weight, f"{prefix}.bias": linear.bias}


@torch.no_grad()
def neutral_prefix(case: Case, model: BertModel) -> Tensors:
    """Reparametrisation of a prefix, and its keys and values for a layer, (heads, length, head size)."""
    name = "union" if "parallel" in case.methods else "prefix"
    module = model.prefix_tuning.prefix_tunings[name]["self_prefix"]
    found = {"prefix/embedding": module.wte.weight}
    found |= named("prefix/mlp.in", module.control_trans[0])
    found |= named("prefix/mlp.out", module.control_trans[2])
    for layer, keys_values in zip(case.layers, module(1), strict=True):
        found[f"prefix/layer/{layer}/key"], found[f"prefix/layer/{layer}/value"] = keys_values[:, 0]
    return found


# -- the second opinion: plain torch, neutral names only ---------------------------------------------------


def linear(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    """``x W^T + b``."""
    return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def norm(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    """LayerNorm over the last axis."""
    return functional.layer_norm(
        x, (HIDDEN,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], CONFIG["layer_norm_eps"]
    )


def bottleneck(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    """``W_up relu(W_down x + b_down) + b_up``, unscaled."""
    return linear(tensors, f"{name}/up", linear(tensors, f"{name}/down", x).relu())


def gate(tensors: Tensors, case: Case, name: str, x: Tensor) -> Tensor:
    """The mean over all tokens, padding too, of ``σ(w x + c)``, (batch, 1, 1); 1 where the case has no gates."""
    return linear(tensors, f"{name}/gate", x).sigmoid().mean(1, keepdim=True) if case.is_gated else torch.ones(1, 1, 1)


def folded(tensors: Tensors, n_active: int) -> Tensor:
    """Keys and values from the reparametrisation: (active layer, key or value, heads, length, head size)."""
    inner = linear(tensors, "prefix/mlp.in", tensors["prefix/embedding"]).tanh()
    flat = linear(tensors, "prefix/mlp.out", inner)  # (length, 2 * hidden * active)
    return flat.view(PREFIX, n_active, 2, HEADS, HIDDEN // HEADS).permute(1, 2, 3, 0, 4)


def prefix_pair(tensors: Tensors, case: Case, layer: int) -> Tensor:
    """Keys and values of one active layer, (2, heads, length, head size), from what the case says is held."""
    if case.is_folded:
        return torch.stack([tensors[f"prefix/layer/{layer}/{kind}"] for kind in ("key", "value")])
    return folded(tensors, len(case.layers))[case.layers.index(layer)]


def attention(base: Tensors, own: Tensors, case: Case, layer: int, x: Tensor, mask: Tensor) -> Tensor:
    """Self-attention of one layer before its output projection, (batch, sequence, hidden)."""
    at = f"encoder.layer.{layer}.attention.self"
    active = layer in case.layers

    def project(target: str) -> Tensor:
        y = linear(base, f"{at}.{target}", x)
        if active and "lora" in case.methods and target != "key":
            name = f"lora/layer/{layer}/{target}"
            y = y + gate(own, case, name, x) * (x @ own[f"{name}/A"].T @ own[f"{name}/B"].T)
        return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # (batch, heads, sequence, head size)

    query, key, value = project("query"), project("key"), project("value")
    visible = mask.bool()
    if active and "prefix" in case.methods:
        pair = prefix_pair(own, case, layer)
        before = pair[:, None].expand(-1, len(x), -1, -1, -1)  # (key or value, batch, heads, length, head size)
        before = before * gate(own, case, f"prefix/layer/{layer}", x)[None, ..., None]
        key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        visible = torch.cat([visible.new_ones(len(x), PREFIX), visible], 1)
    scores = query @ key.transpose(-1, -2) / math.sqrt(HIDDEN // HEADS)
    scores = scores.masked_fill(~visible[:, None, None, :], float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def feed_forward(base: Tensors, own: Tensors, case: Case, layer: int, x: Tensor) -> Tensor:
    """The feed-forward block with the adapters of one layer, after its LayerNorm: one of `FORMULAS`."""
    at = f"encoder.layer.{layer}"
    h = linear(base, f"{at}.output.dense", functional.gelu(linear(base, f"{at}.intermediate.dense", x)))

    def ln(y: Tensor) -> Tensor:
        return norm(base, f"{at}.output.LayerNorm", y)

    def sa(y: Tensor) -> Tensor:
        name = f"serial/layer/{layer}"
        return gate(own, case, name, y) * bottleneck(own, name, y)

    def pa(y: Tensor) -> Tensor:
        return PARALLEL_SCALE * bottleneck(own, f"parallel/layer/{layer}", y)

    formulas: dict[str, Callable[[], Tensor]] = {
        "none": lambda: x + h,
        "serial": lambda: x + h + sa(ln(x + h)),
        "parallel": lambda: x + h + pa(x),
        "serial+parallel": lambda: x + h + sa(ln(x + h)) + pa(x),
        "stack parallel, serial": lambda: x + pa(x) + sa(ln(x + pa(x))),
        "stack serial, parallel": lambda: x + h + pa(x),
    }
    return ln(formulas[case.ffn if layer in case.layers else "none"]())


def plain_forward(base: Tensors, own: Tensors, case: Case) -> Tensor:
    """The last hidden state of `case` from neutral tensors alone."""
    ids, mask = inputs().values()
    words = base["embeddings.word_embeddings.weight"][ids]
    places = base["embeddings.position_embeddings.weight"][: ids.shape[1]]
    kind = base["embeddings.token_type_embeddings.weight"][0]
    x = norm(base, "embeddings.LayerNorm", words + places + kind)
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}.attention.output"
        mixed = linear(base, f"{at}.dense", attention(base, own, case, layer, x, mask))
        x = feed_forward(base, own, case, layer, norm(base, f"{at}.LayerNorm", x + mixed))
    return x


# -- counts ------------------------------------------------------------------------------------------------


def counts(model: BertModel, tensors: Tensors) -> dict[str, int]:
    """Weights with a folded prefix (nominal), with biases and gates (stored), what `adapters` trains (trained)."""
    discarded = ("prefix/mlp", "prefix/embedding")
    kept = {name: t.numel() for name, t in tensors.items() if not name.startswith(discarded)}
    trained = 0
    if tensors:
        for name in model.adapters_config.adapters:
            modules = [module for layer in model.get_adapter(name).values() for module in layer.values()]
            trained += sum(p.numel() for module in modules for p in module.parameters())
    nominal = sum(n for name, n in kept.items() if not name.endswith((".bias", "gate.weight")))
    return {"nominal": nominal, "stored": sum(kept.values()), "trained": trained}


def published_counts() -> dict[str, Any]:
    """What `adapters` holds for AutoPEFT-RTE on BERT-base (arXiv 2301.12132, table 2), head not counted."""
    model = BertModel(BertConfig(vocab_size=8), add_pooling_layer=False)  # BERT-base but for the vocabulary
    adapters.init(model)
    out = [layer for layer in range(12) if layer + 1 not in (3, 4, 8, 9, 10)]
    made = {
        "serial": SeqBnConfig(reduction_factor=768 / 12, leave_out=out),
        "parallel": ParBnConfig(reduction_factor=768 / 96, leave_out=out),
        "prefix": PrefixTuningConfig(prefix_length=1, bottleneck_size=800, leave_out=out),
    }
    found: dict[str, int] = {}
    for name, config in made.items():
        model.add_adapter(name, config=config)
        modules = [module for layer in model.get_adapter(name).values() for module in layer.values()]
        found[name] = sum(p.numel() for module in modules for p in module.parameters())
    model.eject_prefix_tuning("prefix")
    found["prefix_folded"] = model.prefix_tuning.prefix_tunings["prefix"]["self_prefix"].control_trans.numel()
    return {"layers_from_1": [3, 4, 8, 9, 10], "serial": 12, "parallel": 96, "prefix": 1, "parameters": found}


# -- writing -----------------------------------------------------------------------------------------------

LOADER = {
    "model/NAME": "state dict of transformers' BertModel without pooler; a linear weight is (out, in)",
    "input_ids, attention_mask": "(batch 3, sequence 7), int64; mask 1 = token, 0 = padding; types 0",
    "case/CASE/output": "last_hidden_state in eval mode, (3, 7, 32), float32, padded positions included",
    "case/CASE/serial/layer/I/{down,up}.{weight,bias}": "down (8, 32) and (8), up (32, 8) and (32)",
    "case/CASE/parallel/layer/I/{down,up}.{weight,bias}": "as serial; the output is multiplied by 4",
    "case/CASE/lora/layer/I/{query,value}/{A,B}": "A (4, 32), B (32, 4); adds x A^T B^T, scale alpha / r = 1",
    "case/CASE/METHOD/layer/I/.../gate.{weight,bias}": "of a gated module, (1, 32) and (1)",
    "case/CASE/prefix/embedding": "(length 3, 32)",
    "case/CASE/prefix/mlp.in.{weight,bias}": "(20, 32) and (20), followed by tanh",
    "case/CASE/prefix/mlp.out.{weight,bias}": (
        "(2 * 32 * active, 20) and (2 * 32 * active); output columns run over active layers in order, then "
        "key before value, then heads, then the head's channels"
    ),
    "case/CASE/prefix/layer/I/{key,value}": "the folded prefix, (heads 4, length 3, head size 8)",
    "symbols": (
        "I: layer, from 0; x: attention block's output after its LayerNorm; h: feed-forward output before the "
        "residual; LN: the layer's own output LayerNorm; SA(u), PA(u): W_up relu(W_down u + b_down) + b_up"
    ),
}


def describe(case: Case, tensors: Tensors, counted: dict[str, int], error: float, effect: float) -> dict[str, Any]:
    """The metadata of one case; `effect` is its largest difference from the backbone without any module."""
    return {
        "methods": list(case.methods),
        "layers": list(case.layers),
        "is_folded": case.is_folded,
        "is_gated": case.is_gated,
        "feed_forward": FORMULAS[case.ffn],
        "note": case.note,
        "parameters": counted,
        "largest_difference_from_plain_torch": float(f"{error:.1e}"),
        "largest_difference_from_plain_backbone": round(effect, 3),
        "shapes": {name: str(list(tensor.shape)) for name, tensor in tensors.items()},
    }


def build() -> tuple[Tensors, dict[str, Any]]:
    """Every tensor and all metadata.

    Raises:
        SystemExit: plain torch and `adapters` disagree about a case.
    """
    base = {name: t.clone() for name, t in tiny_bert().state_dict().items() if t.is_floating_point()}
    tensors = {f"model/{name}": t for name, t in base.items()} | inputs()
    about: dict[str, Any] = {}
    for number, case in enumerate(cases()):
        model = adapted(case, SEED + 100 + number)
        own = neutral(case, model)
        counted = counts(model, own)
        output = field_output(case, model)
        error = float((plain_forward(base, own, case) - output).abs().max())
        effect = float((plain_forward(base, {}, PLAIN) - output).abs().max())
        print(f"{case.name:40s} {error:.1e} {effect:.2f} {counted}")
        if error > TOLERANCE:
            raise SystemExit(f"{case.name}: {FORMULAS[case.ffn]} differs by {error:.1e} > {TOLERANCE}.")
        tensors |= {f"case/{case.name}/{name}": t for name, t in own.items()}
        tensors[f"case/{case.name}/output"] = output.contiguous()
        about[case.name] = describe(case, own, counted, error, effect)
    return tensors, about


def main() -> None:
    """Write ``adapters.safetensors`` and ``adapters.json`` next to this file, or into ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    tensors, about = build()
    versions = {
        "adapters": adapters.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    meta = {
        "made_by": "python tests/reference/make_adapters.py",
        "versions": versions,
        "seed": SEED,
        "config": {**CONFIG, "attn_implementation": "sdpa"},
        "tensors": LOADER,
        "cases": about,
        "published_autopeft_rte_on_bert_base": published_counts(),
    }
    save_file(tensors, out / "adapters.safetensors")
    (out / "adapters.safetensors").chmod(0o644)
    (out / "adapters.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
