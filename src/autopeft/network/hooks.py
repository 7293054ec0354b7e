"""Hooks at the sites of a frozen backbone: what a site reads, and who says what becomes of its output.

Who that is, one architecture (`autopeft.network.attach`) or several at once (`autopeft.network.shares`), is no matter
here. Deltas are put in by forward hooks at named sub-modules, prefixes through the attention registry; the backbone's
own modules, parameters and state are never replaced.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autopeft.backbones import Backbone, Site
from autopeft.network.attention import Keys, set_prefix
from autopeft.network.signals import Pass, input_of, part_of, with_part

_PADDING = ""  # where the handle is kept that belongs to no site


class Changer(Protocol):
    """Who answers at the sites."""

    def change(self, site: Site, x: Tensor, y: Tensor, visible: Tensor | None) -> Tensor:
        """What takes the place of `y`.

        Args:
            x: ``(batch, tokens, d_in)``, what entered the site; where a site is before its module, `y` itself.
            y: ``(batch, tokens, d_out)``, of a fused projection the site's own part.
            visible: ``(batch, tokens)``, 0 at padding; None without padding or where nobody asked for it.
        """
        ...

    def put_in_front(self, site: Site, x: Tensor | None, visible: Tensor | None) -> Keys | list[Keys]:
        """What stands in front of the keys and values of the attention at `site`; `x` where its input is held.

        A list has the same for each of several equal shares of the batch.
        """
        ...


class Hooks:
    """The hooks of one `Changer`. Make it, then `at_deltas`, `at_attention` and `watch_padding`, and `remove_all`."""

    def __init__(self, backbone: Backbone, changer: Changer) -> None:
        self._backbone, self._changer = backbone, changer
        self._handles: dict[str, list[RemovableHandle]] = {}  # by site
        self._prefixed: dict[str, nn.Module] = {}
        self._pass = Pass()
        self._latest_visible: Tensor | None = None

    def watch_padding(self) -> None:
        """Keep the mask of the padding of every pass for those who ask for it."""

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Callers pass the mask by name or as the second argument, and which of both differs between their own
            # classes.
            self._pass.visible = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
            self._latest_visible = self._pass.visible

        module = self._backbone.module(self._backbone.family.padded)
        # On the module that is given the mask itself: further inside, transformers has turned it into one for
        # attention.
        self._handles[_PADDING] = [module.register_forward_pre_hook(note, with_kwargs=True)]

    @property
    def _visible(self) -> Tensor | None:
        # Under gradient checkpointing a layer is computed again in a thread of autograd, which began no pass.
        return getattr(self._pass, "visible", self._latest_visible)

    def at_attention(self, site: Site, *, holds_input: bool) -> None:
        """Let the changer put keys and values in front of those of the attention at `site`.

        Args:
            holds_input: whether it is to be shown the attention's input.
        """
        attention = self._backbone.module(site.entry)
        if holds_input:
            self._hold_input(site)

        def prefix() -> Keys | list[Keys]:
            # Taken out when read, so that nothing of a pass is kept in memory beyond it.
            x = self._pass.inputs.pop(site.key) if holds_input else None
            return self._changer.put_in_front(site, x, self._visible)

        set_prefix(attention, prefix)
        self._prefixed[site.key] = attention

    def at_deltas(self, site: Site) -> None:
        """Let the changer change the output of `site`, or its input where the site is before its module."""
        if site.is_before:
            self._hook_input(site)
            return
        if site.exit != site.entry:
            self._hold_input(site)

        def leave(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            x = self._pass.inputs.pop(site.key) if site.exit != site.entry else input_of(args, kwargs)
            y = output[0] if isinstance(output, tuple) else output
            changed = with_part(y, site, self._changer.change(site, x, part_of(y, site), self._visible))
            # An attention gives its weights beside its output; who asked for them must still get them.
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        exit_ = self._backbone.module(site.exit)
        self._handles.setdefault(site.key, []).append(exit_.register_forward_hook(leave, with_kwargs=True))

    def _hook_input(self, site: Site) -> None:
        """Change what the module of the site is given."""

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = input_of(args, kwargs)
            # Before a module input and output are one and the same, whatever a method says that it reads.
            changed = self._changer.change(site, x, x, self._visible)
            return ((changed, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": changed})

        entry = self._backbone.module(site.entry)
        self._handles.setdefault(site.key, []).append(entry.register_forward_pre_hook(enter, with_kwargs=True))

    def _hold_input(self, site: Site) -> None:
        """Keep the input x of the site on its way from the entry to where it is read."""

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._pass.inputs[site.key] = input_of(args, kwargs)

        entry = self._backbone.module(site.entry)
        self._handles.setdefault(site.key, []).append(entry.register_forward_pre_hook(enter, with_kwargs=True))

    def remove(self, site: str) -> None:
        """Take away what stands at one site. Idempotent."""
        for handle in self._handles.pop(site, []):
            handle.remove()
        if site in self._prefixed:
            set_prefix(self._prefixed.pop(site), None)

    def remove_all(self) -> None:
        """Take everything away, and forget the last pass. Idempotent."""
        # All sites and not only those that are known to have hooks: a failure may have come in the middle of one.
        for site in (*self._backbone.sites, _PADDING):
            self.remove(site)
        self._pass, self._latest_visible = Pass(), None
