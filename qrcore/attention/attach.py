"""Borrow a model for packed forward passes and give it back unchanged."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from qrcore.attention.call import AttentionCall, AttentionInputs
from qrcore.attention.forwards import wrapped_forward
from qrcore.attention.kernel import packed_attention, visible
from qrcore.attention.rotary import rotary_by_segment
from qrcore.errors import ModelError
from qrcore.records import Span

_NAME: Final = "qrbatch_packed"
_registration = threading.Lock()
_attached = 0


class _LastLayerReached(BaseException):
    """Ends a forward pass inside the deepest layer that is needed; never leaves :func:`run`."""


def run(model: PreTrainedModel, token_ids: Tensor, call: AttentionCall, **settings: Any) -> Any:
    """One forward pass over the packed ``token_ids`` (``[token]``) with ``call`` at every layer.

    Each layer runs chunk by chunk: a chunk sees only tokens up to its own last one, so one layer's keys and values are
    all that it needs of the chunks before it. Reads arrive in ``call.reads`` as the layers run. Returns the model's own
    output, None if the pass ended in ``call.last_layer``; ``settings`` go to the model's ``forward``. The model's
    settings, rotary state and the process-wide registries are as before when this returns or raises. Gradients are the
    caller's choice.
    """
    if token_ids.shape[0] != call.layout.length:
        raise ModelError(
            f"packed pass: expected {call.layout.length} tokens, got {token_ids.shape[0]}. "
            "Build the layout from the same token lists."
        )
    with _borrowed(model, call):
        try:
            return model(
                input_ids=token_ids[None],
                position_ids=call.layout.position_ids(token_ids.device),
                use_cache=False,
                attention_pass=_Pass(call),
                **settings,
            )
        except _LastLayerReached:
            return None


@dataclass(slots=True, eq=False)
class _Pass:
    """A forward pass on its way: which chunk runs now, and the keys and values of the layer that it runs through."""

    call: AttentionCall
    rows: Span = field(default=Span(0, 0))
    key: Any = None
    value: Any = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep this chunk's keys and values (``[kv_head, row, dim]``); all up to its last token."""
        start, stop, length = *self.rows, self.call.layout.length
        if (start, stop) == (0, length):
            return key, value
        if key.requires_grad:  # what gradients need must not be written over
            before = (self.key, self.value) if start else (key[:, :0], value[:, :0])
            self.key, self.value = torch.cat([before[0], key], dim=1), torch.cat([before[1], value], dim=1)
            return self.key, self.value
        if self.key is None:
            self.key, self.value = (s.new_empty(s.shape[0], length, s.shape[2]) for s in (key, value))
        self.key[:, start:stop], self.value[:, start:stop] = key, value
        return self.key[:, :stop], self.value[:, :stop]


@contextmanager
def _borrowed(model: PreTrainedModel, call: AttentionCall) -> Iterator[None]:
    previous = model.config._attn_implementation
    chunks = call.layout.chunks(call.chunk_tokens)
    layers: Any = model.base_model.layers  # of a language model, the decoder in it
    _register()
    model.config._attn_implementation = _NAME
    try:
        with ExitStack() as stack:
            stack.enter_context(rotary_by_segment(model, call.layout))
            for layer in layers:
                stack.enter_context(wrapped_forward(layer, partial(_in_chunks, chunks)))
            yield
    finally:
        model.config._attn_implementation = previous
        _unregister()


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


def _in_chunks(
    chunks: list[Span],
    forward: Callable[..., Tensor],
    hidden: Tensor,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    position_ids: Tensor,
    attention_pass: _Pass,
    **others: Any,
) -> Tensor:
    """A decoder layer's own ``forward`` over ``hidden`` (``[1, token, dim]``), one chunk of tokens after the other."""
    outputs = []
    ends_here = False
    for rows in chunks:
        attention_pass.rows = rows
        here = slice(rows.start, rows.stop)
        cosine, sine = position_embeddings
        try:
            output = forward(
                hidden[:, here],
                position_embeddings=(cosine[:, here], sine[:, here]),
                position_ids=position_ids[:, here],
                attention_pass=attention_pass,
                **others,
            )
        except _LastLayerReached:
            ends_here = True
            continue
        if len(chunks) == 1:
            return output
        if not output.requires_grad:
            # No later chunk reads these: the result takes their place, and memory stays one vector a token.
            hidden[:, here] = output
        outputs.append(output if output.requires_grad else hidden[:, here])
    if ends_here:
        raise _LastLayerReached
    return torch.cat(outputs, dim=1) if torch.is_grad_enabled() else hidden


def _attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    attention_pass: _Pass | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The registered function: states ``[1, head, row, dim]`` of one chunk; returns ``[1, row, head, dim]``."""
    if attention_pass is None:
        raise ModelError(
            "packed attention: expected this model family to hand its keyword arguments to the attention function; "
            "it does not. Use a family from qrcore.families.SUPPORTED."
        )
    call = attention_pass.call
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    seen_key, seen_value = attention_pass.extend(key[0], value[0])

    def inputs_of(query: Tensor) -> AttentionInputs:
        return AttentionInputs(
            rows=attention_pass.rows,
            query=query[0],
            key=seen_key,
            value=seen_value,
            scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
            window=sliding_window,
            softcap=softcap,
            own_weights=partial(_own_weights, module, query, key, value, scaling, sliding_window, softcap, others),
        )

    inputs = inputs_of(query)
    if layer in call.gates:
        inputs = inputs_of(call.gates[layer](layer, inputs)[None])
    if layer in call.reads:
        call.reads[layer](layer, inputs)
    if layer == call.last_layer:
        raise _LastLayerReached
    return packed_attention(inputs, call.layout).transpose(0, 1)[None], None


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
