"""Small tokenizers of the kinds that real decoders use, trained on the spot."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS: Final = "<bos>"
#: The markers of the "embedded" prompt format, so that it can be used with every tokenizer of this file.
MARKERS: Final = ("<user>", "<end>", "<assistant>")
_CONTROL: Final = (BOS, *MARKERS)

#: Added tokens that documents must never produce: special or not, greedy about white space, normalised, part of one
#: another, with letters outside ASCII, plain words.
TRICKY: Final = (
    AddedToken("<tool_call>", special=False, normalized=False),
    AddedToken("<left>", lstrip=True, special=True, normalized=False),
    AddedToken("<right>", rstrip=True, special=True, normalized=False),
    AddedToken("<both>", lstrip=True, rstrip=True, special=False, normalized=False),
    AddedToken("<Normal>", normalized=True, special=False),
    AddedToken("<word>", single_word=True, special=False, normalized=False),
    AddedToken("<end><end>", special=True, normalized=False),
    AddedToken("<\uff5cfin\u2581de\u2581texte\uff5c>", special=True, normalized=False),
    AddedToken("<caf\u00e9>", special=False, normalized=True),
    AddedToken("river", special=False, normalized=False),
    AddedToken("] ", special=False, normalized=False),
)

#: White space only: layout that stays, inside documents too.
LAYOUT: Final = AddedToken("\n\n\n", special=False, normalized=False)

_CORPUS: Final = (
    "[1] Rivers\nA river carries water from the mountains to the sea. [2] Bees\nBees collect nectar from flowers.",
    "Here are some paragraphs: Find the paragraphs that answer the query. Query: Where does a river flow? N/A",
    "Please find information that are relevant to the following query in the paragraphs above.",
    "The café in Zürich opens at 7:30, naïve visitors pay 12 €; résumé and façade are French words.",
    "Столица России — Москва. 東京は日本の首都です。 مرحبا بالعالم שלום 😀 👩‍👩‍👧 e\u0301 o\u0308 n\u0303 ﬁ Å",
    "def path_split(name):\n    head, tail = name.rsplit('/', 1)\n    return head, tail  # 0 1 2 3 4 5 6 7 8 9",
    "<user> <end> <assistant> <tool_call> <left> <right> <both> <Normal> <word> <bos> <unk> <s> | \\ { } @ ^ ~ ` $ % &",
    "river/river/river/river, rivers/rivers",
)


@cache
def byte_level(
    *, nfc: bool = False, greedy_markers: bool = False, tricky: bool = True, control: tuple[str, ...] = _CONTROL
) -> Tokenizer:
    """GPT-2 and Llama 3 style; with ``nfc`` Qwen style; ``greedy_markers`` swallow white space around
    (Phi-3); without ``tricky`` those of ``control`` are the only added tokens."""
    tokenizer = Tokenizer(models.BPE())
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _with_added_tokens(tokenizer, control, greedy_markers=greedy_markers, tricky=tricky)


@cache
def metaspace_bpe(scheme: str) -> Tokenizer:
    """SentencePiece BPE with byte fallback, control tokens inside the vocabulary: Llama 2 and Mistral style."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = _byte_fallback_decoder(decoders.Metaspace(prepend_scheme=scheme))
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=_vocabulary_tokens(), show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _with_added_tokens(tokenizer)


@cache
def legacy_llama() -> Tokenizer:
    """SentencePiece BPE as first converted: a normaliser that prepends and replaces, no pre-tokeniser."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    replace = decoders.Replace("▁", " ")
    tokenizer.decoder = decoders.Sequence(
        [replace, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=_vocabulary_tokens(), show_progress=False)
    tokenizer.train_from_iterator([word for text in _CORPUS for word in text.split()], trainer)
    return _with_added_tokens(tokenizer)


@cache
def unigram(*, byte_fallback: bool) -> Tokenizer:
    """SentencePiece Unigram: Gemma and T5 style; without ``byte_fallback`` unknown characters become ``<unk>``."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(Regex("\u00a0"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=500, special_tokens=_vocabulary_tokens(), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    if byte_fallback:
        tokenizer.model = models.Unigram(_pieces(tokenizer), 0, byte_fallback=True)
        tokenizer.decoder = _byte_fallback_decoder(decoders.Metaspace(prepend_scheme="always"))
    return _with_added_tokens(tokenizer)


def wrapped(
    tokenizer: Tokenizer, *, adds_bos: bool = False, chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """As a transformers tokenizer; a private copy, so that tests can change it."""
    backend = Tokenizer.from_str(tokenizer.to_str())
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS)
    fast.chat_template = chat_template
    return fast


def save_tokenizer(folder: Path, tokenizer: Tokenizer, *, adds_bos: bool) -> None:
    wrapped(tokenizer, adds_bos=adds_bos).save_pretrained(folder)


def _with_added_tokens(
    tokenizer: Tokenizer, control: tuple[str, ...] = _CONTROL, *, greedy_markers: bool = False, tricky: bool = True
) -> Tokenizer:
    tokenizer = _without_added_bytes(tokenizer)
    for text in control:
        greedy = greedy_markers and text != BOS
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False, lstrip=greedy, rstrip=greedy)])
    for token in (*TRICKY, LAYOUT) if tricky else ():
        tokenizer.add_tokens([token])
    return tokenizer


def _without_added_bytes(tokenizer: Tokenizer) -> Tokenizer:
    # Training puts the byte pieces among the added tokens; converted SentencePiece models have them as plain pieces.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [entry for entry in state["added_tokens"] if not entry["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


def _vocabulary_tokens() -> list[str]:
    return ["<unk>", *_CONTROL, "<tool_call>", *_bytes()]


def _bytes() -> list[str]:
    return [f"<0x{value:02X}>" for value in range(256)]


def _byte_fallback_decoder(last: decoders.Decoder) -> decoders.Decoder:
    return decoders.Sequence([decoders.ByteFallback(), last])


def _pieces(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
