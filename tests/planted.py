"""A small problem with a known answer: only some placements can lower the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import BertConfig

from autopeft import methods
from autopeft.backbones import Backbone
from autopeft.spaces.lattice import Axis, SearchSpace

WIDTH = 16


def backbone(layers: int = 2) -> Backbone:
    """A BERT of width 16 with random weights."""
    return Backbone.from_config(
        BertConfig(
            hidden_size=WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * WIDTH,
            vocab_size=50,
            max_position_embeddings=16,
        )
    )


def space_of(model: Backbone, roles: tuple[str, ...] = ("q", "k", "v", "o")) -> SearchSpace:
    """LoRA of rank 1, 4 or 8 at 32 parameters a rank, and a bias of 16 after each feed-forward."""
    return SearchSpace.build(
        model,
        [Axis(methods.lookup("lora"), (0, 1, 4, 8), roles), Axis(methods.lookup("bitfit"), (0, 1), ("ffn_out",))],
        sharing="placement",
        layers="all",
    )


def _change(rank: int | None, generator: torch.Generator) -> Tensor:
    """A random matrix of about unit gain; of a lower rank all have one norm, so that all sites need theirs alike."""
    if rank is None:
        return torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    change = torch.randn(WIDTH, rank, generator=generator) @ torch.randn(rank, WIDTH, generator=generator)
    return change * (WIDTH**0.5 / change.norm())


class Planted:
    """Outputs of the planted sites are to be a random linear change of what they are; everything else is noise.

    The loss is the squared error at the planted sites, which no placement elsewhere can lower, since only layer 0's
    own projections come before them, plus an error of the last hidden state against random numbers drawn anew for
    every batch, which nothing can lower below its floor but which gives every other placement noisy gradients.
    """

    def __init__(
        self, model: Backbone, sites: Sequence[str], seed: int, noise: float = 0.01, rank: int | None = None
    ) -> None:
        """Args:
        rank: of every change; None for full.
        """
        self.model, self.seed, self.noise = model, seed, noise
        self.head: Sequence[nn.Parameter] = ()
        self.steps_per_epoch = 20
        self.examples: int | None = None
        generator = torch.Generator().manual_seed(seed)
        self.changes = {model.site(site).exit: _change(rank, generator) for site in sites}
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}

    def loss(self, half: int, step: int) -> Tensor:
        """The squared errors on the batch of `half` at `step`."""
        generator = torch.Generator().manual_seed(hash((self.seed, half, step)))
        tokens = torch.randint(1, 50, (8, 6), generator=generator)
        last: Tensor = self.model.model(input_ids=tokens).last_hidden_state
        noise = torch.randn(last.shape, generator=generator)
        error = self.noise * (last - noise).square().mean()
        for path, change in self.changes.items():
            x, y = self.seen[path]
            weight = self.model.module(path).get_parameter("weight")
            bias = self.model.module(path).get_parameter("bias")
            error = error + (y - (x @ (weight + change).T + bias)).square().mean()
        return error

    @contextmanager
    def training(self) -> Iterator[None]:
        """A context in which the planted sites are watched."""
        handles = []
        for path in self.changes:
            # The supernet's hooks are registered before, so what is seen is the changed output.
            def see(_: nn.Module, args: tuple[Tensor, ...], y: Tensor, path: str = path) -> None:
                self.seen[path] = args[0].detach(), y

            handles.append(self.model.module(path).register_forward_hook(see))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def validation(self) -> float:
        """The mean loss on five batches that training never sees."""
        return float(torch.stack([self.loss(1, 1_000_000 + n) for n in range(5)]).mean())
