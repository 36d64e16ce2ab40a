"""From a rendered prompt to token ids and token spans.

Texts that users wrote never become control tokens: an added token of the vocabulary (``<|eot_id|>``, a tool tag)
inside a document is encoded as the plain characters it is made of. Added tokens of white space only (Gemma's runs of
newlines) are layout, not control, and stay.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from qrcore.errors import PromptError
from qrcore.prompts import PromptFormat, RenderedPrompt
from qrcore.records import Document, Span

SpecialTokens = Literal["text", "parse"]


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Token ids of one prompt (BOS included) and half-open token spans of its parts.

    A document's span runs from the token of its ``[`` to the last token that covers its last character;
    ``asking_span`` from the instruction's first token to the end; ``query_span`` covers the query alone.
    """

    ids: tuple[int, ...]
    document_spans: tuple[Span, ...]
    asking_span: Span
    query_span: Span


@dataclass(frozen=True, slots=True)
class _Tokens:
    ids: list[int]
    offsets: list[tuple[int, int]]


class PromptEncoder:
    """Encodes prompts with one tokenizer; ``special_tokens="parse"`` reproduces the official code instead,
    where special-token text inside documents becomes special tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special_tokens: SpecialTokens = "text") -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise PromptError(
                "tokenizer: expected one with character offsets (a tokenizer.json); this one has none. Convert it "
                "with transformers (AutoTokenizer(..., use_fast=True).save_pretrained) and load that folder."
            )
        self._special_tokens = special_tokens
        self._tokenizer = _private_copy(tokenizer.backend_tokenizer)
        self._control_ids = _control_ids(self._tokenizer)
        self._bos_id = tokenizer.bos_token_id
        self._adds_bos = self._bos_id is not None and tokenizer("")["input_ids"][:1] == [self._bos_id]

    def encode(self, prompt: PromptFormat, query: str, documents: Sequence[Document]) -> EncodedPrompt:
        """Token ids and spans of ``query`` over ``documents`` in this order."""
        return self._encode(prompt.render(query, documents), prompt)[0]

    def encode_and_locate(
        self, prompt: PromptFormat, query: str, documents: Sequence[Document], place: int, characters: Span
    ) -> tuple[EncodedPrompt, Span]:
        """The same, and the tokens that cover ``characters`` of the text of the document at ``place``, from 0."""
        rendered = prompt.render(query, documents)
        encoded, locate = self._encode(rendered, prompt)
        # The text is the last part of a document's span.
        start = rendered.document_spans[place].stop - len(documents[place].text)
        return encoded, locate(Span(start + characters.start, start + characters.stop))

    def count(self, text: str) -> int:
        """Tokens of text that stands within a prompt, encoded by itself."""
        return len(self._content.encode(text, add_special_tokens=False))

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Half-open character spans of these tokens."""
        return list(self._content.encode(text, add_special_tokens=False).offsets)

    @property
    def _content(self) -> Tokenizer:
        return self._plain_later if self._special_tokens == "text" else self._tokenizer

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Token ids of text that follows other text; no part of it becomes a control token."""
        return tuple(self._plain_later.encode(text, add_special_tokens=False).ids)

    def encode_plain(self, text: str, characters: Span) -> tuple[tuple[int, ...], Span]:
        """Token ids of a text that is a whole prompt, behind a BOS token where the tokenizer puts one, and the tokens
        that cover ``characters``; no part of it becomes a control token."""
        tokens = self._encode_section(text, is_first=True)
        bos = [self._bos_id] if self._adds_bos else []
        return (*bos, *tokens.ids), _TokenLocator(tokens.offsets, len(bos))(characters)

    def _encode(self, rendered: RenderedPrompt, prompt: PromptFormat) -> tuple[EncodedPrompt, _TokenLocator]:
        tokens = self._encode_whole(rendered.text)
        if self._special_tokens == "text":
            markers = self._template_markers(rendered)
            if not _are_the_same(self._control_tokens(tokens), markers):
                tokens = self._encode_between(markers, rendered.text)
        bos = [self._bos_id] if self._bos_id is not None and (self._adds_bos or prompt.begins_with_bos) else []
        locate = _TokenLocator(tokens.offsets, shift=len(bos))
        encoded = EncodedPrompt(
            ids=(*bos, *tokens.ids),
            document_spans=tuple(locate(span) for span in rendered.document_spans),
            asking_span=Span(locate(rendered.asking_span).start, len(bos) + len(tokens.ids)),
            query_span=locate(rendered.query_span),
        )
        return encoded, locate

    def _encode_whole(self, text: str) -> _Tokens:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return _Tokens(encoding.ids, encoding.offsets)

    def _control_tokens(self, tokens: _Tokens) -> list[_Marker]:
        triples = zip(tokens.ids, tokens.offsets, strict=True)
        return [_Marker(token_id, start, stop) for token_id, (start, stop) in triples if token_id in self._control_ids]

    def _template_markers(self, rendered: RenderedPrompt) -> list[_Marker]:
        """The control tokens of the template's own text, which contents must neither add to nor take from."""
        markers = []
        for start, stop in _gaps(rendered.content_spans, len(rendered.text)):
            for marker in self._control_tokens(self._encode_whole(rendered.text[start:stop])):
                markers.append(_Marker(marker.token_id, start + marker.start, start + marker.stop))
        return markers

    def _encode_between(self, markers: Sequence[_Marker], text: str) -> _Tokens:
        """Encode the text between the template's markers with a tokenizer that knows no control tokens."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        position = 0
        for marker in [*markers, None]:
            stop = len(text) if marker is None else marker.start
            section = self._encode_section(text[position:stop], is_first=position == 0)
            ids += section.ids
            offsets += [(start + position, end + position) for start, end in section.offsets]
            if marker is not None:
                ids.append(marker.token_id)
                offsets.append((marker.start, marker.stop))
                position = marker.stop
        return _Tokens(ids, offsets)

    def _encode_section(self, text: str, *, is_first: bool) -> _Tokens:
        tokenizer = self._plain_first if is_first else self._plain_later
        encoding: Encoding = tokenizer.encode(text, add_special_tokens=False)
        return _Tokens(encoding.ids, encoding.offsets)

    @cached_property
    def _plain_first(self) -> Tokenizer:
        return _without_control_tokens(self._tokenizer, self._control_ids)

    @cached_property
    def _plain_later(self) -> Tokenizer:
        """For text behind a marker, where a "first word only" prefix space does not apply."""
        state = json.loads(self._plain_first.to_str())
        _prepend_never_behind_markers(state.get("pre_tokenizer"))
        return Tokenizer.from_str(json.dumps(state))


@dataclass(frozen=True, slots=True)
class _Marker:
    token_id: int
    start: int
    stop: int


def _are_the_same(found: Sequence[_Marker], wanted: Sequence[_Marker]) -> bool:
    """Whether the same control tokens stand at the same places; one may have swallowed white space beside it."""
    return len(found) == len(wanted) and all(
        one.token_id == other.token_id and one.start <= other.start and other.stop <= one.stop
        for one, other in zip(found, wanted, strict=True)
    )


class _TokenLocator:
    """Finds the tokens that cover a range of characters by bisection over their offsets."""

    def __init__(self, offsets: Sequence[tuple[int, int]], shift: int) -> None:
        # Normalisers may map a character to tokens whose offsets step back by one; running maxima keep both lists
        # sorted without moving any boundary that matters.
        self._starts = list(accumulate((start for start, _ in offsets), max))
        self._stops = list(accumulate((stop for _, stop in offsets), max))
        self._shift = shift

    def __call__(self, characters: Span) -> Span:
        first = bisect_right(self._stops, characters.start)
        if characters.start == characters.stop:
            return Span(first + self._shift, first + self._shift)
        last = bisect_left(self._starts, characters.stop) - 1
        return Span(first + self._shift, max(last, first) + 1 + self._shift)


def _gaps(spans: Iterable[Span], length: int) -> Iterable[Span]:
    position = 0
    for span in spans:
        yield Span(position, span.start)
        position = span.stop
    yield Span(position, length)


def _private_copy(backend: Tokenizer) -> Tokenizer:
    """A copy without truncation and padding, so that neither can cut a prompt and callers keep their settings."""
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = False
    return copy


def _control_ids(tokenizer: Tokenizer) -> frozenset[int]:
    added = tokenizer.get_added_tokens_decoder()
    return frozenset(token_id for token_id, token in added.items() if token.content.strip())


def _without_control_tokens(tokenizer: Tokenizer, control_ids: frozenset[int]) -> Tokenizer:
    """A copy in which control tokens have names that no text contains; every id stays what it was."""
    state = json.loads(tokenizer.to_str())
    secret = secrets.token_hex(16)  # a name that can be guessed could be written into a document
    hidden = {}
    for entry in state["added_tokens"]:
        if entry["id"] in control_ids:
            # Renamed, not removed: the tokens that are kept would move to other ids.
            hidden[entry["content"]] = entry["content"] = f"{secret}{entry['id']}"
            entry.update(single_word=False, lstrip=False, rstrip=False, normalized=False)
    state["post_processor"] = None
    _rename(state["model"], hidden)
    return Tokenizer.from_str(json.dumps(state))


def _rename(model: dict[str, Any], hidden: dict[str, str]) -> None:
    """Rename vocabulary entries that spell a control token, so that no text can produce them; ids stay."""
    vocab = model["vocab"]
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    if isinstance(vocab, list):  # Unigram: a list of [piece, score]
        model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in vocab]
        return
    model["vocab"] = {hidden.get(piece, piece): token_id for piece, token_id in vocab.items()}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, hidden)]


def _touches(merge: str | list[str], hidden: dict[str, str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in hidden or right in hidden or left + right in hidden


def _prepend_never_behind_markers(pre_tokenizer: dict[str, Any] | None) -> None:
    if pre_tokenizer is None:
        return
    if pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme") == "first":
        pre_tokenizer["prepend_scheme"] = "never"
    for part in pre_tokenizer.get("pretokenizers", []):
        _prepend_never_behind_markers(part)
