"""Rotary tables that depend on a prompt's length, computed from the length of each segment alone.

``dynamic`` and ``longrope`` choose their frequencies by the longest position of a call, and keep them for the next one:
in a packed sequence a prompt's scores would depend on its neighbours and on the prompts before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from qrcore.attention.call import PackedLayout
from qrcore.attention.forwards import wrapped_forward

_LENGTH_DEPENDENT: Final = frozenset({"dynamic", "longrope"})


def rotary_class(config: PreTrainedConfig, tokens: int) -> int:
    """Prompts of one class have the same rotary tables; ``tokens``: the prompt's length."""
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in nested or [parameters]:
        if rope.get("rope_type") == "dynamic":
            return tokens
        if rope.get("rope_type") == "longrope":
            return int(tokens > rope["original_max_position_embeddings"])
    return 0


@contextmanager
def rotary_by_segment(model: PreTrainedModel, layout: PackedLayout) -> Iterator[None]:
    """Length-dependent rotary modules of ``model`` see one segment at a time, each as if it were the first."""
    with ExitStack() as stack:
        for module in model.modules():
            if _depends_on_length(getattr(module, "rope_type", None)):
                stack.enter_context(wrapped_forward(module, partial(_by_segment, module, layout)))
        yield


def _depends_on_length(rope_type: str | dict[str, str] | None) -> bool:
    kinds = rope_type.values() if isinstance(rope_type, dict) else (rope_type,)
    return not _LENGTH_DEPENDENT.isdisjoint(kinds)


def _by_segment(
    module: nn.Module,
    layout: PackedLayout,
    forward: Callable[..., tuple[Tensor, Tensor]],
    hidden: Tensor,
    position_ids: Tensor,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[1, token, dim]``."""
    tables = []
    state = _rotary_state(module)
    for span in layout.spans:
        try:
            tables.append(forward(hidden, position_ids[:, span.start : span.stop], *others))
        finally:
            _restore_rotary(module, state)
    cosines, sines = zip(*tables, strict=True)
    return torch.cat(cosines, dim=1), torch.cat(sines, dim=1)


_State = tuple[dict[str, Tensor], dict[str, Any], frozenset[str]]


def _rotary_state(module: nn.Module) -> _State:
    with torch.inference_mode(False):
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)}
    scalars = {name: value for name, value in vars(module).items() if name.endswith(("_cached", "_scaling"))}
    return buffers, scalars, frozenset(vars(module))


def _restore_rotary(module: nn.Module, state: _State) -> None:
    buffers, scalars, attributes = state
    for name, buffer in buffers.items():
        # A copy: some kinds write into their buffer in place.
        with torch.inference_mode(False):
            module.register_buffer(name, buffer.clone(), persistent=name not in module._non_persistent_buffers_set)
    for name, value in scalars.items():
        setattr(module, name, value)
    for name in vars(module).keys() - attributes:  # what some versions keep from the first long prompt on
        delattr(module, name)
