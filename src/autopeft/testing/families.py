"""What every family of backbones promises, for every model type that it names."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from autopeft.architecture import Architecture, Placement
from autopeft.backbones import Backbone, Family, Site, families, family_of
from autopeft.errors import ArchitectureError
from autopeft.network.attach import attach
from autopeft.network.attention import IMPLEMENTATION
from autopeft.testing._promise import keep, promise, promise_if, promises_in, refuses
from autopeft.testing.tiny import backbone, fill, inputs, output
from autopeft.training.memory import checkpointing


def _is_first(model_type: str) -> bool:
    return family_of(model_type).model_types[0] == model_type


def _is_prepared(model_type: str) -> bool:
    return family_of(model_type).prepare is not None


def _is_not_prepared(model_type: str) -> bool:
    return not _is_prepared(model_type)


@promise
def _a_family_says_what_is_needed(model_type: str) -> None:
    family = family_of(model_type)
    assert family.model_types
    assert set(family.stacks) <= {"encoder", "decoder"}
    assert family.tiny
    assert all(family_of(model_type) is family for model_type in family.model_types)
    # The papers' spaces stand on these two roles, and a family without them could be searched by none.
    assert all("kv" in stack.roles and "ffn" in stack.roles for stack in family.stacks.values())


@promise
def _every_role_resolves_on_every_layer(model_type: str) -> None:
    found = backbone(model_type)
    for name, stack in found.family.stacks.items():
        n_layers = len(list(found.module(stack.layers).children()))
        # With a single layer, a mistake that takes the first layer for every other would not be seen.
        assert n_layers >= 2
        for layer in range(n_layers):
            keys = {f"{name}.{layer}.{role}" for role, where in stack.roles.items() if not where.is_optional}
            assert keys <= found.sites.keys()
        assert {
            f"{name}.{role}" for role, where in stack.outside.items() if not where.is_optional
        } <= found.sites.keys()
    assert len({site.key for site in found.sites.values()}) == len(found.sites)
    assert [key for key, site in found.sites.items() if site.seam == "backbone"] == ["model"]


def _taken(output: torch.Tensor, site: Site) -> int:
    """The width of what belongs to a site of a module's output: all, or its part of a fused projection's."""
    return output.shape[-1] if site.part is None else output[..., slice(*site.part)].shape[-1]


def _before(seen: dict[str, tuple[int, int]], key: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    """Notes the width of what a module is given, which is both ends of a place before it."""

    def note(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        seen[key] = (args[0].shape[-1], args[0].shape[-1])

    return note


@promise
def _widths_are_those_that_flow(model_type: str) -> None:
    """Every site's `d_in` and `d_out` against the tensors that pass there in a forward pass."""
    found = backbone(model_type)
    seen: dict[str, tuple[int, int]] = {}
    handles = []
    for site in found.sites.values():
        if site.seam != "delta":
            continue
        width: list[int] = []

        # The lists are bound as defaults: a closure would see those of the last site in every hook.
        def enter(_: nn.Module, args: tuple, kwargs: dict, width: list[int] = width) -> None:  # type: ignore[type-arg]
            width[:] = [(args[0] if args else kwargs["hidden_states"]).shape[-1]]

        def leave(_: nn.Module, args: tuple, out: object, width: list[int] = width, key: str = site.key) -> None:  # type: ignore[type-arg]
            # An attention gives its weights too, behind what flows on.
            there = out[0] if isinstance(out, tuple) else out
            seen[key] = (width[0], _taken(there, found.sites[key]))  # type: ignore[arg-type]

        handles.append(found.module(site.entry).register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(found.module(site.exit).register_forward_hook(leave))
        if site.is_before:
            handles.pop().remove()
            handles.append(found.module(site.entry).register_forward_pre_hook(_before(seen, site.key)))
    output(found)
    for handle in handles:
        handle.remove()
    wanted = {site.key: (site.d_in, site.d_out) for site in found.sites.values() if site.seam == "delta"}
    assert seen == wanted


@promise
def _heads_are_those_of_the_attention(model_type: str) -> None:
    found = backbone(model_type)
    for site in found.sites.values():
        if site.seam == "kv":
            key = found.sites.get(site.key.replace("kv", "k"))
            # Where queries, keys and values are one place, the keys alone have no width that could be asked for.
            width = site.d_out if key is None else key.d_out
            assert site.heads * site.d_head == width == site.d_in == site.d_out


@promise
def _the_norm_is_the_one_that_the_block_applies(model_type: str) -> None:
    """Post-LN families: the layer's output is exactly ``norm(x + y)`` at the feed-forward."""
    found = backbone(model_type)
    sites = [site for site in found.sites.values() if site.role == "ffn" and site.norm is not None]
    for site in sites:
        kept: dict[str, torch.Tensor] = {}
        # Post-LN alone has a norm behind the sum; where there is none, the sum is what the next block reads.
        norm = found.module(site.norm or "")
        handles = [
            found.module(site.entry).register_forward_pre_hook(lambda m, a, k=kept: k.update(x=a[0])),
            found.module(site.exit).register_forward_hook(lambda m, a, o, k=kept: k.update(y=o)),
            norm.register_forward_hook(lambda m, a, o, k=kept: k.update(out=o)),
        ]
        output(found)
        for handle in handles:
            handle.remove()
        torch.testing.assert_close(norm(kept["x"] + kept["y"]), kept["out"], atol=1e-6, rtol=1e-6)


@promise_if(_is_not_prepared)
def _without_a_prefix_attention_is_transformers_own(model_type: str) -> None:
    found = backbone(model_type)
    assert found.model.config._attn_implementation == IMPLEMENTATION
    for batch in (inputs(found), {**inputs(found), "attention_mask": torch.ones(2, 7, dtype=torch.long)}):
        found.model.set_attn_implementation(IMPLEMENTATION)
        ours = output(found, batch)
        # That kernel has no cap on the scores, so that transformers refuses it to models with one.
        if found.model._supports_sdpa:
            found.model.set_attn_implementation("sdpa")
            assert torch.equal(ours, output(found, batch))
        # Three ways to one result: equal bits for the kernel that is ours without a prefix, rounding for the plain
        # formula.
        found.model.set_attn_implementation("eager")
        torch.testing.assert_close(ours, output(found, batch), atol=1e-5, rtol=1e-5)


@promise_if(_is_prepared)
def _a_prepared_model_computes_what_it_did(model_type: str) -> None:
    """In evaluation, in training without dropout, with padding and without, and with its gradients."""
    found = backbone(model_type)
    # From the configuration alone, so that nothing that was prepared is in it.
    own = AutoModel.from_config(found.model.config.__class__(**found.model.config.to_diff_dict()))
    own.load_state_dict(found.model.state_dict())
    for mode in (False, True):
        found.model.train(mode)
        own.train(mode)
        for batch in (inputs(found), {"input_ids": inputs(found)["input_ids"]}):
            seen = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
            for embedded in (found.model, own):
                # Everything is frozen; the embeddings lie below all attentions, so that their gradient has passed
                # through each.
                embedded.get_input_embeddings().weight.requires_grad_(True)
                embedded.get_input_embeddings().weight.grad = None
            ours, theirs = found.model(**batch)[0][seen], own(**batch)[0][seen]
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
            ours.square().sum().backward()
            theirs.square().sum().backward()
            grads = [embedded.get_input_embeddings().weight.grad for embedded in (found.model, own)]
            torch.testing.assert_close(*grads, atol=1e-3, rtol=1e-4)


@promise
def _checkpointing_changes_nothing_but_memory(model_type: str) -> None:
    found = backbone(model_type)
    where = Architecture(tuple(Placement(key, "prefix_direct", 2) for key in found.sites if key.endswith(".kv")))
    results = []
    for is_on in (False, True):
        found.model.train()
        with fill(attach(found, where)) as attached, checkpointing(found.model, is_on):
            result = output(found)
            result.square().sum().backward()  # type: ignore[no-untyped-call]
            grads = [parameter.grad for parameter in attached.parameters()]
        results.append([result.detach(), *grads])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-5, rtol=1e-4)


