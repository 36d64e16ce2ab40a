"""The tokenizer of the embedded model: small, lower-casing, and the same for a word wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count, repeat
from string import ascii_lowercase, digits

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, PAD, USER, END, ASSISTANT = "<s>", "<pad>", "<user>", "<end>", "<assistant>"
SPECIAL_TOKENS = (PAD, BOS, USER, END, ASSISTANT)
CONTINUATION = "##"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}" + USER + "{{ message['content'] }}" + END + "{% endif %}"
    "{% if message['role'] == 'assistant' %}" + ASSISTANT + "{{ message['content'] }}" + END + "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)

# Only ASCII letters form words: a character that the vocabulary lacks then always stands alone, where it can
# be spelled in bytes (inside a word the bytes of the continuation mark would be spelled too).
# The marks [1] to [64] of documents are one token each, so that attention finds a document's number in one step.
_WORDS = Regex(r"\n\n|\[(?:[1-9]|[1-5][0-9]|6[0-4])\]|[a-z]+|[0-9]{1,4}|\S")
_PLAIN_MARKS = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\u2212": "-"}
_HIGHEST_INDEX = 64
_INDEX_REPEATS = 2000
_PRINTABLE_ASCII = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
# Every byte of UTF-8 text that is not printable ASCII.
_SPELLING_BYTES = [*range(0x20), *range(0x7F, 0xC0), *range(0xC2, 0xF5)]


def train_tokenizer(texts: Iterable[str], size: int = 4096) -> PreTrainedTokenizerFast:
    """Train a byte-pair encoding on `texts` and return it with the special tokens and chat template of the model.

    A word has the same first token after a space, a newline or a bracket, because white space makes no token (a blank
    line does) and continuations carry the mark; heads that match tokens need that. Offsets refer to the text as given,
    although the tokenizer lower-cases it and strips accents. Characters outside the vocabulary become byte tokens.
    """
    byte_tokens = [f"<0x{byte:02X}>" for byte in _SPELLING_BYTES]
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix=CONTINUATION, byte_fallback=True))
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_WORDS, behavior="removed", invert=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(byte_tokens),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=[*_PRINTABLE_ASCII, "\n"],
        limit_alphabet=len(_PRINTABLE_ASCII) + 32,
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_indices(texts), trainer)
    return _wrap(_with_byte_tokens(tokenizer, byte_tokens))


def _normalizer() -> normalizers.Normalizer:
    marks = [normalizers.Replace(fancy, plain) for fancy, plain in _PLAIN_MARKS.items()]
    # Decomposed before lower-cased: some capitals lower to a letter and a combining mark.
    return normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), *marks])


def _with_indices(texts: Iterable[str]) -> Iterator[str]:
    # Document indices should be one token each, however rare their numbers are in the text.
    indices = " ".join(f"[{index}]" for index in range(1, _HIGHEST_INDEX + 1)) + "\n\n"
    yield from repeat(indices, _INDEX_REPEATS)
    # Every letter and digit must be known inside words too: there is no other token for it there.
    yield " ".join(f"{kind[0]}{character}" for kind in (ascii_lowercase, digits) for character in kind)
    yield from texts


def _with_byte_tokens(tokenizer: Tokenizer, byte_tokens: list[str]) -> Tokenizer:
    # The trainer knows no tokens without merges besides special ones, and special ones would be parsed in text.
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary.update(zip(byte_tokens, count(len(vocabulary))))
    state["decoder"] = None
    complete = Tokenizer.from_str(json.dumps(state))
    complete.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.WordPiece(prefix=CONTINUATION, cleanup=True)]
    )
    complete.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, complete.token_to_id(BOS))]
    )
    return complete


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
