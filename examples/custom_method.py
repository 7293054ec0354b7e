"""A method of your own, searched beside serial adapters: a gain for every unit of the feed-forward's output.

The name of the method is its dotted path, so that stored studies and saved models find it again. The file must be
importable there: run it from its own folder, or put the folder on PYTHONPATH.

    python custom_method.py [FOLDER]
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import autopeft
from autopeft.architecture import Cost, Line
from autopeft.backbones import Seam, Site
from autopeft.methods import Frozen, Mask, Reads, Traits, sum_of_stored
from autopeft.settings import AxisSettings, SpaceSettings


class Gain(nn.Module):
    """`y' = y (1 + g)`, with `g` 0 at the start. One unit, so a mask has one entry."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(d))

    def forward(self, u: Tensor, y: Tensor, mask: Mask = None) -> Tensor:
        switch = mask[0] if isinstance(mask, Tensor) else 1  # a whole number would ask for the first units: all of them
        return y + y * self.gain * switch

    def cut(self, size: int) -> dict[str, Tensor]:
        """The weights of the first `size` units, for supernets."""
        return {"gain": self.gain}


@dataclass(frozen=True)
class Scale(Traits):
    """Where gains stand and what they cost."""

    name: str = "custom_method:SCALE"
    roles: tuple[str, ...] = ("ffn",)
    seam: Seam = "delta"
    reads: Reads = Reads.OUTPUT
    order: int = 70  # after the adapters
    is_sized: bool = False

    def cost(self, site: Site) -> Cost:
        line = Line(site.d_out, 0)
        return Cost(nominal=line, stored=line)

    def trained(self, placements: Sequence[tuple[Site, int]]) -> int:
        return sum_of_stored(self, placements)

    def build(self, placements: Sequence[tuple[Site, int]], frozen: Frozen) -> Mapping[str, nn.Module]:
        return {site.key: Gain(site.d_out) for site, _ in placements}


SCALE = Scale()


def main(folder: Path) -> None:
    methods = {"serial": AxisSettings(sizes=(0, 1, 4, 16)), SCALE.name: AxisSettings()}
    settings = autopeft.Settings(
        task="reviews/movies",
        train_limit=200,
        validation_limit=200,
        space=SpaceSettings(methods=methods),
        recipe=autopeft.Recipe(learning_rate=3e-3, epochs=1, batch_size=16, max_length=48),
        learning_rates=(),
        sampler="random",
        trials=4,
        initial=4,
    )
    study = autopeft.search(settings, folder)
    for trial in study.trials():
        if trial.measurement is not None:
            print(f"{trial.measurement.value:.3f} at {trial.measurement.percent:.4f} %: {trial.architecture}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/custom-method"))
