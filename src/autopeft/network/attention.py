"""The key/value seam: learned keys and values in front of a frozen attention.

transformers dispatches attention through one registry, so one registered function serves every family that uses
it. Without a prefix the function is transformers' scaled-dot-product attention, bit for bit (up to rounding where
training on a CPU takes another way). With one, the prefix positions are put in front of the keys and values, visible
to every query and without position information, and the mask (and T5's relative position bias) is padded on the left
to match. The work goes to the scaled-dot-product kernel, except where that has no fused form (a weighted prefix,
dropout on a CPU) or a slow one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from autopeft.network.dropout import Rows, dropout, from_one_state

IMPLEMENTATION = "autopeft"
"""The name under which the function is registered: the value of ``config._attn_implementation``."""

_SLOT = "autopeft_prefix"
_ROWS = "autopeft_rows"

_FEW_KEYS = 128
"""Up to which step by step beats the fused kernel's backward pass in half precision on a CPU."""

_MOST_EXPONENT = 60.0
"""Its power and the sum of many such are finite in single precision."""

Keys = tuple[Tensor, Tensor, Tensor | None] | None
"""Keys and values, ``(heads, length, d_head)`` or ``(batch, heads, length, d_head)``, and a mask over the length
or None; None for no prefix."""

Prefix = Callable[[], Keys | list[Keys]]
"""Gives what stands in front: the same for the whole batch, or for each of several equal shares of it."""


def register() -> None:
    """Make `IMPLEMENTATION` known to transformers. Safe to call more than once."""
    AttentionInterface.register(IMPLEMENTATION, prefixed_attention)
    # Without a mask function of its own name an attention is given no mask at all, and padding would be attended to.
    AttentionMaskInterface.register(IMPLEMENTATION, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])


def choose(model: PreTrainedModel) -> None:
    """Let the attentions of `model` be `IMPLEMENTATION`, those that transformers looks up in its registry."""
    # Of a model without such attentions transformers says so at every load. Its family has given it some by then, or
    # its sites are found to take no prefix and say so where one is asked for: to whoever loads it that is no news.
    transformers_log = logging.getLogger(PreTrainedModel.__module__)
    transformers_log.addFilter(_is_news)
    try:
        model.set_attn_implementation(IMPLEMENTATION)
    finally:
        transformers_log.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "does not support setting its attention implementation" not in str(record.msg)


def set_prefix(attention: nn.Module, prefix: Prefix | None) -> None:
    """Put `prefix` in front of the keys and values of `attention`, or take it away (None).

    It is kept out of the module's own bookkeeping, so the backbone's parameters and state stay as they were.
    """
    # PyTorch registers what is set as an attribute; written past that, the state of the model does not change.
    attention.__dict__.pop(_SLOT, None)
    if prefix is not None:
        attention.__dict__[_SLOT] = prefix


def set_rows(attention: nn.Module, rows: Rows | None) -> None:
    """Tell `attention` how many rows one share of its batch has, or that the batch is one whole (None)."""
    attention.__dict__.pop(_ROWS, None)
    if rows is not None:
        attention.__dict__[_ROWS] = rows


