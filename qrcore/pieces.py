"""What stands in the prompts of one request: its documents, or pieces of them, and which of them fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from qrcore.encoding import EncodedRequest, RequestEncoder
from qrcore.errors import ScoreError
from qrcore.records import Document, RankRequest
from qrcore.splitting import by_sentences
from qrcore.windows import ContextSettings, Item, cut_windows

_TOO_LONG: Final = ("context_too_long", "sliding_window_exceeded")
# No tokenizer that models come with makes tokens of more characters on average, but of texts that are mostly layout.
_MOST_CHARACTERS_PER_TOKEN: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Items in context order, and their request in tokens."""

    items: tuple[Item, ...]
    encoded: EncodedRequest


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """The items of one request. ``texts``: each as a document; ``tokens``: about what it takes of a prompt;
    ``cut_tokens``: of documents that were cut, by their place; ``room``: tokens of a prompt that are left for items;
    ``whole``: nothing was split or cut."""

    request: RankRequest
    encoder: RequestEncoder
    texts: dict[Item, Document]
    tokens: dict[Item, int]
    cut_tokens: dict[int, int]
    room: int

    @classmethod
    def of(cls, request: RankRequest, encoder: RequestEncoder, settings: ContextSettings) -> Pieces:
        """Raises :class:`ScoreError` for a query that leaves no room."""
        cut_tokens: dict[int, int] = {}
        texts = {
            Item(place, piece): part
            for place, document in enumerate(request.documents)
            for piece, part in enumerate(_parts(place, document, encoder, settings, cut_tokens))
        }
        tokens = {item: encoder.document_tokens(part) for item, part in texts.items()}
        return cls(request, encoder, texts, tokens, cut_tokens, encoder.room(request.query))

    @property
    def whole(self) -> bool:
        """Whether every item is a document as it was given."""
        return not self.cut_tokens and len(self.texts) == len(self.request.documents)

    def together(self, items: Sequence[Item]) -> Prompt | None:
        """All ``items`` in one prompt, None if they do not fit."""
        if sum(self.tokens[item] for item in items) > self.room:
            return None
        everything = self.whole and len(items) == len(self.texts)
        documents = self.request.documents if everything else tuple(self.texts[item] for item in items)
        encoded = encode_if_it_fits(self.encoder, replace(self.request, documents=documents))
        return Prompt(tuple(items), encoded) if encoded else None

    def windows(self, items: Sequence[Item]) -> list[Prompt]:
        """``items`` in several prompts that fit. Raises :class:`ScoreError` if no prompt holds two of them."""
        for item in items:
            if self.tokens[item] > self.room:
                raise self._too_long(item)
        spans = cut_windows([self.tokens[item] for item in items], self.room)
        prompts = [prompt for start, stop in spans for prompt in self._fitting(items[start:stop])]
        if all(len(prompt.items) == 1 for prompt in prompts):
            raise ScoreError(
                "context_too_long",
                f"candidates: expected at least two of {len(items)} to fit one prompt beside each other (about "
                f"{self.room} tokens), none do. Set contexts.long_documents to split_and_pool with a smaller "
                "max_document_tokens, or shorten them.",
                stage="tokenise",
            )
        return prompts

    def _fitting(self, items: Sequence[Item]) -> Iterator[Prompt]:
        """One prompt, or more of halves: what was counted apart may come to more together."""
        if (prompt := self.together(items)) is not None:
            yield prompt
        elif len(items) == 1:
            raise self._too_long(items[0])
        else:
            middle = len(items) // 2
            yield from self._fitting(items[:middle])
            yield from self._fitting(items[middle:])

    def _too_long(self, item: Item) -> ScoreError:
        return ScoreError(
            "context_too_long",
            f"candidate {self.request.documents[item.document].doc_id!r}: expected at most about {self.room} tokens, "
            f"for a prompt of its own beside the query, got {self.tokens[item]}. Set contexts.long_documents to "
            "split_and_pool, or shorten it.",
            stage="tokenise",
        )


def encode_as_it_is(
    request: RankRequest, encoder: RequestEncoder, settings: ContextSettings
) -> tuple[EncodedRequest | None, bool]:
    """The request as it was given, None if it does not fit; and whether a document seems long enough to be split or
    cut. Raises :class:`ScoreError` for a request that cannot be answered whatever its length."""
    characters = sum(len(document.text) + len(document.title or "") for document in request.documents)
    if characters > _MOST_CHARACTERS_PER_TOKEN * encoder.limits.max_tokens:
        return None, True  # not worth the time to try; if it fits after all, that is found out from its parts
    encoded = encode_if_it_fits(encoder, request)
    if encoded is None or settings.long_documents == "whole":
        return encoded, False
    longest = max(span.stop - span.start for span in encoded.document_spans)
    return encoded, longest > (settings.max_document_tokens or 0)


def encode_if_it_fits(encoder: RequestEncoder, request: RankRequest) -> EncodedRequest | None:
    """The request in tokens, None if it is too long. Raises :class:`ScoreError` for other reasons."""
    try:
        return encoder.encode(request)
    except ScoreError as error:
        if error.code not in _TOO_LONG:
            raise
        return None


def _parts(
    place: int, document: Document, encoder: RequestEncoder, settings: ContextSettings, cut_tokens: dict[int, int]
) -> list[Document]:
    """The document, or its pieces, or what is left of it."""
    longest = settings.max_document_tokens
    if settings.long_documents == "whole" or longest is None:
        return [document]
    offsets = encoder.text_offsets(document.text)
    if len(offsets) <= longest:
        return [document]
    if settings.long_documents == "truncate_documents":
        cut_tokens[place] = len(offsets) - longest
        return [replace(document, text=document.text[: offsets[longest][0]])]
    spans = by_sentences(lambda text: offsets, longest)(document.text)
    width = len(str(len(spans)))
    return [
        # Ids of one prompt differ, and a piece's is not one that a document has.
        replace(document, doc_id=f"{document.doc_id}\0{number:0{width}}", text=document.text[start:stop])
        for number, (start, stop) in enumerate(spans)
    ]
