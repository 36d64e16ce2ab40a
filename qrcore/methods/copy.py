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

from collections.abc import Mapping, Sequence
from typing import Any

from qrcore.contracts.copy_detector import Answering, CopyOutcome, CopyTrial
from qrcore.contracts.method import Method, Needs
from qrcore.copying import head_shares, token_recall, trial_problem
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError, ScoreError
from qrcore.models import LanguageModel, out_of_memory_as_error


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


def _outcome(
    model: LanguageModel, trial: CopyTrial, prefix: tuple[int, ...], answer_ids: tuple[int, ...]
) -> CopyOutcome:
    recall = token_recall(answer_ids, trial.needle_ids)
    return CopyOutcome(head_shares(model, trial, prefix, answer_ids), answer_ids, recall)


def _problem(model: LanguageModel, trial: CopyTrial, method: CopyScore) -> ScoreError | None:
    forced = len(trial.answer_prefix) + len(trial.needle_ids)
    return trial_problem(model, trial, forced if method.answering == "teacher_forced" else method.max_new_tokens)


METHOD = Method(
    name="copy",
    kind="copy_detector",
    source="Retrieval heads, arXiv 2404.15574",
    needs=Needs(depth="full"),
    build=CopyScore,
)
