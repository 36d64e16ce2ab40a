"""Greedy decoding in batches with a key-value cache: the one loop that every job that generates shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from qrcore.attention.gate import Gate
from qrcore.attention.streams import StreamGates, Streams
from qrcore.errors import ConfigError

#: Sees the number of the step (0: the first new token) and the logits ``[row, vocabulary]`` (float32) of that step for
#: all rows, and returns those to choose from.
LogitsHook = Callable[[int, Tensor], Tensor]

#: The same for logits ``[stream, row, vocabulary]``; returns ``[row, vocabulary]``.
StreamHook = Callable[[int, Tensor], Tensor]

_LENGTH_DEPENDENT: Final = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class Decoded:
    """New tokens of one prompt; ``ended``: an end token came (it is left out), not the limit."""

    ids: tuple[int, ...]
    ended: bool


@torch.inference_mode()
def decode_greedy(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_ids: Sequence[int] = (),
    hook: LogitsHook | None = None,
    gates: Sequence[Sequence[Gate]] = (),
) -> list[Decoded]:
    """The likeliest token after each prompt, again and again, up to an end token or ``max_new_tokens``.

    ``model``: a causal language model, with its own attention unless there are ``gates``, which are those of each
    prompt. Rows do not influence one another but for rounding; a model whose positions depend on the longest row
    decodes its prompts one by one. Raises :class:`ConfigError` for an empty prompt or a limit below 1.
    """
    if any(gates):
        return decode_streams(
            model, prompts, max_new_tokens, [gates], lambda step, logits: _seen(hook, step, logits[0]), end_ids
        )
    _check(prompts, max_new_tokens)
    if len(prompts) > 1 and _positions_depend_on_length(model):
        return [decode_greedy(model, [prompt], max_new_tokens, end_ids, hook)[0] for prompt in prompts]
    if not prompts:
        return []
    cache = DynamicCache(config=model.config)

    def choose_from(step: int, batch: _Batch) -> Tensor:
        return _seen(hook, step, _next_logits(model, batch, cache))

    return _decode(prompts, max_new_tokens, end_ids, model.device, choose_from)


@torch.inference_mode()
def decode_streams(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    streams: Sequence[StreamGates],
    hook: StreamHook,
    end_ids: Sequence[int] = (),
) -> list[Decoded]:
    """The same with several streams in one batch, which read the same tokens and differ in their gates alone.

    ``streams``: for each stream the gates of every prompt, none for the model as it is; ``hook`` makes of what all of
    them say the logits to choose from. Layers below the first gated one, and a prompt that no gate touches, are
    computed once for all streams. Raises what :func:`decode_greedy` raises, and :class:`ModelError` for a family whose
    attention gates cannot change as they say.
    """
    _check(prompts, max_new_tokens)
    wrong = [len(stream) for stream in streams if len(stream) != len(prompts)]
    if wrong:
        raise ConfigError(f"streams: expected gates for {len(prompts)} prompts each, got {wrong[0]}. Give one of each.")
    if len(prompts) > 1 and _positions_depend_on_length(model):
        return [
            decode_streams(model, [prompt], max_new_tokens, [[stream[row]] for stream in streams], hook, end_ids)[0]
            for row, prompt in enumerate(prompts)
        ]
    if not prompts:
        return []
    running = Streams(model, [len(prompt) for prompt in prompts], streams)

    def choose_from(step: int, batch: _Batch) -> Tensor:
        return hook(step, running.next_logits(batch.ids))

    return _decode(prompts, max_new_tokens, end_ids, model.device, choose_from)


def _seen(hook: LogitsHook | None, step: int, logits: Tensor) -> Tensor:
    return hook(step, logits) if hook else logits


def _decode(
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    end_ids: Sequence[int],
    device: torch.device,
    choose_from: Callable[[int, _Batch], Tensor],
) -> list[Decoded]:
    """``choose_from``: logits ``[row, vocabulary]`` of a step."""
    batch = _Batch.of(prompts, device)
    chosen: list[Tensor] = []
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    ends = torch.tensor(list(end_ids), dtype=torch.long, device=device)
    for step in range(max_new_tokens):
        token = choose_from(step, batch).argmax(dim=-1)
        chosen.append(token)
        ended |= torch.isin(token, ends)
        if bool(ended.all()):
            break
        batch = batch.after(token)
    return [_decoded(row, set(end_ids)) for row in torch.stack(chosen, dim=1).tolist()]


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    """The tokens that are run next, ``[row, token]``, their positions, and which of all tokens so far are real."""

    ids: Tensor
    positions: Tensor
    real: Tensor

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], device: torch.device) -> _Batch:
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        real = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
            real[row, longest - len(prompt) :] = 1
        # The default positions count the padding.
        positions = (real.cumsum(dim=1) - 1).clamp(min=0)
        return cls(ids.to(device), positions.to(device), real.to(device))

    def after(self, token: Tensor) -> _Batch:
        one = torch.ones_like(token)[:, None]
        return _Batch(token[:, None], self.positions[:, -1:] + 1, torch.cat((self.real, one), dim=1))


def _next_logits(model: PreTrainedModel, batch: _Batch, cache: DynamicCache) -> Tensor:
    output: Any = model(
        input_ids=batch.ids,
        attention_mask=batch.real,
        position_ids=batch.positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = output.logits[:, -1].float()
    return logits


def _decoded(row: Sequence[int], end_ids: set[int]) -> Decoded:
    ids = list(row)
    stop = next((place for place, token in enumerate(ids) if token in end_ids), None)
    return Decoded(tuple(ids[:stop]), stop is not None)


def _positions_depend_on_length(model: PreTrainedModel) -> bool:
    parameters: dict[str, Any] = getattr(model.config, "rope_parameters", None) or {}
    kinds = [parameters, *(value for value in parameters.values() if isinstance(value, dict))]
    return any(kind.get("rope_type") in _LENGTH_DEPENDENT for kind in kinds)


def _check(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    empty = [row for row, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ConfigError(f"prompts: expected at least one token each, got none in prompt {empty[0]}. Leave it out.")
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens: expected at least 1, got {max_new_tokens}. Raise it.")
