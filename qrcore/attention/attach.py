"""Borrow a model for packed forward passes and give it back unchanged."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from qrcore.attention.call import AttentionCall, AttentionInputs, PackedLayout
from qrcore.attention.forwards import wrapped_forward
from qrcore.attention.kernel import packed_attention, visible
from qrcore.attention.rotary import rotary_by_segment
from qrcore.errors import ModelError
from qrcore.families import check_gated
from qrcore.records import Span

_NAME: Final = "qrbatch_packed"
_registration = threading.Lock()
_attached = 0


class LastLayerReached(BaseException):
    """Ends a forward pass inside the deepest layer that is needed; never leaves :func:`run`."""


def run(model: PreTrainedModel, token_ids: Tensor, call: AttentionCall, **settings: Any) -> Any:
    """One forward pass over the packed ``token_ids`` (``[token]``) with ``call`` at every layer.

    Each layer runs chunk by chunk: a chunk sees only tokens up to its own last one, so one layer's keys and values are
    all that it needs of the chunks before it. Reads arrive in ``call.reads`` as the layers run. Returns the model's own
    output, None if the pass ended in ``call.last_layer``; behind a fork its tokens are those of the first copy of all
    segments, then of the second, and so on. ``settings`` go to the model's ``forward``. The model's settings, rotary
    state and the process-wide registries are as before when this returns or raises. Gradients are the caller's choice.
    Raises :class:`ModelError` for tokens that the layout is not made for, and for gates in a family that breaks them.
    """
    layout = call.layout
    if not isinstance(layout, PackedLayout):
        raise ModelError("packed pass: expected a packed layout, got a cached one. Call run_cached with a cache.")
    if token_ids.shape[0] != layout.length:
        raise ModelError(
            f"packed pass: expected {layout.length} tokens, got {token_ids.shape[0]}. "
            "Build the layout from the same token lists."
        )
    packed = _PackedPass(call, layout)
    with attached(model, call), rotary_by_segment(model, layout), each_layer(model, packed.through):
        try:
            return model(
                input_ids=token_ids[None],
                position_ids=layout.position_ids(token_ids.device),
                use_cache=False,
                attention_pass=packed,
                **settings,
            )
        except LastLayerReached:
            return None


class AttentionPass(Protocol):
    """A forward pass on its way, whatever its layout; the registered function hands it the states of each layer."""

    def attend(self, states: LayerStates) -> Tensor:
        """Attention output ``[batch, row, head, dim]``."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LayerStates:
    """What the model hands to its attention function: states ``[batch, head, token, dim]`` and the layer's settings."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    scaling: float
    window: int | None
    softcap: float | None
    others: dict[str, Any]

    @property
    def layer(self) -> int:
        """The layer's number, from 0."""
        return int(self.module.layer_idx)  # type: ignore[arg-type]


def attend(call: AttentionCall, states: LayerStates, inputs: AttentionInputs, layout: PackedLayout) -> Tensor:
    """Attention of one chunk with what ``call`` wants of its layer; output ``[head, row, dim]``."""
    layer = states.layer
    gate = call.gates.get(layer)
    given = inputs
    if gate is not None:
        gated = gate.before(layer, inputs)
        inputs = replace(gated, own_weights=partial(own_weights, states, gated.query[None]))
    if layer in call.reads:
        call.reads[layer](layer, inputs)
    if layer == call.last_layer:
        raise LastLayerReached
    output = packed_attention(inputs, layout)
    return output if gate is None else gate.after(layer, given, output)


