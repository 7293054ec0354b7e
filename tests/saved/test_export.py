"""Export to PEFT: the exported adapter computes what ours computes; what cannot be expressed is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertConfig

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone
from autopeft.errors import ArchitectureError
from autopeft.network.attach import attach
from autopeft.saved.export import check_exportable, to_peft
from autopeft.saved.save import Described, save
from autopeft.training.heads import Head, HeadedModel

MIXED = Architecture(
    (
        Placement("encoder.1.q", "lora", 4),
        Placement("encoder.1.v", "lora_double", 2),
        Placement("encoder.11.q", "lora", 1),
        Placement("encoder.10.ffn_in", "lora", 3, scale=2.5),
        Placement("encoder.9.v", "lora_double", 3, scale=0.25),
    )
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Twelve layers, so that layer 1 and layer 11 can be confused."""
    config = BertConfig(
        hidden_size=16, num_hidden_layers=12, num_attention_heads=2, intermediate_size=24, vocab_size=50
    )
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_exported_lora_equals_ours(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = AutoModel.from_pretrained(base)
    backbone = Backbone(model, name=str(base))
    inputs = {"input_ids": torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(1))}
    with attach(backbone, MIXED) as attached, torch.no_grad():
        for parameter in attached.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(2))
        ours = model(**inputs).last_hidden_state
        headed = HeadedModel(backbone, Head(16, 2))
        save(tmp_path / "saved", attached, headed, Described("classification", ("a", "b"), ("text",), {}))
        plain = attached.backbone
    assert not torch.equal(ours, model(**inputs).last_hidden_state)
    to_peft(tmp_path / "saved", tmp_path / "peft", backbone=plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, about versions of its dependencies
        theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(base), tmp_path / "peft").eval()
    torch.testing.assert_close(theirs(**inputs).last_hidden_state, ours, atol=1e-6, rtol=1e-5)


def test_what_peft_cannot_express_is_refused() -> None:
    mixed = Architecture((Placement("encoder.0.q", "lora", 4), Placement("encoder.0.ffn", "serial", 4)))
    with pytest.raises(ArchitectureError, match="holds serial"):
        check_exportable(mixed)
    with pytest.raises(ArchitectureError, match="holds nothing"):
        check_exportable(Architecture())


@pytest.mark.parametrize(
    ("placements", "message"),
    [
        (
            (Placement("encoder.1.q", "lora", 4), Placement("encoder.1.q", "lora_double", 2)),
            r"lora_double=2@q\[2\] stands beside lora at one module.*--as-lora",
        ),
        ((Placement("encoder.1.ffn", "lora", 4),), r"lora=4@ffn\[2\] stands at no linear map"),
        ((Placement("encoder.1.attention", "lora", 4),), r"lora=4@attention\[2\] stands at no linear map"),
    ],
)
def test_what_pefts_names_cannot_hold_is_refused(
    placements: tuple[Placement, ...], message: str, base: Path, tmp_path: Path
) -> None:
    backbone = Backbone(AutoModel.from_pretrained(base), name=str(base))
    architecture = Architecture(placements)
    record = {"format": 1, "architecture": architecture.as_dict(), "label_names": []}
    record |= {"backbone": {"name": "x", "model_type": "bert", "dtype": "float32"}, "problem": "regression"}
    (tmp_path / "architecture.json").write_text(json.dumps({**record, "n_outputs": 0}))
    with pytest.raises(ArchitectureError, match=message):
        to_peft(tmp_path, tmp_path / "peft", backbone=backbone)
    assert not (tmp_path / "peft").exists()
