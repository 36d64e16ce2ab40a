"""Borrow a model for packed forward passes and give it back unchanged."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from qrcore.attention.call import AttentionCall, AttentionInputs
from qrcore.attention.kernel import packed_attention, visible
from qrcore.errors import ModelError

_NAME: Final = "qrbatch_packed"
_registration = threading.Lock()
_attached = 0


class _LastLayerReached(BaseException):
    """Ends a forward pass inside the deepest layer that is needed; never leaves :func:`run`."""


def run(model: PreTrainedModel, token_ids: Tensor, call: AttentionCall, **settings: Any) -> Any:
    """One forward pass over the packed ``token_ids`` (``[token]``) with ``call`` at every layer.

    Reads arrive in ``call.reads`` as the layers run. Returns the model's own output, None if the pass ended in
    ``call.last_layer``; ``settings`` go to the model's ``forward``. The model's settings, rotary state and the
    process-wide registries are as before when this returns or raises. Gradients are the caller's choice.
    """
    if token_ids.shape[0] != call.layout.length:
        raise ModelError(
            f"packed pass: expected {call.layout.length} tokens, got {token_ids.shape[0]}. "
            "Build the layout from the same token lists."
        )
    with _borrowed(model):
        try:
            return model(
                input_ids=token_ids[None],
                position_ids=call.layout.position_ids(token_ids.device),
                use_cache=False,
                attention_call=call,
                **settings,
            )
        except _LastLayerReached:
            return None


@contextmanager
def _borrowed(model: PreTrainedModel) -> Iterator[None]:
    previous = model.config._attn_implementation
    rotary_states = [(module, _rotary_state(module)) for module in _rotary_modules(model)]
    _register()
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation = previous
        _unregister()
        for module, state in rotary_states:
            _restore_rotary(module, state)


def _register() -> None:
    global _attached
    with _registration:
        if _attached == 0:
            AttentionInterface.register(_NAME, _attention_function)
            AttentionMaskInterface.register(_NAME, _no_mask)
        _attached += 1


def _unregister() -> None:
    global _attached
    with _registration:
        _attached -= 1
        if _attached == 0:
            AttentionInterface._global_mapping.pop(_NAME, None)
            AttentionMaskInterface._global_mapping.pop(_NAME, None)


def _no_mask(*_args: object, **_settings: object) -> None:
    """The packed layout decides what each token sees, so no mask tensor is built."""


def _attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    attention_call: AttentionCall | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The registered function: query ``[1, head, token, dim]``; returns ``[1, token, head, dim]``."""
    if attention_call is None:
        raise ModelError(
            "packed attention: expected this model family to hand its keyword arguments to the attention function; "
            "it does not. Use a family from qrcore.families.SUPPORTED."
        )
    layer = int(module.layer_idx)  # type: ignore[arg-type]

    def inputs_of(query: Tensor) -> AttentionInputs:
        return AttentionInputs(
            query=query[0],
            key=key[0],
            value=value[0],
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            window=sliding_window,
            softcap=softcap,
            own_weights=partial(_own_weights, module, query, key, value, scaling, sliding_window, softcap, others),
        )

    inputs = inputs_of(query)
    if layer in attention_call.gates:
        inputs = inputs_of(attention_call.gates[layer](layer, inputs)[None])
    if layer in attention_call.reads:
        attention_call.reads[layer](layer, inputs)
    if layer == attention_call.last_layer:
        raise _LastLayerReached
    return packed_attention(inputs, attention_call.layout).transpose(0, 1)[None], None


def _own_weights(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    others: dict[str, Any],
) -> Tensor:
    """The family's eager attention over the same queries and keys, in float32 and in token order."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    positions = torch.arange(query.shape[2], device=query.device)
    hidden = ~visible(positions, positions, window)
    mask = torch.zeros(hidden.shape, device=query.device).masked_fill(hidden, torch.finfo(torch.float32).min)
    settings = {**others, "scaling": scaling, "dropout": 0.0}
    if softcap is not None:
        settings["softcap"] = softcap
    states = (query.float(), key.float(), value.float())
    _, weights = eager(module, *states, mask[None, None], **settings)
    own: Tensor = weights[0]
    return own


def _rotary_modules(model: PreTrainedModel) -> list[nn.Module]:
    return [module for module in model.modules() if _rewrites_its_tables(getattr(module, "rope_type", None))]


def _rewrites_its_tables(rope_type: str | dict[str, str] | None) -> bool:
    kinds = rope_type.values() if isinstance(rope_type, dict) else (rope_type,)
    return any(kind in ("dynamic", "longrope") for kind in kinds)


def _rotary_state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    # Dynamic and long-context variants rewrite their tables by the longest position seen: without this, a prompt's
    # scores would depend on the prompts before it.
    with torch.inference_mode(False):
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False)}
    scalars = {name: value for name, value in vars(module).items() if name.endswith(("_cached", "_scaling"))}
    return buffers, scalars


def _restore_rotary(module: nn.Module, state: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
    buffers, scalars = state
    for name, buffer in buffers.items():
        module.register_buffer(name, buffer, persistent=name not in module._non_persistent_buffers_set)
    for name, value in scalars.items():
        setattr(module, name, value)