@dataclass(slots=True, eq=False)
class _PackedPass:
    """Which chunk runs now, and the keys and values of the layer that it runs through."""

    call: AttentionCall
    layout: PackedLayout
    copies: int = 1
    rows: Span = field(default=Span(0, 0))
    key: Any = None
    value: Any = None

    def attend(self, states: LayerStates) -> Tensor:
        key, value = self._extend(states.key[0], states.value[0])
        inputs = AttentionInputs(
            rows=self.rows,
            query=states.query[0],
            key=key,
            value=value,
            scaling=states.scaling,
            window=states.window,
            softcap=states.softcap,
            own_weights=partial(own_weights, states, states.query),
            parts=self.layout.parts(self.rows) if states.layer in self.call.gates else (),
        )
        return attend(self.call, states, inputs, self.layout).transpose(0, 1)[None]

    def through(
        self,
        layer: int,
        forward: Callable[..., Tensor],
        hidden: Tensor,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        position_ids: Tensor,
        **others: Any,
    ) -> Tensor:
        """A decoder layer's own ``forward`` over ``hidden`` (``[1, token, dim]``), one chunk after the other."""
        copies = self.call.copies_at(layer)
        if copies != self.copies:
            hidden = hidden.repeat(1, copies, 1)
            self.layout = PackedLayout(self.layout.segments * copies)
            self.copies, self.key, self.value = copies, None, None
        cosine, sine = (table.repeat(1, copies, 1) if copies > 1 else table for table in position_embeddings)
        positions = position_ids.repeat(1, copies)
        return self._in_chunks(forward, hidden, cosine, sine, positions, others)

    def _in_chunks(
        self,
        forward: Callable[..., Tensor],
        hidden: Tensor,
        cosine: Tensor,
        sine: Tensor,
        positions: Tensor,
        others: dict[str, Any],
    ) -> Tensor:
        outputs = []
        ends_here = False
        chunks = self.layout.chunks(self.call.chunk_tokens)
        for rows in chunks:
            self.rows = rows
            here = slice(rows.start, rows.stop)
            try:
                output = forward(
                    hidden[:, here],
                    position_embeddings=(cosine[:, here], sine[:, here]),
                    position_ids=positions[:, here],
                    **others,
                )
            except LastLayerReached:
                ends_here = True
                continue
            if len(chunks) == 1:
                return output
            if not output.requires_grad:
                # No later chunk reads these: the result takes their place, and memory stays one vector a token.
                hidden[:, here] = output
            outputs.append(output if output.requires_grad else hidden[:, here])
        if ends_here:
            raise LastLayerReached
        return torch.cat(outputs, dim=1) if torch.is_grad_enabled() else hidden

    def _extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep this chunk's keys and values (``[kv_head, row, dim]``); all up to its last token."""
        start, stop, length = *self.rows, self.layout.length
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
def attached(model: PreTrainedModel, call: AttentionCall) -> Iterator[None]:
    """``model`` attends through the registered function inside the context; no other model does, then or later."""
    if call.gates:
        check_gated(model.config)
    previous = model.config._attn_implementation
    _register()
    model.config._attn_implementation = _NAME
    try:
        yield
    finally:
        model.config._attn_implementation = previous
        _unregister()


@contextmanager
def each_layer(model: PreTrainedModel, wrapper: Callable[..., Tensor]) -> Iterator[None]:
    """Calls of every decoder layer go to ``wrapper(layer, forward, hidden, **settings)`` inside the context."""
    layers: Any = model.base_model.layers  # of a language model, the decoder in it
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            stack.enter_context(wrapped_forward(layer, partial(wrapper, number)))
        yield


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
    attention_pass: AttentionPass | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """The registered function: states ``[batch, head, row, dim]``; returns ``[batch, row, head, dim]``."""
    if attention_pass is None:
        raise ModelError(
            "packed attention: expected this model family to hand its keyword arguments to the attention function; "
            "it does not. Use a family from qrcore.families.SUPPORTED."
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    states = LayerStates(module, query, key, value, scaling, sliding_window, softcap, others)
    return attention_pass.attend(states), None


def own_weights(states: LayerStates, query: Tensor) -> Tensor:
    """The family's eager attention over the same queries and keys, in float32 and in token order."""
    module = states.module
    eager = sys.modules[type(module).__module__].eager_attention_forward
    positions = torch.arange(query.shape[2], device=query.device)
    hidden = ~visible(positions, positions, states.window)
    mask = torch.zeros(hidden.shape, device=query.device).masked_fill(hidden, torch.finfo(torch.float32).min)
    settings = {**states.others, "scaling": states.scaling, "dropout": 0.0}
    if states.softcap is not None:
        settings["softcap"] = states.softcap
    tensors = (query.float(), states.key.float(), states.value.float())
    _, weights = eager(module, *tensors, mask[None, None], **settings)
    own: Tensor = weights[0]
    return own
