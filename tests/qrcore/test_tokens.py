"""Token ids and spans, with every kind of tokenizer that real decoders use."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qrcore import Document
from qrcore.errors import PromptError
from qrcore.prompts import EMBEDDED, FORMATS, PromptFormat, chat_format
from qrcore.records import Span
from qrcore.tokens import EncodedPrompt, PromptEncoder, SpecialTokens
from tests.qrcore import tiny
from tests.qrcore.golden import FOLDER

_TINY: Final[dict[str, Callable[[], Tokenizer]]] = {
    "byte-level": tiny.byte_level,
    "byte-level-nfc": lambda: tiny.byte_level(nfc=True),
    "byte-level-greedy-markers": lambda: tiny.byte_level(greedy_markers=True),
    "metaspace-first": lambda: tiny.metaspace_bpe("first"),
    "metaspace-always": lambda: tiny.metaspace_bpe("always"),
    "legacy-llama": tiny.legacy_llama,
    "unigram": lambda: tiny.unigram(byte_fallback=False),
    "unigram-byte-fallback": lambda: tiny.unigram(byte_fallback=True),
}
_GOLDEN: Final = {"golden-llama": "qrhead-llama3", "golden-qwen2": "qrhead-qwen2"}
KINDS: Final = (*_TINY, *_GOLDEN)
every_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def backend(kind: str) -> Tokenizer:
    if kind in _TINY:
        return _TINY[kind]()
    return Tokenizer.from_file(str(FOLDER / "models" / kind.removeprefix("golden-") / "tokenizer.json"))


@cache
def encoder(kind: str, mode: SpecialTokens = "text") -> PromptEncoder:
    return PromptEncoder(tiny.wrapped(backend(kind)), mode)


def prompt_of(kind: str) -> PromptFormat:
    return FORMATS[_GOLDEN[kind]] if kind in _GOLDEN else EMBEDDED


@cache
def added_tokens(kind: str) -> dict[int, str]:
    return {i: token.content for i, token in backend(kind).get_added_tokens_decoder().items()}


@cache
def control_tokens(kind: str) -> dict[int, str]:
    """All added tokens but those of white space and the one that stands for unknown characters."""
    return {i: name for i, name in added_tokens(kind).items() if name.strip() and name != "<unk>"}


def control_ids(kind: str, encoded: EncodedPrompt) -> list[int]:
    return [i for i in encoded.ids if i in control_tokens(kind)]


_WORDS: Final = (
    *("A stream", "café", "e\u0301", "x\u0323\u0301", "ö", "Å", "ﬁ", "東京", "שלום", "😀", "👩‍👩‍👧"),
    *(" ", "  ", "\n", "\n\n", "\u00a0", "12", "."),
)


def harmless() -> st.SearchStrategy[str]:
    """Text in which no added token's string occurs or can arise at an edge."""
    lists = st.lists(st.sampled_from(_WORDS) | st.text(max_size=6), max_size=8)
    return lists.map("".join).filter(lambda text: not set("<>|]") & set(text) and "river" not in text)


def hostile(kind: str) -> st.SearchStrategy[str]:
    """Text that contains strings of added tokens, whole or in part, wherever."""
    whole = st.sampled_from(sorted({*control_tokens(kind).values(), "\n\n\n", "<unk>"}))
    space = st.sampled_from(["", " ", "\n"])
    parts = st.builds(lambda name, cut: name[cut:] if cut >= 0 else name[:cut], whole, st.integers(-5, 5))
    pieces = whole | st.builds("{}{}{}".format, space, whole, space) | parts | whole.map("\0{}\0".format)
    return st.lists(pieces | st.text(max_size=5), max_size=7).map("".join)


def documents(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[Document]]:
    pairs = st.lists(st.tuples(texts, st.none() | texts), max_size=3)
    return pairs.map(lambda all_: [Document(str(i), text, title) for i, (text, title) in enumerate(all_)])


def without_contents(docs: Sequence[Document]) -> list[Document]:
    return [Document(d.doc_id, "", None if d.title is None else "") for d in docs]


