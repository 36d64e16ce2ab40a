"""Retrieval heads of Wu et al. (arXiv 2404.15574): heads whose strongest attention lies on the token that is copied.

A needle, a sentence that answers a question, stands in a haystack. At every step of the answer, a head has copied if
the key it attends to most lies in the needle and holds the very token that is generated. A head's value in one trial is
the number of such steps over the needle's tokens.

Two ways to get the answer. *decode*: the model generates it greedily; *teacher_forced*: the needle itself is the
answer, in one pass. Both are read in one pass over prompt and answer, because a step of a decoder sees exactly the
tokens before it; where the model answers with the needle they are the same.

The published code counts a trial only if the answer's ROUGE-1 recall of the needle is above one half, so that its mean
is conditional on success. Both means are given here. It counts steps, not different tokens: an answer that repeats can
exceed 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qrcore.attention.top_keys import read_top_keys
from qrcore.contracts.copy_detector import Answering, CopyOutcome, CopyTrial
from qrcore.contracts.method import Method, Needs
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError, ScoreError
from qrcore.models import LanguageModel, out_of_memory_as_error
from qrcore.records import Span


class CopyScore:
    """Values of all heads of a language model in needle trials."""

    def __init__(self, answering: Answering = "teacher_forced", max_new_tokens: int = 50) -> None:
        if answering not in ("decode", "teacher_forced"):
            raise ConfigError(f"answering: expected decode or teacher_forced, got {answering!r}. Choose one of these.")
        self.answering = answering
        self.max_new_tokens = max_new_tokens

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model and trials that values depend on."""
        return {"answering": self.answering, "max_new_tokens": self.max_new_tokens}

    def outcomes(self, model: LanguageModel, trials: Sequence[CopyTrial]) -> list[CopyOutcome | ScoreError]:
        """The outcome of each trial in order, or why there is none; ``decode`` generates for all at once."""
        answers = iter(self._answers(model, [trial for trial in trials if _problem(model, trial, self) is None]))
        found: list[CopyOutcome | ScoreError] = []
        for trial in trials:
            problem = _problem(model, trial, self)
            found.append(problem or _outcome(model, trial, *next(answers)))
        return found

    def _answers(
        self, model: LanguageModel, trials: Sequence[CopyTrial]
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """What stands before the first counted step, and the answer's counted tokens."""
        if self.answering == "teacher_forced":
            return [(trial.answer_prefix, trial.needle_ids) for trial in trials]
        prompts = [trial.prompt_ids for trial in trials]
        with out_of_memory_as_error():
            decoded = decode_greedy(model.model, prompts, self.max_new_tokens, model.end_ids)
        return [((), one.ids) for one in decoded]


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


def _outcome(
    model: LanguageModel, trial: CopyTrial, prefix: tuple[int, ...], answer_ids: tuple[int, ...]
) -> CopyOutcome:
    shape = model.decoder.source.shape
    recall = token_recall(answer_ids, trial.needle_ids)
    if not answer_ids:
        return CopyOutcome(torch.zeros(shape.layers, shape.query_heads), answer_ids, recall)
    ids = (*trial.prompt_ids, *prefix, *answer_ids)
    answer = Span(len(ids) - len(answer_ids), len(ids))
    with torch.inference_mode(), out_of_memory_as_error():
        # The row of a token tells the next one.
        top_keys = read_top_keys(model.decoder.model, ids[:-1], rows=len(answer_ids))
    return CopyOutcome(copied_share(top_keys, ids, answer, trial.needle).cpu(), answer_ids, recall)


def _problem(model: LanguageModel, trial: CopyTrial, method: CopyScore) -> ScoreError | None:
    if not 0 <= trial.needle.start < trial.needle.stop <= len(trial.prompt_ids):
        return ScoreError(
            "no_needle",
            f"needle: expected tokens of the prompt (0 to {len(trial.prompt_ids)}), got {trial.needle.start} to "
            f"{trial.needle.stop}. Build the trial from the prompt that holds the needle.",
            stage="tokenise",
        )
    answer = len(trial.answer_prefix) + len(trial.needle_ids)
    longest = len(trial.prompt_ids) + (answer if method.answering == "teacher_forced" else method.max_new_tokens)
    limit = model.decoder.source.max_tokens
    if longest <= limit:
        return None
    return ScoreError(
        "context_too_long",
        f"trial: expected at most {limit} tokens with its answer for this model, got {longest}. Use shorter haystacks.",
        stage="tokenise",
    )


METHOD = Method(
    name="copy",
    kind="copy_detector",
    source="Retrieval heads, arXiv 2404.15574",
    needs=Needs(depth="full"),
    build=CopyScore,
)
