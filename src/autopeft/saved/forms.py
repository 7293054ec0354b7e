"""How Hugging Face PEFT writes the methods that it has as well: fields of its configuration, names of its tensors.

One adapter of PEFT is of one kind. LoRA has a rank and an alpha of its own for every module; DoRA is LoRA with lengths
of rows, for all modules or for none; IA3 has a factor a coordinate, of a module's output or of its input; LN tuning has
norms in the place of the model's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from autopeft import methods
from autopeft.architecture import Placement
from autopeft.backbones import Site
from autopeft.methods import Method
from autopeft.methods.dora import DoRA
from autopeft.methods.ia3 import IA3
from autopeft.methods.layernorm import LNFit
from autopeft.methods.lora import LoRA

ROOT = "base_model.model."
"""What the names of PEFT's tensors begin with, before the path of the module."""

Placed = Mapping[str, tuple[Placement, Site]]
"""Placements and their sites by the path of the module, as PEFT sees it."""


class Form(Protocol):
    """One kind of adapter of PEFT and the methods here that it can express."""

    @property
    def name(self) -> str: ...
    def holds(self, method: Method) -> bool:
        """Whether it expresses this method."""
        ...

    def fields(self, placed: Placed) -> dict[str, Any]:
        """The fields of its configuration, without those that all kinds have."""
        ...

    def tensors(
        self, item: Placement, site: Site, state: Mapping[str, Tensor], frozen: nn.Module
    ) -> Iterator[tuple[str, Tensor]]:
        """The tensors of one module by the end of PEFT's name, from those of the placement by ours.

        Args:
            frozen: the backbone's own module.
        """
        ...


@dataclass(frozen=True)
class LoraForm:
    """LoRA, or DoRA: ranks and alphas module by module."""

    name: str
    is_decomposed: bool

    def holds(self, method: Method) -> bool:
        """LoRA of any scale, or DoRA."""
        return isinstance(method, DoRA if self.is_decomposed else LoRA)

    def fields(self, placed: Placed) -> dict[str, Any]:
        """Ranks, and alphas: PEFT divides alpha by the rank, so that the scale here is multiplied by it."""
        ranks = {path: item.size for path, (item, _) in placed.items()}
        alphas = {path: _scale(item) * item.size for path, (item, _) in placed.items()}
        largest = max(ranks.values())
        return {
            "peft_type": "LORA",
            "fan_in_fan_out": False,
            "r": largest,
            "lora_alpha": largest,
            "lora_dropout": 0.0,
            "bias": "none",
            "init_lora_weights": True,
            "use_dora": self.is_decomposed,
            "target_modules": sorted(ranks),
            "rank_pattern": {_anchored(path): rank for path, rank in ranks.items()},
            "alpha_pattern": {_anchored(path): alpha for path, alpha in alphas.items()},
        }

    def tensors(
        self, item: Placement, site: Site, state: Mapping[str, Tensor], frozen: nn.Module
    ) -> Iterator[tuple[str, Tensor]]:
        """A is ``(rank, d_in)``, B is ``(d_out, rank)``, as here."""
        yield "lora_A.weight", state["down.weight"]
        yield "lora_B.weight", state["up.weight"]
        if self.is_decomposed:
            yield "lora_magnitude_vector", state["magnitude"]


@dataclass(frozen=True)
class Ia3Form:
    """IA3: factors of outputs, and of inputs where PEFT speaks of a feed-forward module."""

    name: str = "IA3"

    def holds(self, method: Method) -> bool:
        """IA3."""
        return isinstance(method, IA3)

    def fields(self, placed: Placed) -> dict[str, Any]:
        """The modules, and those of them whose input is rescaled."""
        return {
            "peft_type": "IA3",
            "fan_in_fan_out": False,
            "init_ia3_weights": True,
            "target_modules": sorted(placed),
            "feedforward_modules": sorted(path for path, (_, site) in placed.items() if site.is_before),
        }

    def tensors(
        self, item: Placement, site: Site, state: Mapping[str, Tensor], frozen: nn.Module
    ) -> Iterator[tuple[str, Tensor]]:
        """The factor itself, which here is kept as its difference from 1: a column for outputs, a row for inputs."""
        factor = 1 + state["weight"]
        yield "ia3_l", factor[None, :] if site.is_before else factor[:, None]


@dataclass(frozen=True)
class NormForm:
    """LN tuning: whole norms, of which ours hold the change of the weight."""

    name: str = "LNFit"

    def holds(self, method: Method) -> bool:
        """LNFit."""
        return isinstance(method, LNFit)

    def fields(self, placed: Placed) -> dict[str, Any]:
        """The norms."""
        return {"peft_type": "LN_TUNING", "target_modules": sorted(placed)}

    def tensors(
        self, item: Placement, site: Site, state: Mapping[str, Tensor], frozen: nn.Module
    ) -> Iterator[tuple[str, Tensor]]:
        """The weight with its change, and the bias as it was: PEFT's norm stands in the place of the frozen one."""
        for name, value in frozen.named_parameters():
            yield f"ln_tuning_layers.{name}", value.detach() + (state["weight"] if name == "weight" else 0)


FORMS: tuple[Form, ...] = (
    LoraForm("LoRA", is_decomposed=False),
    LoraForm("DoRA", is_decomposed=True),
    Ia3Form(),
    NormForm(),
)
"""Every kind of adapter that is written."""


def form_of(names: Iterable[str]) -> Form | None:
    """The kind that expresses all methods of these names; None where none does."""
    held = [methods.lookup(name) for name in names]
    return next((form for form in FORMS if held and all(map(form.holds, held))), None)


def pattern_value(patterns: Mapping[str, Any], path: str, usual: Any) -> Any:
    """The value of the first of PEFT's patterns that matches the end of `path`; `usual` where none does."""
    # PEFT's own rule: a pattern is a regular expression for the last parts of a module's name.
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), usual)


def _anchored(path: str) -> str:
    """PEFT matches patterns at the end of a module's name; the anchor keeps layer 1 from matching layer 11."""
    return "^" + path.replace(".", r"\.")


def _scale(placement: Placement) -> float:
    method = methods.lookup(placement.method)
    assert isinstance(method, LoRA | DoRA)  # the form holds nothing else
    return method.scale * placement.scale
