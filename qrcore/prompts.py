"""Prompt formats: what stands around the documents and the query, and where each part lies in the text.

Character spans come from building the text, never from searching it, so a document that quotes the instruction or
another document cannot be mistaken for it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from jinja2 import TemplateError

from qrcore.errors import PromptError
from qrcore.records import Document, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INSTRUCTION: Final = "Please find information that are relevant to the following query in the paragraphs above."
_SENTINEL: Final = "QRBATCHUSERCONTENT"
_TEMPLATE_DATE: Final = "26 Jul 2024"
# Put in front of a template: functions handed over as settings arrive in it as text, and cannot be called.
_FIXED_CLOCK: Final = f"{{% macro strftime_now(format) %}}{_TEMPLATE_DATE}{{% endmacro %}}"


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """The fixed text of a prompt.

    ``prefix opening (separator [i] title\\ntext)* separator instruction separator query_label query suffix``;
    one BOS token is put in front where the tokenizer adds one by itself or ``begins_with_bos`` asks for it.
    """

    name: str
    prefix: str
    opening: str
    separator: str
    instruction: str
    query_label: str
    suffix: str
    begins_with_bos: bool = False

    @property
    def hash(self) -> str:
        """SHA-256 of all fields, hexadecimal."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def render(self, query: str, documents: Sequence[Document]) -> RenderedPrompt:
        """The prompt of ``query`` over ``documents`` in this order, with character spans."""
        builder = _TextBuilder()
        builder.add(self.prefix + self.opening)
        document_spans = tuple(
            self._add_document(builder, number, document) for number, document in enumerate(documents, start=1)
        )
        builder.add(self.separator)
        instruction_start = builder.length
        builder.add(self.instruction + self.separator + self.query_label)
        query_span = builder.add_content(query)
        builder.add(self.suffix)
        return RenderedPrompt(
            text=builder.text(),
            document_spans=document_spans,
            asking_span=Span(instruction_start, builder.length),
            query_span=query_span,
            content_spans=tuple(builder.content_spans),
        )

    def block(self, number: int, document: Document) -> str:
        """What a document adds to a prompt in which it is the one of this number."""
        builder = _TextBuilder()
        self._add_document(builder, number, document)
        return builder.text()

    def _add_document(self, builder: _TextBuilder, number: int, document: Document) -> Span:
        builder.add(self.separator)
        start = builder.length
        builder.add(f"[{number}] ")
        if document.title is not None:
            builder.add_content(document.title)
            builder.add("\n")
        builder.add_content(document.text)
        return Span(start, builder.length)


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt's text and the character spans of its parts.

    ``document_spans`` include the ``[i] `` marker and the title; ``asking_span`` runs from the instruction to the
    end; ``query_span`` is the query alone; ``content_spans`` are the parts that users wrote.
    """

    text: str
    document_spans: tuple[Span, ...]
    asking_span: Span
    query_span: Span
    content_spans: tuple[Span, ...]


class _TextBuilder:
    def __init__(self) -> None:
        self._parts: list[str] = []
        self.length = 0
        self.content_spans: list[Span] = []

    def add(self, text: str) -> None:
        self._parts.append(text)
        self.length += len(text)

    def add_content(self, text: str) -> Span:
        span = Span(self.length, self.length + len(text))
        self.add(text)
        self.content_spans.append(span)
        return span

    def text(self) -> str:
        return "".join(self._parts)


# The two prompts of the official QRHead code (princeton-pli/QRHead at 7a668e7): published settings, to the letter.
LLAMA3: Final = PromptFormat(
    name="qrhead-llama3",
    prefix="<|start_header_id|>user<|end_header_id|>",
    opening=" Here are some paragraphs:",
    separator=" \n\n",
    instruction=_INSTRUCTION,
    query_label="Query: ",
    suffix="<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
)
QWEN2: Final = PromptFormat(
    name="qrhead-qwen2",
    prefix="<|im_start|>user",
    opening=" Here are some paragraphs:",
    separator="\n\n",
    instruction=_INSTRUCTION,
    query_label="Query: ",
    suffix="<|im_end|>\n<|im_start|>assistant",
)
EMBEDDED: Final = PromptFormat(
    name="embedded",
    prefix="<user>",
    opening="",
    separator="\n\n",
    instruction="Find the paragraphs that answer the query.",
    query_label="Query: ",
    suffix="<end><assistant>",
)
#: For base models without a chat template: no markers at all.
PLAIN: Final = PromptFormat(
    name="plain",
    prefix="",
    opening="Here are some paragraphs:",
    separator="\n\n",
    instruction=_INSTRUCTION,
    query_label="Query: ",
    suffix="\n\nAnswer:",
)

_MARKERS: Final[dict[str, tuple[str, ...]]] = {
    LLAMA3.name: ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    QWEN2.name: ("<|im_start|>", "<|im_end|>"),
    EMBEDDED.name: ("<user>", "<end>", "<assistant>"),
}
FORMATS: Final[dict[str, PromptFormat]] = {f.name: f for f in (LLAMA3, QWEN2, EMBEDDED, PLAIN)}


def resolve_prompt(name: str, tokenizer: PreTrainedTokenizerBase, recorded: PromptFormat | None = None) -> PromptFormat:
    """The format that ``name`` stands for with this tokenizer.

    ``auto``: the head set's ``recorded`` format; else the family format whose every marker is one token of the
    tokenizer; else ``chat``, derived from its chat template; else ``plain``. Raises :class:`PromptError`.
    """
    if name == "chat":
        return chat_format(tokenizer)
    if name != "auto":
        return _named_format(name, tokenizer)
    if recorded is not None:
        return recorded
    for candidate, markers in _MARKERS.items():
        if all(_is_one_token(marker, tokenizer) for marker in markers):
            return FORMATS[candidate]
    return chat_format(tokenizer) if tokenizer.chat_template else PLAIN


def _named_format(name: str, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    if name not in FORMATS:
        known = ", ".join(["auto", "chat", *FORMATS])
        raise PromptError(f"prompt: expected one of {known}; got {name!r}. Choose one of these names.")
    split = [marker for marker in _MARKERS.get(name, ()) if not _is_one_token(marker, tokenizer)]
    if split:
        raise PromptError(
            f"prompt {name!r}: expected each marker to be one token of this tokenizer; {', '.join(split)} is not. "
            "Use prompt=auto or prompt=chat for this model."
        )
    return FORMATS[name]


def _is_one_token(marker: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    return len(tokenizer.encode(marker, add_special_tokens=False)) == 1 and marker in tokenizer.get_added_vocab()


def chat_format(tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
    """A format from the tokenizer's own chat template: one user turn, generation prompt on, thinking off.

    Rendered once with a sentinel as the user's content and a fixed date, so that the same tokenizer gives the same
    prompt on every day. Raises :class:`PromptError` if there is no template or the sentinel does not appear once.
    """
    if not tokenizer.chat_template:
        raise PromptError(
            "prompt 'chat': expected a tokenizer with a chat template; this one has none. Use prompt=plain, or add "
            "a chat_template to its tokenizer_config.json."
        )
    rendered = _render_template(tokenizer, [{"role": "user", "content": _SENTINEL}])
    if rendered.count(_SENTINEL) != 1:
        raise PromptError(
            f"prompt 'chat': expected the template to print the user's content once; it came "
            f"{rendered.count(_SENTINEL)} times. Use prompt=plain or a named format."
        )
    prefix, suffix = rendered.split(_SENTINEL)
    bos = tokenizer.bos_token
    begins_with_bos = bool(bos) and prefix.startswith(bos)
    if begins_with_bos:  # the encoder adds exactly one, whoever asks for it
        prefix = prefix[len(bos) :]
    return PromptFormat(
        name="chat",
        prefix=prefix,
        opening="Here are some paragraphs:",
        separator="\n\n",
        instruction=_INSTRUCTION,
        query_label="Query: ",
        suffix=suffix,
        begins_with_bos=begins_with_bos,
    )


def follow_up_frame(tokenizer: PreTrainedTokenizerBase, prompt: PromptFormat) -> tuple[str, str]:
    """What stands between an answer and the user's next turn, and behind that turn, up to where the model answers.

    Of the tokenizer's own chat template where there is one, else of the marks of ``prompt``. Raises
    :class:`PromptError` for a template that does not print three turns, each once.
    """
    if not tokenizer.chat_template:
        return f"{prompt.separator}{prompt.prefix}", prompt.suffix
    turns = [f"{_SENTINEL}{number}" for number in range(3)]
    roles = ("user", "assistant", "user")
    rendered = _render_template(
        tokenizer, [{"role": role, "content": turn} for role, turn in zip(roles, turns, strict=True)]
    )
    parts = re.split("|".join(turns), rendered)
    if re.findall("|".join(turns), rendered) != turns:
        raise PromptError(
            "follow-up: expected a chat template that prints a user's turn, an answer and another turn, each once. Use "
            "a model with such a template."
        )
    return parts[2], parts[3]


def _render_template(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> str:
    try:
        rendered = tokenizer.apply_chat_template(
            list(map(dict, messages)),
            chat_template=_FIXED_CLOCK + tokenizer.get_chat_template(),
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
            date_string=_TEMPLATE_DATE,
        )
    except TemplateError as error:
        raise PromptError(
            f"prompt 'chat': expected a template that renders one user message; it refuses ({error}). "
            "Use prompt=plain or a named format."
        ) from error
    return str(rendered)
