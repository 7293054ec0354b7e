"""Attaching an architecture to a backbone, and taking it away again without a trace.

Deltas are attached by forward hooks at named sub-modules, prefixes through the attention registry; the
backbone's own modules, parameters and state are never replaced. After `Attached.detach` the backbone computes,
bit for bit, what it computed before.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autopeft import methods
from autopeft.architecture import Architecture, Placement
from autopeft.backbones import ADDED, Backbone, Site, seeded
from autopeft.errors import ArchitectureError
from autopeft.methods import Method, PrefixModule, Reads
from autopeft.network.attention import set_prefix
from autopeft.network.build import Key, build, fold
from autopeft.network.signals import Pass, changed_by, follow, input_of, part_of, what_is_read, with_part

_PADDING = ""  # where the handle is kept that belongs to no site


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
    with seeded(seed):
        modules = build(backbone, architecture)
    return Attached(backbone, architecture, modules)


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

    def __init__(self, backbone: Backbone, architecture: Architecture, modules: Mapping[Key, nn.Module]) -> None:
        self.backbone, self.architecture = backbone, architecture
        self.modules = dict(modules)
        self.masks: dict[Key, Tensor | int] = {}
        self.scales: dict[Key, Tensor] = {}
        self._handles: dict[str, list[RemovableHandle]] = {}  # by site
        self._prefixed: dict[str, nn.Module] = {}
        self._deltas: dict[str, list[tuple[Method, Key]]] = {}
        self._original: dict[str, Tensor] | None = None
        self._pass = Pass()
        self._latest_visible: Tensor | None = None
        self._shown: nn.Module | None = None
        for module in self.modules.values():
            module.to(device=backbone.device)
        backbone.occupant = architecture
        self._is_attached = True
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
        for site in self.backbone.sites:
            self._unhook(site)
        self._unhook(_PADDING)
        self._pass, self._latest_visible = Pass(), None
        if self._original is not None:
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
            self._deltas[placement.site][:] = left
        else:
            self._unhook(placement.site)

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
        if any(methods.lookup(name).sees_padding for name in self.architecture.methods):
            self._watch_padding()
        sites = groupby(self.architecture, key=lambda placement: placement.site)
        for key, placements in sites:
            site = self.backbone.site(key)
            held = sorted(((methods.lookup(p.method), p) for p in placements), key=lambda pair: pair[0].order)
            for method, placement in held:
                if method.seam == "kv":
                    self._hook_prefix(site, placement, method)
                elif method.seam == "backbone":
                    self._unfreeze()
            deltas = [(method, (p.site, p.method)) for method, p in held if method.seam == "delta"]
            if deltas:
                self._hook_deltas(site, deltas)

    def _watch_padding(self) -> None:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._pass.visible = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
            self._latest_visible = self._pass.visible

        module = self.backbone.module(self.backbone.family.padded)
        self._handles[_PADDING] = [module.register_forward_pre_hook(note, with_kwargs=True)]

    @property
    def _visible(self) -> Tensor | None:
        # Under gradient checkpointing a layer is computed again in a thread of autograd, which began no pass.
        return getattr(self._pass, "visible", self._latest_visible)

    def _unfreeze(self) -> None:
        self._original = {name: value.clone() for name, value in self.backbone.model.state_dict().items()}
        self.backbone.model.requires_grad_(True)

    def _unhook(self, site: str) -> None:
        for handle in self._handles.pop(site, []):
            handle.remove()
        if site in self._prefixed:
            set_prefix(self._prefixed.pop(site), None)
        self._deltas.pop(site, None)

    def _hook_prefix(self, site: Site, placement: Placement, method: Method) -> None:
        key = (placement.site, placement.method)
        attention, module = self.backbone.module(site.entry), cast(PrefixModule, self.modules[key])
        if method.sees_padding:
            self._hold_input(site)

        def prefix() -> tuple[Tensor, Tensor, Tensor | None] | None:
            more = {"x": self._pass.inputs.pop(site.key), "visible": self._visible} if method.sees_padding else {}
            follow(self.modules[key], next(attention.parameters()).device)
            return None if self._is_out(key) else module.keys_values(self.masks.get(key), **more)

        set_prefix(attention, prefix)
        self._prefixed[site.key] = attention

    def _is_out(self, key: Key) -> bool:
        mask = self.masks.get(key)
        return isinstance(mask, int) and mask == 0

    def _hook_deltas(self, site: Site, deltas: list[tuple[Method, Key]]) -> None:
        norm = None if site.norm is None else self.backbone.module(site.norm)
        if site.is_before:
            self._hook_input(site, deltas)
            return
        if site.exit != site.entry:
            self._hold_input(site)

        def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            x = self._pass.inputs.pop(site.key) if site.exit != site.entry else input_of(args, kwargs)
            y = output[0] if isinstance(output, tuple) else output
            changed = with_part(y, site, self._apply(deltas, norm, x, part_of(y, site)))
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        self._deltas[site.key] = deltas
        exit_ = self.backbone.module(site.exit)
        self._handles.setdefault(site.key, []).append(exit_.register_forward_hook(leave, with_kwargs=True))

    def _hook_input(self, site: Site, deltas: list[tuple[Method, Key]]) -> None:
        """Change what the module of the site is given."""

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = input_of(args, kwargs)
            changed = self._apply(deltas, None, x, x)
            return ((changed, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": changed})

        self._deltas[site.key] = deltas
        entry = self.backbone.module(site.entry)
        self._handles.setdefault(site.key, []).append(entry.register_forward_pre_hook(enter, with_kwargs=True))

    def _hold_input(self, site: Site) -> None:
        """Keep the input x of the site on its way from the entry to where it is read."""

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._pass.inputs[site.key] = input_of(args, kwargs)

        entry = self.backbone.module(site.entry)
        self._handles.setdefault(site.key, []).append(entry.register_forward_pre_hook(enter, with_kwargs=True))

    def _apply(self, deltas: list[tuple[Method, Key]], norm: nn.Module | None, x: Tensor, y: Tensor) -> Tensor:
        own = y
        for method, key in deltas:
            if self._is_out(key):
                continue
            u = x + own if method.reads is Reads.SUM else what_is_read(method.reads, norm, x, y)
            more = {"visible": self._visible} if method.sees_padding else {}
            if key in self.scales:
                more["scale"] = self.scales[key]
            y = changed_by(self.modules[key], u, y, self.masks.get(key), **more)
        return y
