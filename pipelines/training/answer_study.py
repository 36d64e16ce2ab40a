"""What a trained model answers by itself: the index it names, the sentence it copies, and whether it stands by it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from transformers import PreTrainedTokenizerBase

from pipelines.splits import Part
from pipelines.training.findings import AnswerQuality, VerdictQuality
from pipelines.training.judged import JudgedList, JudgedSet
from pipelines.training.orders import interval
from qrcore.models import load_tokenizer, open_model
from qrcore.prompts import EMBEDDED
from qrcore.tokens import PromptEncoder
from qrcore.training.probing import (
    greedy_continuation,
    load_language_model,
    load_probed_model,
    next_token_log_probabilities,
)
from qrcore.training.retrieval import RE_ASKING, VERDICT_WORDS
from qrcore.training.tokenizer import ASSISTANT, END, USER

_SENTENCE_END: Final = re.compile(r"[.!?][\"')\]”’]*(?=\s)")
#: Shorter pieces are mostly abbreviations and initials, not sentences; training cuts sentences alike.
_FEWEST_WORDS: Final = 5
_EXAMPLES: Final = 3
#: Tokens of a mark ``[i]`` at most, whatever the tokenizer.
_LONGEST_MARK: Final = 4


@dataclass(frozen=True, slots=True)
class _Answer:
    """A generated answer: its ``place`` in brackets (None if it does not begin with one) and the tokens after it."""

    text: str
    place: int | None
    copied: tuple[int, ...]


def sentences(text: str) -> list[tuple[int, str]]:
    """The sentences of ``text`` with the characters at which they begin."""
    found: list[tuple[int, str]] = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        piece, rest = text[start : end.end()], text[end.end() :]
        if min(len(piece.split()), len(rest.split())) >= _FEWEST_WORDS:
            found.append((start, piece))
            start = end.end()
    found.append((start, text[start:]))
    return [(at + len(piece) - len(piece.lstrip()), piece.strip()) for at, piece in found if piece.strip()]


def answering_sentence(entry: JudgedList) -> tuple[int, str] | None:
    """The place (from 1) of the first relevant document that holds an answer, and the sentence with the answer's first
    occurrence; None if no relevant document holds any."""
    for place in entry.relevant_places:
        text = entry.documents[place - 1].text
        for answer in entry.answers:
            # Whole words: "no" is an answer that stands in many words.
            if match := re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE):
                return place, [sentence for start, sentence in sentences(text) if start <= match.start()][-1]
    return None


def answer_quality(
    folder: str, judged: JudgedSet, part: Part, *, max_new_tokens: int = 80, seed: int = 0, device: str = "cpu"
) -> AnswerQuality | None:
    """Free greedy answers to the lists of one part.

    The index counts over all lists, the copy over those whose answering sentence is known: token F1 (multisets of the
    tokenizer's own tokens) of what follows ``[i]``, 0 where no ``[i]`` begins the answer. Lists that leave the model
    no room to answer count as wrong. ``examples``: queries with their answers as text. None if no answering sentence
    is known.
    """
    lists = judged.part(part)
    gold = {entry.query_id: found[1] for entry in lists if (found := answering_sentence(entry)) is not None}
    if not gold:
        return None
    writer = _Writer(folder, max_new_tokens, device)
    answers = {entry.query_id: writer.answer(entry) for entry in lists}
    right = {entry.query_id: float(answers[entry.query_id].place in entry.relevant_places) for entry in lists}
    copied = {query_id: token_f1(answers[query_id].copied, writer.encode(text)) for query_id, text in gold.items()}
    return AnswerQuality(
        name=judged.name,
        part=part,
        queries=len(lists),
        begins=fmean(answer.place is not None for answer in answers.values()),
        index=interval(right, seed),
        copy_f1=interval(copied, seed),
        examples=tuple((entry.query, answers[entry.query_id].text) for entry in lists[:_EXAMPLES]),
    )


def token_f1(found: Sequence[int], wanted: Sequence[int]) -> float:
    """Harmonic mean of precision and recall of two multisets of tokens."""
    shared = (Counter(found) & Counter(wanted)).total()
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0


class _Writer:
    """Generates answers with the whole model, its own attention and a key-value cache."""

    def __init__(self, folder: str, max_new_tokens: int, device: str) -> None:
        source = open_model(folder)
        self._model = load_language_model(source.path, device)
        self._tokenizer = load_tokenizer(source)
        self._encoder = PromptEncoder(self._tokenizer)
        self._max_tokens = source.max_tokens
        self._max_new_tokens = max_new_tokens
        self._end = self._tokenizer.get_vocab()[END]

    def encode(self, text: str) -> tuple[int, ...]:
        return _plain_ids(self._tokenizer, text)

    def answer(self, entry: JudgedList) -> _Answer:
        prompt = self._encoder.encode(EMBEDDED, entry.query, entry.documents).ids
        room = min(self._max_new_tokens, self._max_tokens - len(prompt))
        ids = greedy_continuation(self._model, prompt, room, self._end) if room > 0 else ()
        place, copied = self._parse(ids)
        return _Answer(self._text(ids), place, copied)

    def _parse(self, ids: Sequence[int]) -> tuple[int | None, tuple[int, ...]]:
        for after in range(1, _LONGEST_MARK + 1):
            if index := re.fullmatch(r"\[\s*(\d+)\s*\]", self._text(ids[:after]).strip()):
                return int(index[1]), tuple(ids[after:])
        return None, ()

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids)))


def verdict_quality(
    folder: str, judged: JudgedSet, part: Part, *, seed: int = 0, device: str = "cpu"
) -> VerdictQuality | None:
    """Share of right verdicts when the model is asked whether a given answer answers the query.

    Each query comes twice: with the answering sentence, and with the first sentence of a document that is not
    relevant; "yes" and "no" are compared as the next token. Queries without an answering sentence, without another
    document or, with either answer, beyond the model's limit are passed over; None if all are.
    """
    source = open_model(folder)
    tokenizer = load_tokenizer(source)
    encoder = PromptEncoder(tokenizer)
    yes, no = (_plain_ids(tokenizer, VERDICT_WORDS[right])[0] for right in (True, False))
    model = load_probed_model(source.path, device)
    right_shares = {}
    for entry in judged.part(part):
        prompt = encoder.encode(EMBEDDED, entry.query, entry.documents).ids
        asked = [
            ((*prompt, *_answer_and_question(tokenizer, place, sentence)), right)
            for place, sentence, right in _given_answers(entry)
        ]
        if asked and max(len(ids) for ids, _ in asked) <= source.max_tokens:
            says = [(next_token_log_probabilities(model, ids), right) for ids, right in asked]
            right_shares[entry.query_id] = fmean(bool(one[yes] > one[no]) == right for one, right in says)
    if not right_shares:
        return None
    return VerdictQuality(judged.name, part, len(right_shares), interval(right_shares, seed))


def _given_answers(entry: JudgedList) -> Iterator[tuple[int, str, bool]]:
    """A right and a wrong answer: place, sentence, and which it is; nothing if either is missing."""
    right, wrong = answering_sentence(entry), _wrong_answer(entry)
    if right and wrong:
        yield (*right, True)
        yield (*wrong, False)


def _wrong_answer(entry: JudgedList) -> tuple[int, str] | None:
    others = [
        (place, found[0][1])
        for place, document in enumerate(entry.documents, start=1)
        if document.doc_id not in entry.relevance and (found := sentences(document.text))
    ]
    return min(others, key=lambda other: _digest(f"{entry.query_id} {other[0]}")) if others else None


def _answer_and_question(tokenizer: PreTrainedTokenizerBase, place: int, sentence: str) -> tuple[int, ...]:
    end, user, assistant = (tokenizer.get_vocab()[token] for token in (END, USER, ASSISTANT))
    answer, question = (_plain_ids(tokenizer, text) for text in (f"[{place}] {sentence}", RE_ASKING))
    return (*answer, end, user, *question, end, assistant)


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Token ids of text of which no part can become a control token."""
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
