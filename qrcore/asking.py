"""Asking a model whether it is sure: what it answered first, and how that is put to it again, in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from qrcore.answers import normalised, without_mark
from qrcore.contracts.answerer import Answer
from qrcore.contracts.auditor import FlipTrial, FollowUp
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError, ScoreError
from qrcore.generation import GreedyAnswerer
from qrcore.methods.decore import support
from qrcore.models import LanguageModel
from qrcore.prompts import PromptFormat, follow_up_frame
from qrcore.records import Document, Span

OPTIONS: Final = "{options}"
#: What the options are told as, and how their words may begin where a model says them.
_SPELLINGS: Final = ("{}", " {}", "{title}", " {title}", "{upper}", " {upper}")


@dataclass(frozen=True, slots=True)
class AskingSettings:
    """``follow_ups``: ways to ask again, in each of which ``{options}`` stands for ``yes_word`` and ``no_word``;
    ``passage``: what leads in a passage that stands before the question, where there is one.

    Raises :class:`ConfigError` for a follow-up that does not name the options once.
    """

    follow_ups: tuple[str, ...] = ("Are you sure about your previous answer? Answer only {options}.",)
    yes_word: str = "yes"
    no_word: str = "no"
    passage: str = "There is another passage:"

    def __post_init__(self) -> None:
        if not self.follow_ups:
            raise ConfigError("follow_ups: expected at least one, got none. Write a question with {options} in it.")
        for text in self.follow_ups:
            if text.count(OPTIONS) != 1:
                raise ConfigError(
                    f"follow_ups: expected {OPTIONS} once, got {text!r}. Write it where the words belong."
                )


@dataclass(frozen=True, slots=True)
class FirstAnswer(Answer):
    """What the model answered, in tokens, too: those of the prompt and those of the answer."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]


class AskingAnswerer(GreedyAnswerer):
    """Answers questions as :class:`~qrcore.generation.GreedyAnswerer` does (answers are :class:`FirstAnswer`), and
    builds what it takes to ask again."""

    def __init__(
        self,
        model: LanguageModel,
        retrieval: PromptFormat,
        asking: AskingSettings,
        max_new_tokens: int = 64,
        batch_tokens: int = 16_384,
    ) -> None:
        super().__init__(model, retrieval, max_new_tokens, batch_tokens)
        self._asking = asking
        self._between, self._behind = follow_up_frame(self._tokenizer, retrieval)
        bos = self._tokenizer.bos_token_id
        self._begins_with_bos = bos is not None and self._tokenizer("")["input_ids"][:1] == [bos]

    def verdict_ids(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First tokens of the two words, however they are written; a token that both begin with tells nothing.

        Raises :class:`ConfigError` where nothing is left to tell them apart.
        """
        yes, no = (self._first_tokens(word) for word in (self._asking.yes_word, self._asking.no_word))
        if not yes - no or not no - yes:
            raise ConfigError(
                "yes_word and no_word: expected words that begin with different tokens for this model, got "
                f"{self._asking.yes_word!r} and {self._asking.no_word!r}, which begin alike. Choose other words."
            )
        return tuple(sorted(yes - no)), tuple(sorted(no - yes))

    def _first_tokens(self, word: str) -> set[int]:
        spelled = (form.format(word, title=word.title(), upper=word.upper()) for form in _SPELLINGS)
        return {self._encoder.encode_text(text)[0] for text in spelled}

    def trial(self, first: FirstAnswer, said: str | None = None, passage: str | None = None) -> FlipTrial:
        """Both turns after the model's own answer or, in its place, after ``said``; ``passage``: stands before the
        question that asks again."""
        answer = first.ids if said is None else self._encoder.encode_text(said)
        follow_ups = tuple(self._follow_up(text, passage) for text in self._asking.follow_ups)
        return FlipTrial((*first.prompt_ids, *answer), follow_ups)

    def _follow_up(self, text: str, passage: str | None) -> FollowUp:
        before, after = text.split(OPTIONS)
        turn = PromptFormat(
            name="follow-up",
            prefix=self._between,
            opening=self._asking.passage if passage else "",
            separator="\n" if passage else "",
            instruction="",
            query_label=before,
            suffix=f"{after}{self._behind}",
        )
        documents = [Document("passage", passage)] if passage else []
        # What is asked for stands in the place of a query, so that its tokens are known by construction.
        encoded = self._encoder.encode(turn, f"{self._asking.yes_word} or {self._asking.no_word}", documents)
        bos = int(self._begins_with_bos)
        options = encoded.query_span
        return FollowUp(encoded.ids[bos:], Span(options.start - bos, options.stop - bos))

    def _decode(self, prompts: Sequence[tuple[int, ...]]) -> list[Answer | ScoreError]:
        decoded = decode_greedy(self._model.model, prompts, self._max_new_tokens, self._model.end_ids)
        return [
            FirstAnswer(self._text(one.ids), len(prompt), len(one.ids), one.ended, tuple(prompt), one.ids)
            for prompt, one in zip(prompts, decoded, strict=True)
        ]


def recall_of(needle: str, answer: str) -> float:
    """The share of the needle's words that the answer holds, with multiplicity, 0 to 1: ROUGE-1 recall over words
    without case, punctuation and articles."""
    return support(normalised(needle).split(), normalised(without_mark(answer)).split())
