"""Adapters of PEFT read as architectures: they compute what PEFT computes, and what would be lost is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import small_case
import tiny
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.network.attach import attach
from autopeft.saved.export import to_peft
from autopeft.saved.imported import from_peft, save_imported
from autopeft.saved.record import read_record
from autopeft.saved.save import load

MIXED = {
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "layers_to_transform": [0, 2],
    "layers_pattern": "layers",
    "rank_pattern": {"layers.0.self_attn.v_proj": 2},
    "alpha_pattern": {".*down_proj": 16},
}


@contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, about versions of its dependencies
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "model"
    made = tiny.backbone("llama", with_tokenizer=True)
    made.language_model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


def adapted(base: Path, folder: Path, config: Any) -> torch.Tensor:
    """An adapter that PEFT made, filled with random numbers, in `folder`; the logits with it."""
    from peft import get_peft_model

    with quiet(), torch.no_grad():
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
        draws = torch.Generator().manual_seed(3)
        for name, value in model.named_parameters():
            if value.requires_grad:
                shift = 1.0 if "ia3" in name or "magnitude" in name else 0.0
                value.copy_(shift + 0.3 * torch.randn(value.shape, generator=draws))
        model.save_pretrained(folder)
        found: torch.Tensor = model(**tiny.inputs(tiny.backbone("llama"))).logits
    return found


def lora(**changes: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{**MIXED, "task_type": "CAUSAL_LM", **changes})


def ia3() -> Any:
    from peft import IA3Config

    # A feed-forward module's input is rescaled, the output of the others.
    modules = ["k_proj", "v_proj", "down_proj", "o_proj"]
    return IA3Config(task_type="CAUSAL_LM", target_modules=modules, feedforward_modules=["down_proj"])


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "ia3"])
def test_what_peft_saved_computes_the_same_here_and_goes_back(kind: str, base: Path, tmp_path: Path) -> None:
    config = ia3() if kind == "ia3" else lora(use_rslora=kind == "rslora", use_dora=kind == "dora")
    theirs = adapted(base, tmp_path / "peft", config)
    backbone = Backbone.from_pretrained(base)
    found = from_peft(tmp_path / "peft", backbone)
    batch = tiny.inputs(backbone)
    with torch.no_grad():
        plain = backbone.language_model(**batch).logits
        with attach(backbone, found.architecture) as attached:
            attached.load_state(found.state)
            torch.testing.assert_close(backbone.language_model(**batch).logits, theirs, atol=1e-5, rtol=1e-5)
    assert (plain - theirs).abs().max() > 0.01
    save_imported(found, backbone, tmp_path / "saved", "there")
    assert read_record(tmp_path / "saved")["facts"] == {"imported_from": "there"}
    to_peft(tmp_path / "saved", tmp_path / "back", backbone=backbone)
    ours, once = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("back", "peft"))
    assert ours.keys() == once.keys()
    for name, value in once.items():
        torch.testing.assert_close(ours[name], value)
    again = from_peft(tmp_path / "back", backbone)
    assert again.architecture == found.architecture
    with quiet(), torch.no_grad():
        from peft import PeftModel

        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "back").eval()
        torch.testing.assert_close(model(**batch).logits, theirs, atol=1e-5, rtol=1e-5)


def test_ranks_alphas_and_layers_become_placements(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path, lora())
    found = from_peft(tmp_path, Backbone.without_weights(str(base)))
    wanted = [
        placement
        for layer in (0, 2)
        for placement in (
            Placement(f"decoder.{layer}.q", "lora", 4, 1.5),
            Placement(f"decoder.{layer}.v", "lora", 2 if layer == 0 else 4, 3.0 if layer == 0 else 1.5),
            Placement(f"decoder.{layer}.ffn_out", "lora", 4, 4.0),
        )
    ]
    assert found.architecture == Architecture(tuple(wanted))
    assert {p.scale for p in from_peft(rooted(tmp_path), tiny.backbone("llama")).architecture} == {3.0, 6 / 2**0.5, 8.0}


def rooted(folder: Path) -> Path:
    """The same adapter with the scale of rsLoRA."""
    change(folder, use_rslora=True)
    return folder


def change(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_a_fused_projection_is_taken_part_by_part(tmp_path: Path) -> None:
    backbone = tiny.backbone("gpt2")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "fan_in_fan_out": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    draws = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 32, generator=draws), torch.randn(96, 2, generator=draws)
    name = "base_model.model.transformer.h.1.attn.c_attn"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "adapter_model.safetensors")
    found = from_peft(tmp_path, backbone)
    assert found.architecture == Architecture(tuple(Placement(f"decoder.1.{r}", "lora", 2, 2.0) for r in "qkv"))
    batch = tiny.inputs(backbone)
    with torch.no_grad(), attach(backbone, found.architecture) as attached:
        attached.load_state(found.state)
        ours = backbone.model(**batch).last_hidden_state
    weight = backbone.module("h.1.attn.c_attn").weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight += 2 * (up @ down).T
        theirs = backbone.model(**batch).last_hidden_state
        weight.copy_(kept)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "is of the kind 'PREFIX_TUNING'; LORA and IA3 can be read"),
        (
            {"bias": "all", "modules_to_save": ["lm_head"], "init_lora_weights": "pissa"},
            r"bias is 'all'; init_lora_weights is 'pissa'; modules_to_save is \['lm_head'\]",
        ),
        ({"r": 8}, r"layers\.0\.mlp\.down_proj has tensors of rank 4 and 4, but its rank is 8"),
        ({"lora_alpha": 0}, r"q_proj has the alpha 0, which is no number above 0"),
        ({"use_dora": True}, r"has lora_A.weight, lora_B.weight instead of .* lora_magnitude_vector"),
    ],
)
def test_what_would_be_lost_is_refused_with_its_value(
    fields: dict[str, Any], message: str, base: Path, tmp_path: Path
) -> None:
    adapted(base, tmp_path, lora())
    change(tmp_path, **fields)
    with pytest.raises(ArchitectureError, match=message):
        from_peft(tmp_path, Backbone.without_weights(str(base)))


def test_a_module_or_a_tensor_that_is_no_place_is_refused(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path, lora())
    backbone, path = Backbone.without_weights(str(base)), tmp_path / "adapter_model.safetensors"
    save_file({name.replace("0.self_attn.q", "0.self_attn.x"): value for name, value in load_file(path).items()}, path)
    with pytest.raises(ArchitectureError, match=r"there is no place at model.layers.0.self_attn.x_proj"):
        from_peft(tmp_path, backbone)
    save_file({"base_model.model.score.weight": torch.ones(2, 3)}, path)
    with pytest.raises(ArchitectureError, match=r"neither LoRA nor IA3, or no numbers: .*score.weight \(2, 3\)"):
        from_peft(tmp_path, backbone)
    path.unlink()
    with pytest.raises(ArchitectureError, match="cannot be read"):
        from_peft(tmp_path, backbone)


def test_the_command_writes_an_architecture_and_a_saved_model(base: Path, tmp_path: Path) -> None:
    theirs = adapted(base, tmp_path / "peft", lora())
    place, model = tmp_path / "found.json", tmp_path / "saved"
    called = small_case.call("import", tmp_path / "peft", "--out", place, "--save", model)
    assert called.code == 0, called.err
    assert "lora=4@decoder.q[1,3]×1.5" in called.out
    assert json.loads(place.read_text())["backbone"]["layers"] == {"decoder": 3}
    with torch.no_grad():
        ours = load(model)(**tiny.inputs(tiny.backbone("llama"))).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    change(tmp_path / "peft", base_model_name_or_path=None)
    refused = small_case.call("import", tmp_path / "peft")
    assert (refused.code, "say it with --model" in refused.err) == (2, True)
