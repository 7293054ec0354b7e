from __future__ import annotations

import pytest

from autopeft.architecture import Architecture, Placement
from autopeft.pictures.labels import brief, metric_label, site_parts
from sample_trials import architecture, failed, measured


@pytest.mark.parametrize(
    ("placements", "expected"),
    [
        ((), "head only"),
        (("serial@encoder.2.ffn:12",), "serial 12 · layer 3"),
        (tuple(f"lora@encoder.{i}.q:8" for i in (2, 3, 7, 8, 9)), "lora 8 · layers 3,4,8–10"),
        (("lora@encoder.0.q:1", "lora@encoder.1.q:16"), "lora 1–16 · layers 1,2"),
        (("prefix@decoder.0.attention:1", "bias@encoder.1.ffn:1"), "bias 1, prefix 1 · encoder 2, decoder 1"),
        (("norm@decoder.final_norm:1",), "norm 1 · decoder final_norm"),
        (("norm@decoder.final_norm:1", "norm@decoder.4.norm:1"), "norm 1 · layer 5, decoder final_norm"),
    ],
)
def test_brief_names_methods_sizes_and_layers_counted_from_one(placements: tuple[str, ...], expected: str) -> None:
    assert brief(architecture(*placements)) == expected


def test_brief_names_scales_that_are_not_the_method_s_own() -> None:
    scales = {"encoder.0.q": 1.0, "encoder.1.q": 1 / 3}
    placed = tuple(Placement(site, "lora", 8, scale) for site, scale in scales.items())
    assert brief(Architecture(placed)) == "lora 8 ×0.333–1 · layers 1,2"
    assert brief(Architecture((Placement("encoder.0.q", "lora", 8, 2),))) == "lora 8 ×2 · layer 1"


def test_site_parts_keep_a_dotted_role_whole() -> None:
    assert site_parts("decoder.11.cross.q") == ("decoder", 11, "cross.q")
    assert site_parts("decoder.final_norm") == ("decoder", None, "final_norm")


def test_metric_label_joins_what_was_measured() -> None:
    assert metric_label([failed(0)]) == "metric"
    assert metric_label([measured(0, 1, 0.5), measured(1, 1, 0.5)]) == "validation accuracy"
    assert (
        metric_label([measured(0, 1, 0.5), measured(1, 1, 0.5, split="test")]) == "test accuracy / validation accuracy"
    )