def prefixed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention of `query` over the prefix of `module`, if it has one, followed by `key` and `value`.

    Args:
        query: ``(batch, heads, queries, d_head)``.
        key, value: ``(batch, kv_heads, keys, d_head)``.
        attention_mask: Boolean (True = visible) or additive, broadcastable to ``(batch, heads, queries, keys)``.
        position_bias: additive, ``(1 or batch, heads, queries, keys)``; T5 only.

    Returns:
        The output, ``(batch, queries, heads, d_head)``, and None in place of attention weights.
    """
    prefix = cast(Prefix | None, module.__dict__.get(_SLOT))
    found = None if prefix is None else prefix()
    if isinstance(found, list):
        together = _together(found, len(query) // len(found))
        if together is None:
            return _by_share(module, query, key, value, attention_mask, position_bias, found, kwargs)
        (found,) = together
    return _attention(module, query, key, value, attention_mask, position_bias, found, kwargs)


def _together(found: list[Keys], rows: int) -> tuple[Keys] | None:
    """Prefixes of shares of `rows` rows as one of the whole batch, in a tuple; None where their lengths differ."""
    there = [item for item in found if item is not None]
    if not there:
        return (None,)
    # Prefixes of unlike length could be padded and masked, but a mask makes the kernel compute what nobody sees.
    if len({keys.shape[-2] for keys, _, _ in there}) > 1 or len(there) < len(found):
        return None
    # A presence has one value a position for the whole batch, so that those of several shares do not fit into one.
    if any(presence is not None for _, _, presence in there):
        return None
    keys = torch.cat([item.expand(rows, -1, -1, -1) for item, _, _ in there])
    values = torch.cat([item.expand(rows, -1, -1, -1) for _, item, _ in there])
    return ((keys, values, None),)


def _by_share(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    position_bias: Tensor | None,
    found: list[Keys],
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    """Attention of every share by itself: with other lengths it has another shape. All are given the same dropout."""
    rows, n = len(query) // len(found), len(found)
    queries, keys, values = (torch.split(item, rows) for item in (query, key, value))
    masks, biases = (_parts(item, rows, n) for item in (mask, position_bias))
    results = [
        _attention(module, queries[i], keys[i], values[i], masks[i], biases[i], found[i], kwargs)[0]
        for i in from_one_state(n)
    ]
    return torch.cat(results), None


def _parts(x: Tensor | None, rows: int, n: int) -> Sequence[Tensor | None]:
    """The share of each; what has no row for every example, or is common to all, belongs to each."""
    return [x] * n if x is None or x.shape[0] in (1, rows) else torch.split(x, rows)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    position_bias: Tensor | None,
    found: Keys,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    presence = None
    if found is not None:
        keys, values, presence = found
        if attention_mask is None and _is_causal(module, query, kwargs):
            attention_mask = _causal_mask(query, key)
        # After the causal mask, which aligns queries with their own keys: the prefix lies before all of them.
        key, value = _in_front(keys, key), _in_front(values, value)
        attention_mask = _visible(attention_mask, keys.shape[-2])
        # A bias of zero: a prefix has no position, so that no distance to it speaks for or against it.
        position_bias = None if position_bias is None else functional.pad(position_bias, (keys.shape[-2], 0))
    # The fused kernel knows no cap on the scores, and would leave Gemma 2's out without a word.
    if presence is not None or kwargs.get("softcap") or _is_fused_slower(module, query, key, kwargs):
        if attention_mask is None and _is_causal(module, query, kwargs):
            attention_mask = _causal_mask(query, key)
        return _explicit(module, query, key, value, attention_mask, position_bias, presence, kwargs)
    bias = {} if position_bias is None else {"position_bias": position_bias}
    return cast(
        tuple[Tensor, None],
        sdpa_attention_forward(module, query, key, value, attention_mask, **bias, **kwargs),
    )


def _is_fused_slower(module: nn.Module, query: Tensor, key: Tensor, kwargs: dict[str, Any]) -> bool:
    """Whether step by step is the quicker way: in training on a CPU, with dropout, or with few keys in half precision.

    There PyTorch's fused attention has no dropout, and its unfused form is slower than ours; its backward pass in
    half precision is several times slower than ours up to about 128 keys.
    """
    if not module.training or query.device.type != "cpu":
        return False
    return kwargs.get("dropout", 0.0) > 0 or (query.dtype.itemsize == 2 and key.shape[2] <= _FEW_KEYS)


def _explicit(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    position_bias: Tensor | None,
    presence: Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, None]:
    """Attention step by step, over keys that begin with the prefix, if there is one."""
    # With grouped queries several heads share a key; the fused kernel knows, here it has to be spelt out.
    if (groups := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    # T5 gives a scaling of 1 on purpose, so that only an absent one has the usual value.
    scaling = query.shape[-1] ** -0.5 if kwargs.get("scaling") is None else kwargs["scaling"]
    # The queries are scaled and not the scores, which are larger and might overflow in half precision.
    scores = (query * scaling) @ key.transpose(2, 3)  # (batch, heads, queries, keys)
    if cap := kwargs.get("softcap"):
        scores = torch.tanh(scores / cap) * cap
    if position_bias is not None:
        scores = scores + position_bias
    if mask is not None and mask.dtype == torch.bool:
        # The least finite number: a row that sees nothing, as padding does, would become NaN with minus infinity. In
        # place, for no gradient is computed from the scores themselves.
        scores = scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    # In single precision at least: half precision has few bits for a sum of many, and on a CPU it is slower. Double
    # stays double, whose least number would be minus infinity in single precision, and a row that sees nothing NaN.
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.softmax(dim=-1, dtype=precise) if presence is None else _weighted_softmax(scores, presence)
    rows = cast(Rows | None, module.__dict__.get(_ROWS))
    share = None if rows is None else rows()
    weights = dropout(weights.to(value.dtype), kwargs.get("dropout", 0.0), module.training, share)
    return (weights @ value).transpose(1, 2).contiguous(), None


def _weighted_softmax(scores: Tensor, presence: Tensor) -> Tensor:
    """A softmax in which prefix position j has the weight ``g_j exp(s_j)``; `scores` begin with the prefix.

    A presence of 0 is exact absence and one of 1 is as without it, and the gradient with respect to it is
    finite at both, which adding ``log g`` to the scores would not give. In single precision at least.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    presences = functional.pad(presence.to(scores.dtype), (0, scores.shape[-1] - len(presence)), value=1.0)
    # What is absent must not be the largest score, or all others might underflow. Its own power counts for nothing
    # but the gradient of its presence, and is kept finite.
    largest = scores.detach().masked_fill(presences == 0, -torch.inf).amax(dim=-1, keepdim=True)
    weights = (scores - largest).clamp_max(_MOST_EXPONENT).exp() * presences
    return weights / weights.sum(dim=-1, keepdim=True)


def _is_causal(module: nn.Module, query: Tensor, kwargs: dict[str, Any]) -> bool:
    explicit = kwargs.get("is_causal")
    return query.shape[2] > 1 and bool(getattr(module, "is_causal", False) if explicit is None else explicit)


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    queries, keys = query.shape[2], key.shape[2]
    # Aligned at the end: in decoding there are more keys, cached ones, than queries.
    mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return mask.view(1, 1, queries, keys)


def _in_front(prefix: Tensor, rest: Tensor) -> Tensor:
    """``(heads, length, d)``, or with a batch in front, in front of ``(batch, heads, keys, d)``."""
    return torch.cat([prefix.to(rest.dtype).expand(rest.shape[0], -1, -1, -1), rest], dim=2)


def _visible(mask: Tensor | None, length: int) -> Tensor | None:
    """The mask with `length` visible positions in front."""
    if mask is None:
        return None
    return functional.pad(mask, (length, 0), value=1 if mask.dtype == torch.bool else 0)
