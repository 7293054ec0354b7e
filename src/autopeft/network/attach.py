"""Attaching an architecture to a backbone, and taking it away again without a trace.

Deltas are attached by forward hooks at named sub-modules, prefixes through the attention registry; the
backbone's own modules, parameters and state are never replaced. After `Attached.detach` the backbone computes,
bit for bit, what it computed before.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import ADDED, Backbone, Site, seeded
from autopeft.errors import ArchitectureError
from autopeft.methods import Method, PrefixModule, Reads
from autopeft.network.attention import Keys
from autopeft.network.build import Key, build, fold
from autopeft.network.dropout import drawing_apart
from autopeft.network.hooks import Hooks
from autopeft.network.signals import changed_by, follow, what_is_read


def attach(backbone: Backbone, architecture: Architecture, *, seed: int = 0) -> Attached:
    """Build the modules of `architecture`, freshly initialised from `seed`, and hook them into `backbone`.

    All checks come before the first hook, so a failure leaves the backbone as it was.

    Raises:
        ArchitectureError: a placement does not fit the backbone, or one is attached already.
        UnknownNameError: there is no such method.
        BackboneError: there is no such site.
    """
    if backbone.occupant is not None:
        raise ArchitectureError(
            f"{backbone.name} holds one architecture at a time, but {backbone.occupant} is attached: detach it first."
        )
    return Attached(backbone, architecture, build_from(seed, backbone, architecture))


def build_from(seed: int, backbone: Backbone, architecture: Architecture) -> dict[Key, nn.Module]:
    """The modules of `architecture`, freshly initialised from `seed`; see `attach` for what may be wrong."""
    with seeded(seed):
        return build(backbone, architecture)


class _Shown(nn.Module):
    """What makes added modules part of a model."""

    def __deepcopy__(self, memo: object) -> _Shown:
        raise ArchitectureError(
            "A copy of this model would compute with the adapters of the original: load the saved folder once more."
        )


class Attached:
    """An architecture on a backbone.

    Attributes:
        modules: the added modules by (site, method), the task head excluded.
        masks: a mask over the units of each placement, ``(size,)``, or a number of units; absent means all units
            and the number 0 leaves the placement out. A supernet sets them.
        scales: beside a mask that is a tensor, the scalar factor of a method that takes it apart, see `Method`.
    """

    def __init__(
        self,
        backbone: Backbone,
        architecture: Architecture,
        modules: Mapping[Key, nn.Module],
        *,
        is_hooked: bool = True,
    ) -> None:
        """Take `modules` into `backbone`.

        Args:
            is_hooked: False for one of several that `autopeft.network.shares` puts onto one backbone: it is then asked
                through `change` and `put_in_front`, and changes nothing by itself.
        """
        self.backbone, self.architecture = backbone, architecture
        self.modules = dict(modules)
        self.masks: dict[Key, Tensor | int] = {}
        self.scales: dict[Key, Tensor] = {}
        self._prefixes, self._deltas = _by_site(architecture)
        self._original: dict[str, Tensor] | None = None
        self._shown: nn.Module | None = None
        for module in self.modules.values():
            # Drawn on the processor and moved afterwards, so that a seed gives the same weights whatever device they
            # train on.
            module.to(device=backbone.device)
        # Whoever is not hooked in is not detached either: its owner takes all away at once.
        self._hooks, self._is_attached = Hooks(backbone, self), is_hooked
        if not is_hooked:
            return
        # Before the first hook, so that what fails half-way is taken away by the same `detach` as everything else.
        backbone.occupant = architecture
        try:
            self._hook()
        except BaseException:
            self.detach()  # a shortage of memory, say, must not leave half an architecture behind
            raise

    # -- training ------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        """What is to be trained, the task head excluded; shared parameters once."""
        return [parameter for _, parameter in self.parameters_by_method()]

    def parameters_by_method(self) -> list[tuple[str, nn.Parameter]]:
        """The same, each with the name of its method."""
        # By parameter, since the prefixes of all layers share the trunk of their reparametrisation, which must not be
        # handed to an optimiser twice.
        found: dict[nn.Parameter, str] = {}
        for (_, method), module in self.modules.items():
            found |= {parameter: method for parameter in module.parameters() if parameter not in found}
        if self._original is not None:
            found |= dict.fromkeys(self.backbone.own_parameters().values(), "full")
        return [(method, parameter) for parameter, method in found.items()]

    def train(self, mode: bool = True) -> None:
        """Switch the added modules to training or evaluation mode."""
        for module in self.modules.values():
            module.train(mode)

    def fold(self) -> None:
        """Replace reparametrisations by their values; do this after training and before saving."""
        for module in self.modules.values():
            fold(module)

    def detach(self) -> None:
        """Take everything away again. Idempotent."""
        if not self._is_attached:
            return
        self._hide()
        self._hooks.remove_all()
        if self._original is not None:
            # Copied back into the same tensors: whoever shares the backbone holds on to these.
            self.backbone.model.load_state_dict(self._original)
            self.backbone.model.requires_grad_(False)
            self.backbone.model.zero_grad(set_to_none=True)
        self._original = None
        self.backbone.occupant, self._is_attached = None, False

    def remove(self, placement: Placement) -> None:
        """Take one placement out for good: its module, and its hook when nothing else stands at the site.

        What is left computes what it computed with the mask of this placement at 0.

        Raises:
            ArchitectureError: it is not attached.
        """
        key = (placement.site, placement.method)
        if placement not in self.architecture.placements:
            raise ArchitectureError(f"{placement} is not attached, so it cannot be removed.")
        self.architecture = Architecture(tuple(p for p in self.architecture if p != placement))
        self.modules.pop(key, None)
        self.masks.pop(key, None)
        self.scales.pop(key, None)
        if self._shown is not None:
            self.show(self._shown)
        left = [(method, other) for method, other in self._deltas.get(placement.site, []) if other != key]
        if left:
            self._deltas[placement.site] = left
        else:
            self._deltas.pop(placement.site, None)
            self._hooks.remove(placement.site)

    def show(self, model: nn.Module) -> None:
        """Make the added modules part of `model` as ``adapters.<site>.<method>``, until they are detached.

        Its parameters, its state, its precision and its mode are theirs too then, so that nothing that saves or moves a
        model leaves them behind.
        """
        self._hide()
        room = _Shown()
        for (site, method), module in self.modules.items():
            place: nn.Module = room
            for part in site.split("."):
                # Not `hasattr`: a part of a site may be called like a method of `nn.Module`, and would then be taken
                # for there.
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.add_module(method, module)
        model.add_module(ADDED, room)
        self._shown = model

    def _hide(self) -> None:
        if self._shown is not None:
            del self._shown._modules[ADDED]
        self._shown = None

    def __enter__(self) -> Attached:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    # -- state ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """What has to be stored, by ``site/method/parameter``; call `fold` first.

        Its number of elements is the *stored* count.
        """
        found: dict[str, Tensor] = {}
        if self._original is not None:
            found = {f"model/full/{name}": p.detach() for name, p in self.backbone.own_parameters().items()}
        for (site, method), module in self.modules.items():
            found.update({f"{site}/{method}/{name}": p.detach() for name, p in module.named_parameters()})
        return found

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the parameters from what `state` gave, folding first.

        Raises:
            ArchitectureError: names or shapes differ.
        """
        self.fold()
        own = self.state()
        # Names before shapes: with other names there is nothing to compare shapes with.
        wrong = sorted(set(own) ^ set(state)) or [k for k in own if own[k].shape != state[k].shape]
        if wrong:
            raise ArchitectureError(
                f"The weights do not belong to this architecture; they differ in {', '.join(wrong[:5])}."
            )
        for name, parameter in own.items():
            parameter.copy_(state[name])

    def base_identity(self) -> dict[str, Any]:
        """`Backbone.identity` of the weights that the backbone came with, also while they are being trained."""
        original = self._original
        own = None if original is None else {name: original[name] for name in self.backbone.own_parameters()}
        return self.backbone.identity(own)

    # -- hooks ---------------------------------------------------------------------------------------------

    def _hook(self) -> None:
        if self.sees_padding:
            self._hooks.watch_padding()
        if any(methods.lookup(name).seam == "backbone" for name in self.architecture.methods):
            self._unfreeze()
        for key in self._prefixes:
            self._hooks.at_attention(self.backbone.site(key), holds_input=self.holds_input(key))
        for key in sorted(self._deltas):
            self._hooks.at_deltas(self.backbone.site(key))

    def _unfreeze(self) -> None:
        # The whole state and not the parameters alone: buffers, too, may move while the model trains.
        self._original = {name: value.clone() for name, value in self.backbone.model.state_dict().items()}
        self.backbone.model.requires_grad_(True)

    # -- what the hooks ask --------------------------------------------------------------------------------

    @property
    def delta_sites(self) -> tuple[str, ...]:
        """Keys of the sites whose output is changed."""
        return tuple(self._deltas)

    @property
    def prefix_sites(self) -> tuple[str, ...]:
        """Keys of the attentions that have a prefix."""
        return tuple(self._prefixes)

    @property
    def sees_padding(self) -> bool:
        """Whether any method wants to know where padding is."""
        return any(methods.lookup(name).sees_padding for name in self.architecture.methods)

    def holds_input(self, key: str) -> bool:
        """Whether the prefix at an attention reads the attention's input."""
        return key in self._prefixes and self._prefixes[key][0].sees_padding

    def put_in_front(self, site: Site, x: Tensor | None, visible: Tensor | None) -> Keys:
        """The prefix at `site`, see `autopeft.network.hooks.Changer`; None where it is masked away."""
        method, key = self._prefixes[site.key]
        module = self.modules[key]
        if self._is_out(key):
            return None
        follow(module, next(self.backbone.module(site.entry).parameters()).device)
        more = {"x": x, "visible": visible} if method.sees_padding else {}
        with self._draws(method, key):
            return cast(PrefixModule, module).keys_values(self.masks.get(key), **more)

    def change(self, site: Site, x: Tensor, y: Tensor, visible: Tensor | None) -> Tensor:
        """What the deltas at `site` make of its output, see `autopeft.network.hooks.Changer`."""
        # Kept apart from what the deltas make of it: a later delta that reads the sum means the frozen module's own
        # output.
        own, norm = y, None if site.norm is None else self.backbone.module(site.norm)
        for method, key in self._deltas[site.key]:
            if self._is_out(key):
                continue
            u = x + own if method.reads is Reads.SUM else what_is_read(method.reads, norm, x, y)
            more = {"visible": visible} if method.sees_padding else {}
            if key in self.scales:
                more["scale"] = self.scales[key]
            with self._draws(method, key):
                y = changed_by(self.modules[key], u, y, self.masks.get(key), **more)
        return y

    def _is_out(self, key: Key) -> bool:
        mask = self.masks.get(key)
        # A tensor of zeros is no reason to leave the module out: the gradient of the mask flows through it.
        return isinstance(mask, int) and mask == 0

    def _draws(self, method: Method, key: Key) -> AbstractContextManager[None]:
        # In evaluation nothing is drawn, and setting the generator aside would cost every pass.
        is_random = method.is_random and self.modules[key].training
        return drawing_apart("/".join(key)) if is_random else nullcontext()


def _by_site(
    architecture: Architecture,
) -> tuple[dict[str, tuple[Method, Key]], dict[str, list[tuple[Method, Key]]]]:
    """By site the prefix, and the deltas in their order."""
    prefixes: dict[str, tuple[Method, Key]] = {}
    deltas: dict[str, list[tuple[Method, Key]]] = {}
    # By the order that methods declare and not by how placements are sorted: deltas at one site do not commute.
    held = sorted(((methods.lookup(p.method), p) for p in architecture), key=lambda pair: pair[0].order)
    for method, placement in held:
        entry = (method, (placement.site, placement.method))
        if method.seam == "kv":
            prefixes[placement.site] = entry
        elif method.seam == "delta":
            deltas.setdefault(placement.site, []).append(entry)
    return prefixes, deltas
