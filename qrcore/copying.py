"""How a head copies an answer: the arithmetic that all methods of copying heads share.

At every step of an answer, a head has copied if the key it attends to most lies in the needle and holds the very token
that is generated (Wu et al., arXiv 2404.15574).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from qrcore.attention.top_keys import read_top_keys
from qrcore.contracts.copy_detector import CopyTrial
from qrcore.errors import ScoreError
from qrcore.models import LanguageModel, out_of_memory_as_error
from qrcore.records import Span


def copied_share(top_keys: Tensor, ids: Sequence[int], answer: Span, needle: Span) -> Tensor:
    """Copying steps over the needle's tokens, ``[...]``, from top keys ``[..., step]``.

    ``ids``: prompt and answer; step i generates the token ``answer.start + i`` of them.
    """
    tokens = torch.tensor(list(ids), device=top_keys.device)
    generated = tokens[answer.start : answer.stop]
    inside = (top_keys >= needle.start) & (top_keys < needle.stop)
    copied = inside & (tokens[top_keys] == generated)
    return copied.sum(dim=-1) / (needle.stop - needle.start)


def token_recall(found: Sequence[int], wanted: Sequence[int]) -> float:
    """The share of ``wanted`` tokens that ``found`` holds, with multiplicity (ROUGE-1 recall over tokens)."""
    return (Counter(found) & Counter(wanted)).total() / len(wanted)


def head_shares(model: LanguageModel, trial: CopyTrial, prefix: Sequence[int], answer_ids: Sequence[int]) -> Tensor:
    """Every head's copied share of one answer, ``[layer, head]`` float32; ``prefix``: what stands before the steps that
    count. An empty answer copies nothing."""
    shape = model.decoder.source.shape
    if not answer_ids:
        return torch.zeros(shape.layers, shape.query_heads)
    ids = (*trial.prompt_ids, *prefix, *answer_ids)
    answer = Span(len(ids) - len(answer_ids), len(ids))
    with torch.inference_mode(), out_of_memory_as_error():
        # The row of a token tells the next one.
        top_keys = read_top_keys(model.decoder.model, ids[:-1], rows=len(answer_ids))
    return copied_share(top_keys, ids, answer, trial.needle).cpu()


def trial_problem(model: LanguageModel, trial: CopyTrial, answer_tokens: int) -> ScoreError | None:
    """Why a trial with an answer of at most ``answer_tokens`` cannot be tried, None if it can."""
    if not 0 <= trial.needle.start < trial.needle.stop <= len(trial.prompt_ids):
        return ScoreError(
            "no_needle",
            f"needle: expected tokens of the prompt (0 to {len(trial.prompt_ids)}), got {trial.needle.start} to "
            f"{trial.needle.stop}. Build the trial from the prompt that holds the needle.",
            stage="tokenise",
        )
    longest, limit = len(trial.prompt_ids) + answer_tokens, model.decoder.source.max_tokens
    if longest <= limit:
        return None
    return ScoreError(
        "context_too_long",
        f"trial: expected at most {limit} tokens with its answer for this model, got {longest}. Use shorter prompts.",
        stage="tokenise",
    )