@promise_if(_is_first)
def _a_prefix_that_would_do_nothing_is_refused(model_type: str) -> None:
    """A family whose attention does not go through ours is found out before anything is trained."""
    found = backbone(model_type)
    site = next(key for key in found.sites if key.endswith(".kv"))
    assert site in found.reached
    broken = backbone(model_type)
    for module in broken.model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._attn_implementation = "eager"
    if broken.family.prepare is None:
        with refuses(ArchitectureError, "prefix_direct", "would do nothing"):
            attach(broken, Architecture((Placement(site, "prefix_direct", 2),)))
        assert broken.occupant is None


@promise
def _a_prefix_is_seen_by_every_token(model_type: str) -> None:
    found = backbone(model_type)
    plain = output(found)
    sites = [site.key for site in found.sites.values() if site.role == "kv"]
    for key in sites:
        with fill(attach(found, Architecture((Placement(key, "prefix_direct", 2),)))), torch.no_grad():
            changed = (output(found) - plain).abs().amax(-1)
        # A prefix before which a mask stands would be seen by some tokens only, and the mean would hide it.
        assert (changed > 1e-4).all(), key


@promise
def _the_backbone_is_frozen_and_counted(model_type: str) -> None:
    found = backbone(model_type)
    assert not found.model.training
    assert not any(parameter.requires_grad for parameter in found.model.parameters())
    assert found.n_parameters == sum(parameter.numel() for parameter in found.model.parameters())
    assert found.hidden_size == 32
    assert found.name == model_type
    assert found.device.type == "cpu"


@promise_if(_is_first)
def _the_meta_device_has_the_same_sites_and_counts(model_type: str) -> None:
    found = backbone(model_type)
    weightless = Backbone.from_config(found.model.config, device="meta")
    assert weightless.sites == found.sites
    assert weightless.n_parameters == found.n_parameters
    assert weightless.device.type == "meta"


PROMISES = promises_in(dict(vars()))
"""What is promised of a family, by each of its model types."""


def check_family(family: Family) -> list[str]:
    """Check what a family of backbones promises, for each of its model types; the names of the promises.

    It need not lie in ``autopeft/backbones`` yet: while it is checked it is taken as if it did.

    Raises:
        ExceptionGroup: some promises are not kept by a model type.
    """
    # A family that lies in the package already would be found twice, under both of its objects.
    known = {name: one for name, one in families().items() if not set(one.model_types) & set(family.model_types)}
    # A family in a stranger's file is not found by discovery, and everything else here asks by model type.
    with mock.patch("autopeft.backbones._backbone.families", return_value={**known, family.model_types[0]: family}):
        return [f"{name}: {one}" for name in family.model_types for one in keep(name, PROMISES, name)]