@every_kind
@settings(max_examples=40)
@given(data=st.data())
def test_no_added_token_arises_from_texts(kind: str, data: st.DataObject) -> None:
    docs, query = data.draw(documents(hostile(kind))), data.draw(hostile(kind))
    prompt = prompt_of(kind)
    encoded = encoder(kind).encode(prompt, query, docs)
    blank = encoder(kind).encode(prompt, "", without_contents(docs))
    assert control_ids(kind, encoded) == control_ids(kind, blank)


@every_kind
def test_each_added_token_at_each_place(kind: str) -> None:
    prompt = prompt_of(kind)
    for name in control_tokens(kind).values():
        for text in (name, f"a {name}", f"{name} a", f"a{name}a", f" {name}\n", name * 2):
            for doc, query in ((Document("1", text), "x"), (Document("1", "x", text), "x"), (Document("1", "x"), text)):
                encoded = encoder(kind).encode(prompt, query, [doc])
                blank = encoder(kind).encode(prompt, "", without_contents([doc]))
                assert control_ids(kind, encoded) == control_ids(kind, blank), (name, text)


@every_kind
@settings(max_examples=40)
@given(data=st.data())
def test_text_and_parse_agree_without_special_strings(kind: str, data: st.DataObject) -> None:
    docs, query = data.draw(documents(harmless())), data.draw(harmless())
    prompt = prompt_of(kind)
    assert encoder(kind).encode(prompt, query, docs) == encoder(kind, "parse").encode(prompt, query, docs)


def spellable(kind: str) -> st.SearchStrategy[str]:
    """Any text; for a tokenizer that cannot spell every character, text of the characters it knows."""
    if kind != "unigram":
        return harmless() | hostile(kind)
    vocabulary = backend(kind).get_vocab()
    return st.text(sorted(piece for piece in vocabulary if len(piece) == 1 and piece != "▁"))


@every_kind
@settings(max_examples=40)
@given(data=st.data())
def test_spans_cover_their_texts_and_no_more(kind: str, data: st.DataObject) -> None:
    texts = spellable(kind)
    docs, query = data.draw(documents(texts)), data.draw(texts)
    encoded = encoder(kind).encode(prompt_of(kind), query, docs)
    for number, (document, span) in enumerate(zip(docs, encoded.document_spans, strict=True), start=1):
        title = "" if document.title is None else document.title + "\n"
        _check_span(kind, encoded, span, f"[{number}] {title}{document.text}")
    _check_span(kind, encoded, encoded.query_span, query)
    asked = encoded.ids[encoded.asking_span.start :]
    assert spelled(kind, asked).strip().startswith(canonical(kind, prompt_of(kind).instruction))
    assert encoded.asking_span.stop == len(encoded.ids)


def _check_span(kind: str, encoded: EncodedPrompt, span: Span, text: str) -> None:
    ids = encoded.ids[span.start : span.stop]
    wanted = canonical(kind, text)
    assert wanted in spelled(kind, ids)
    if text and text == text.strip():
        assert wanted not in spelled(kind, ids[1:])
        assert wanted not in spelled(kind, ids[:-1])


def canonical(kind: str, text: str) -> str:
    """The text that a tokenizer's tokens spell for ``text``; white space counts where the tokenizer is exact on it."""
    if kind in ("byte-level-nfc", "golden-qwen2"):
        text = unicodedata.normalize("NFC", text)
    if kind in _BYTE_LEVEL:
        return text
    return "".join(text.replace("▁", " ").split())


def spelled(kind: str, ids: Sequence[int]) -> str:
    """What the tokens stand for, byte by byte, without the tokenizer's own decoder."""
    added = added_tokens(kind)
    spelling = b""
    for token_id in ids:
        token = str(backend(kind).id_to_token(token_id))
        if token_id in added:
            spelling += token.encode()
        elif kind in _SENTENCEPIECE:
            spelling += _piece_bytes(token)
        else:
            spelling += bytes(_BYTE_OF[letter] for letter in token)
    return canonical(kind, spelling.decode(errors="replace"))


def _piece_bytes(piece: str) -> bytes:
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.encode()


