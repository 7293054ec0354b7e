"""Several architectures on one frozen backbone, each on its own share of the batch.

The batch holds the same rows once for every architecture, one share after the other, so the products with frozen
weights are done for all together; at a site every architecture changes its own share alone. Below the lowest layer
where any of them stands all shares are equal: these layers, the trunk, are given the rows once, and where the trunk
ends they are repeated.

No row of a batch sees another one, so what one architecture computes, NaN included, reaches no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autopeft.architecture import Architecture
from autopeft.backbones import Backbone, Site
from autopeft.errors import ArchitectureError
from autopeft.methods import lookup
from autopeft.network.attach import Attached, build_from
from autopeft.network.attention import Keys, set_rows
from autopeft.network.hooks import Hooks


class Shares:
    """Several architectures on one backbone.

    Attributes:
        members: each as if it were alone; detaching one of them does nothing, see `detach`.
        active: which of them the batch has shares of, in order.
        rows: how many rows the share of each has in the pass in hand.
    """

    def __init__(
        self, backbone: Backbone, architectures: Sequence[Architecture], *, seed: int, has_trunk: bool = True
    ) -> None:
        """Build the modules of all, each as `autopeft.network.attach.attach` does from `seed`, and hook them in.

        Args:
            has_trunk: False repeats the rows before the first layer; what is computed is the same.

        Raises:
            ArchitectureError: one does not fit the backbone or trains the backbone itself, or something is attached.
        """
        if backbone.occupant is not None:
            raise ArchitectureError(f"{backbone.name} holds {backbone.occupant} already: detach it first.")
        if any(lookup(name).seam == "backbone" for architecture in architectures for name in architecture.methods):
            raise ArchitectureError("Who trains the backbone itself has it alone, but was given a share of it.")
        self.backbone, self.rows = backbone, 0
        self.members = tuple(
            Attached(backbone, architecture, build_from(seed, backbone, architecture), is_hooked=False)
            for architecture in architectures
        )
        self.active = list(range(len(self.members)))
        self._hooks, self._has_trunk = Hooks(backbone, self), has_trunk
        self._handles: list[RemovableHandle] = []
        self._repeated: dict[int, tuple[Tensor, Tensor]] = {}
        backbone.occupant = self
        try:
            self._hook()
        except BaseException:
            self.detach()  # a shortage of memory, say, must not leave half of them behind
            raise

    def __str__(self) -> str:
        return f"{len(self.members)} architectures at once"

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of all methods, as of one architecture."""
        return tuple(sorted({name for member in self.members for name in member.architecture.methods}))

    # -- passes --------------------------------------------------------------------------------------------

    def begin(self, rows: int) -> None:
        """A pass begins in which the share of each has `rows` rows; the model is given either those or all shares."""
        self.rows = rows
        self._repeated.clear()

    def repeat(self, x: Tensor) -> Tensor:
        """``(rows, ...)`` once for each of the active, one after the other; what holds all shares already as it is."""
        n = len(self.active)
        return x if n == 1 or x.shape[0] != self.rows else x.repeat(n, *(1 for _ in x.shape[1:]))

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The share of each of the active: ``(active * rows, ...)``, or ``(rows, ...)`` that is common to all."""
        n = len(self.active)
        return (x,) * n if x.shape[0] == self.rows else torch.split(x, self.rows)

    def share_rows(self) -> int | None:
        """`rows`, for what treats all shares alike; None while only one is active."""
        return self.rows if len(self.active) > 1 else None

    @contextmanager
    def only(self, index: int) -> Iterator[Attached]:
        """Within it this architecture is the only active one: the model computes what it computes alone."""
        before, self.active = self.active, [index]
        try:
            yield self.members[index]
        finally:
            self.active = before

    # -- what the hooks ask --------------------------------------------------------------------------------

    def change(self, site: Site, x: Tensor, y: Tensor, visible: Tensor | None) -> Tensor:
        """What the architectures make of their shares of the output of `site`."""
        members = [self.members[index] for index in self.active]
        if len(members) == 1:
            return _changed(members[0], site, x, y, visible)
        shown = (None,) * len(members) if visible is None else self.split(visible)
        parts = zip(members, self.split(x), self.split(y), shown, strict=True)
        return torch.cat([_changed(member, site, own_x, own_y, seen) for member, own_x, own_y, seen in parts])

    def put_in_front(self, site: Site, x: Tensor | None, visible: Tensor | None) -> Keys | list[Keys]:
        """The prefix of each of the active at `site`."""
        members = [self.members[index] for index in self.active]
        n = len(members)
        inputs = (None,) * n if x is None else (x,) if n == 1 else self.split(x)
        shown = (None,) * n if visible is None else (visible,) if n == 1 else self.split(visible)
        found = [
            member.put_in_front(site, part, seen) if site.key in member.prefix_sites else None
            for member, part, seen in zip(members, inputs, shown, strict=True)
        ]
        return found[0] if n == 1 else found

    # -- hooks ---------------------------------------------------------------------------------------------

    def _hook(self) -> None:
        if any(member.sees_padding for member in self.members):
            self._hooks.watch_padding()
        for site in self.backbone.sites.values():
            if site.seam == "kv":
                # Every attention is told, those without prefixes too: dropout in it must be the same for every share.
                set_rows(self.backbone.module(site.entry), self.share_rows)
            if any(site.key in member.prefix_sites for member in self.members):
                holds_input = any(member.holds_input(site.key) for member in self.members)
                self._hooks.at_attention(site, holds_input=holds_input)
            if any(site.key in member.delta_sites for member in self.members):
                self._hooks.at_deltas(site)
        self._hook_layers()

    def _hook_layers(self) -> None:
        """Repeat the rows at the layers where architectures stand, and whatever else is given to these layers."""

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            # The rows of one alone are the batch, and repeating once would copy it at every layer.
            if len(self.active) == 1:
                return None
            return self._with_all_shares(args), self._with_all_shares(kwargs)

        for module in self._above_trunk():
            self._handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))

    def _above_trunk(self) -> Iterator[nn.Module]:
        """The layers that have all shares, of every stack.

        The last stack has them at its last layer at the latest, for the heads read its output. What comes after a stack
        that has them is given them as a whole: a decoder makes masks of what it is given before its layers see it.
        """
        stacks = self.backbone.family.stacks
        sites = [self.backbone.site(p.site) for member in self.members for p in member.architecture]
        is_repeated = not self._has_trunk
        for name, stack in stacks.items():
            layers = list(self.backbone.module(stack.layers).children())
            own = [len(layers) - 1 if site.layer is None else site.layer for site in sites if site.stack == name]
            last = len(layers) - 1 if name == list(stacks)[-1] else len(layers)
            if is_repeated and name != next(iter(stacks)):
                yield self.backbone.module(stack.layers.rpartition(".")[0])
            yield from layers[0 if is_repeated else min([*own, last]) :]
            is_repeated = is_repeated or bool(own)

    def _with_all_shares(self, value: Any) -> Any:
        """Tensors of one row a row of the share, wherever they are within `value`, repeated for every share.

        What has fewer than two axes belongs to no row.
        """
        if isinstance(value, dict):
            return {name: self._with_all_shares(item) for name, item in value.items()}
        # The very types: a named tuple or a cache of transformers is not made from a list of its parts.
        if type(value) in (tuple, list):
            return type(value)(self._with_all_shares(item) for item in value)
        if not isinstance(value, Tensor) or value.dim() < 2 or value.shape[0] != self.rows:
            return value
        # Every layer is given the same masks; they are kept with what they were made of, which keeps its number taken.
        if id(value) not in self._repeated or value.requires_grad:
            self._repeated[id(value)] = (value, self.repeat(value))
        return self._repeated[id(value)][1]

    def detach(self) -> None:
        """Take everything away again. Idempotent."""
        self._hooks.remove_all()
        for handle in self._handles:
            handle.remove()
        for site in self.backbone.sites.values():
            if site.seam == "kv":
                set_rows(self.backbone.module(site.entry), None)
        self._repeated.clear()
        # A second call must not throw out whoever has been attached since.
        if self.backbone.occupant is self:
            self.backbone.occupant = None

    def __enter__(self) -> Shares:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()


def _changed(member: Attached, site: Site, x: Tensor, y: Tensor, visible: Tensor | None) -> Tensor:
    return member.change(site, x, y, visible) if site.key in member.delta_sites else y
