"""Saved models made into one LoRA: peft alone computes the same, what is left out is told, and the rest is refused."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from test_merge import saved
from transformers import AutoModel, AutoModelForCausalLM

import small_case
import tiny
from autopeft.architecture import Placement
from autopeft.errors import ArchitectureError, SettingsError
from autopeft.saved.converted import factor, to_lora
from autopeft.saved.export import to_peft
from autopeft.saved.save import load

LLAMA = (
    Placement("decoder.0.q", "lora", 3, 2.5),
    Placement("decoder.0.q", "lora_double", 2),
    Placement("decoder.1.ffn_hidden", "lora", 2),
    Placement("decoder.1.ffn_gate", "lora_double", 1),
    Placement("decoder.2.v", "lora", 2, 0.5),
    Placement("decoder.2.k", "ia3", 1),
)
GPT2 = (Placement("decoder.0.q", "lora", 2), Placement("decoder.0.v", "lora", 1), Placement("decoder.2.o", "lora", 2))
PHI3 = (
    Placement("decoder.0.q", "lora", 2),
    Placement("decoder.0.k", "dora", 2),
    Placement("decoder.1.ffn_in", "lora", 3),
)
RANKS = {
    "llama": {"layers.0.self_attn.q_proj": 5, "layers.1.mlp.down_proj": 2, "layers.1.mlp.gate_proj": 1,
              "layers.2.self_attn.v_proj": 2, "layers.2.self_attn.k_proj": 16},
    "gpt2": {"h.0.attn.c_attn": 3, "h.2.attn.c_proj": 2},
    "phi3": {"layers.0.self_attn.qkv_proj": 18, "layers.1.mlp.gate_up_proj": 3},
}  # fmt: skip


def of_peft(base: Path, folder: Path, auto: Any = AutoModelForCausalLM) -> torch.Tensor:
    """What transformers and peft alone give for the batch of the tiny models."""
    from peft import PeftModel

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # peft's own, about versions of its dependencies
        model = PeftModel.from_pretrained(auto.from_pretrained(base), folder).eval()
        found: torch.Tensor = model(**tiny.inputs(tiny.backbone("llama")))[0]
    return found


@pytest.mark.parametrize(("family", "placements"), [("llama", LLAMA), ("gpt2", GPT2), ("phi3", PHI3)])
def test_peft_alone_gives_the_same_logits(family: str, placements: tuple[Placement, ...], tmp_path: Path) -> None:
    folder = saved(family, placements, tmp_path)
    found = to_lora(folder, tmp_path / "peft")
    # The ranks of what stands at a map add up; what rescales a map, or every row of one, has as many as it has rows.
    assert dict(found.ranks) == RANKS[family]
    assert found.error <= 1e-5
    assert found.outputs.difference < 1e-5 * max(1, found.outputs.largest)
    batch = tiny.inputs(tiny.backbone(family))
    with torch.no_grad():
        ours, base = load(folder)(**batch).logits, AutoModelForCausalLM.from_pretrained(tmp_path / "base")(**batch)
    theirs = of_peft(tmp_path / "base", tmp_path / "peft")
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)
    assert (theirs - base.logits).abs().max() > 0.01


def test_an_encoder_keeps_its_head_apart(tmp_path: Path) -> None:
    folder = saved("bert", (Placement("encoder.0.q", "lora", 2), Placement("encoder.0.q", "lora_double", 1)), tmp_path)
    assert dict(to_lora(folder, tmp_path / "peft").ranks) == {"encoder.layer.0.attention.self.query": 3}
    with torch.no_grad():
        ours = load(folder).attached.backbone.model(**tiny.inputs(tiny.backbone("llama"))).last_hidden_state
    torch.testing.assert_close(of_peft(tmp_path / "base", tmp_path / "peft", AutoModel), ours, atol=1e-5, rtol=1e-5)


def test_what_a_smaller_rank_leaves_out_is_told_or_refused(tmp_path: Path) -> None:
    folder = saved("llama", tuple(Placement(f"decoder.{layer}.q", "lora", 3) for layer in range(3)), tmp_path)
    with pytest.raises(
        ArchitectureError, match=r"lora=3@decoder\.q\[.*\] at rank 1 has an error of .*; .*Raise the rank"
    ):
        to_lora(folder, tmp_path / "peft", rank=1, most_error=0.1)
    assert not (tmp_path / "peft").exists()
    found = to_lora(folder, tmp_path / "peft", rank=1, most_error=0.9)
    assert set(found.ranks.values()) == {1}
    assert 0.1 < found.error <= 0.9
    assert found.outputs.difference > 1e-3
    assert f"than {found.error:.1e} is left out" in (tmp_path / "peft" / "README.md").read_text().replace("\n", " ")


def test_the_error_is_what_is_left_out_and_no_smaller_lora_is_nearer() -> None:
    change = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    errors = {rank: factor(change, rank, 1e-9).error for rank in (1, 2, 3, 9)}
    assert errors == pytest.approx({1: (5 / 14) ** 0.5, 2: (1 / 14) ** 0.5, 3: 0, 9: 0}, abs=1e-12)
    assert [factor(change, None, most).rank for most in (1e-9, 0.27, 0.6, 1)] == [3, 2, 1, 1]
    found = factor(change, 2, 0)
    torch.testing.assert_close(found.up @ found.down, torch.diag(torch.tensor([3.0, 2.0, 0.0, 0.0])).double())
    nothing = factor(torch.zeros(3, 2), None, 1e-9)
    assert (nothing.rank, nothing.error) == (1, 0)


@pytest.mark.parametrize(
    "wrong", [{"most_error": float("nan")}, {"most_error": -1.0}, {"most_error": float("inf")}, {"rank": 0}]
)
def test_an_error_that_bounds_nothing_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="A rank is at least 1 and an error finite"):
        to_lora(tmp_path / "nothing", tmp_path / "peft", **wrong)


def test_what_is_no_change_of_a_linear_map_is_refused(tmp_path: Path) -> None:
    norms = tuple(Placement(f"encoder.{layer}.ffn_norm", "lnfit", 1) for layer in range(3))
    wrong = (
        *norms,
        Placement("encoder.0.q", "lora", 2),
        Placement("encoder.1.o", "bitfit", 1),
    )
    folder = saved("bert", wrong, tmp_path)
    told = r"lnfit=1@ffn_norm\[1–3\] changes a norm; bitfit=1@o\[2\] changes a bias"
    with pytest.raises(ArchitectureError, match=told):
        to_lora(folder, tmp_path / "peft")
    prefixed = saved(
        "llama", (Placement("decoder.0.ffn", "parallel", 2), Placement("decoder.1.kv", "prefix", 2)), tmp_path / "p"
    )
    with pytest.raises(
        ArchitectureError, match=r"parallel=2@decoder\.ffn\[1\] prefix=2@decoder\.kv\[2\] is no change of a weight"
    ):
        to_lora(prefixed, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_the_command_says_what_it_made(tmp_path: Path) -> None:
    folder = saved("gpt2", GPT2, tmp_path)
    refused = small_case.call("export", folder, "--to", tmp_path / "peft")
    assert (refused.code, "stands at a part of one" in refused.err, "--as-lora" in refused.err) == (2, True, True)
    called = small_case.call("export", folder, "--to", tmp_path / "peft", "--as-lora")
    assert called.code == 0, called.err
    assert re.search(r"LoRA of rank 2 to 3 in 2 maps; of no map's change more than \d\.\de-\d+ is left out", called.out)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["task_type"], config["fan_in_fan_out"], config["r"]) == ("CAUSAL_LM", True, 3)
    for wrong in (("--rank", 2), ("--merge", "--as-lora"), ("--public",)):
        assert small_case.call("export", folder, "--to", tmp_path / "no", *wrong).code == 2


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_tuned_norms_are_pefts_own(family: str, tmp_path: Path) -> None:
    places = ("0.attention_norm", "2.ffn_norm", "final_norm")
    folder = saved(family, tuple(Placement(f"decoder.{place}", "lnfit", 1) for place in places), tmp_path)
    to_peft(folder, tmp_path / "peft")
    with torch.no_grad():
        ours = load(folder)(**tiny.inputs(tiny.backbone(family))).logits
    torch.testing.assert_close(of_peft(tmp_path / "base", tmp_path / "peft"), ours, atol=1e-5, rtol=1e-5)
    assert "library_name: peft" in (tmp_path / "peft" / "README.md").read_text()