def _byte_letters() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF: Final = _byte_letters()
#: These keep all white space; others add spaces of their own, or let markers swallow some.
_BYTE_LEVEL: Final = ("byte-level", "byte-level-nfc", "golden-llama", "golden-qwen2")
_SENTENCEPIECE: Final = ("metaspace-first", "metaspace-always", "legacy-llama", "unigram", "unigram-byte-fallback")


@every_kind
@settings(max_examples=30)
@given(data=st.data())
def test_the_query_never_changes_the_documents(kind: str, data: st.DataObject) -> None:
    """The query and the null query share one computed prefix: it must be the same tokens."""
    docs = data.draw(documents(harmless() | hostile(kind)))
    asked = encoder(kind).encode(prompt_of(kind), data.draw(harmless() | hostile(kind)), docs)
    null = encoder(kind).encode(prompt_of(kind), "N/A", docs)
    shared = null.asking_span.start
    assert asked.asking_span.start == shared
    assert asked.ids[:shared] == null.ids[:shared]
    assert asked.document_spans == null.document_spans


_WITH_BOS: Final = "{{ bos_token }}<user>{{ messages[0]['content'] }}<end><assistant>"
_WITHOUT_BOS: Final = _WITH_BOS.removeprefix("{{ bos_token }}")


@pytest.mark.parametrize("kind", _TINY)
@pytest.mark.parametrize("text", ["Text.", "<bos> Text <bos>", "<bos>"])
@pytest.mark.parametrize(
    ("adds_bos", "template", "expected"),
    [(True, _WITH_BOS, 1), (True, _WITHOUT_BOS, 1), (False, _WITH_BOS, 1), (False, _WITHOUT_BOS, 0)],
)
def test_one_bos_whoever_adds_it(kind: str, text: str, adds_bos: bool, template: str, expected: int) -> None:
    tokenizer = tiny.wrapped(backend(kind), adds_bos=adds_bos, chat_template=template)
    encoded = PromptEncoder(tokenizer).encode(chat_format(tokenizer), text, [Document("1", text)])
    assert [i for i in encoded.ids if i == tokenizer.bos_token_id] == [tokenizer.bos_token_id] * expected
    assert (encoded.ids[0] == tokenizer.bos_token_id) == bool(expected)
    assert spelled(kind, encoded.ids[encoded.document_spans[0].start :]).strip().startswith("[1]")


def test_white_space_tokens_stay_in_documents() -> None:
    layout = backend("byte-level").token_to_id("\n\n\n")
    for text in ("a\n\n\nb", "a\n\n\nb <tool_call>"):
        encoded = encoder("byte-level").encode(EMBEDDED, "x", [Document("1", text)])
        assert encoded.ids.count(layout) == 1


def test_an_added_token_that_is_a_common_word_is_spelled_in_pieces() -> None:
    word = backend("byte-level").token_to_id("river")
    assert word is not None and word < 400, "a word that merging reaches: otherwise this test shows nothing"
    encoded = encoder("byte-level").encode(EMBEDDED, "river", [Document("1", "river")])
    assert word not in encoded.ids
    assert word in encoder("byte-level", "parse").encode(EMBEDDED, "x", [Document("1", "river")]).ids


def test_characters_outside_the_vocabulary_stay_unknown() -> None:
    unknown = backend("unigram").token_to_id("<unk>")
    encode = encoder("unigram").encode
    assert encode(EMBEDDED, "x", [Document("1", "☂")]).ids.count(unknown) > encode(
        EMBEDDED, "x", [Document("1", "a")]
    ).ids.count(unknown)
    assert encode(EMBEDDED, "", [Document("1", "<unk>")]).ids.count(unknown) == 0


def test_truncation_and_padding_cannot_change_a_prompt() -> None:
    tokenizer = tiny.wrapped(backend("byte-level"))
    tokenizer.backend_tokenizer.enable_truncation(max_length=5)
    tokenizer.backend_tokenizer.enable_padding(length=500, pad_id=0)
    docs = [Document("1", "A stream of <tool_call> water " * 5)]
    encoded = PromptEncoder(tokenizer).encode(EMBEDDED, "x", docs)
    assert encoded == encoder("byte-level").encode(EMBEDDED, "x", docs)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(PromptError, match="character offsets"):
        PromptEncoder(object())  # type: ignore[arg-type]
