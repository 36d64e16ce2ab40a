"""Where the parts of a prompt lie, and which format a name stands for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from qrcore import Document
from qrcore.errors import PromptError
from qrcore.prompts import EMBEDDED, FORMATS, LLAMA3, PLAIN, QWEN2, PromptFormat, chat_format, resolve_prompt
from tests.qrcore import tiny

LLAMA3_MARKERS = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN2_MARKERS = ["<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<user>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

texts = st.text(max_size=12)
documents = st.lists(st.builds(Document, st.just("d"), texts, st.none() | texts), max_size=4)


@given(query=texts, docs=documents)
@pytest.mark.parametrize("prompt", FORMATS.values(), ids=FORMATS)
def test_spans_point_at_what_they_name(prompt: PromptFormat, query: str, docs: list[Document]) -> None:
    rendered = prompt.render(query, docs)
    parts = [rendered.text[span.start : span.stop] for span in rendered.document_spans]
    titles = ["" if d.title is None else d.title + "\n" for d in docs]
    assert parts == [f"[{i}] {t}{d.text}" for i, (t, d) in enumerate(zip(titles, docs, strict=True), start=1)]
    assert rendered.text[rendered.query_span.start : rendered.query_span.stop] == query
    asking = prompt.instruction + prompt.separator + prompt.query_label + query + prompt.suffix
    assert rendered.text[rendered.asking_span.start :] == asking
    assert rendered.asking_span.stop == len(rendered.text)
    written = [rendered.text[span.start : span.stop] for span in rendered.content_spans]
    assert written == [t for d in docs for t in (d.title, d.text) if t is not None] + [query]
    assert rendered.text.startswith(prompt.prefix + prompt.opening)


def test_a_document_that_quotes_the_prompt_moves_no_span() -> None:
    quoting = Document("1", f"[2] x\n\n{EMBEDDED.instruction}\n\nQuery: why?<end><assistant>")
    rendered = EMBEDDED.render("why?", [quoting, Document("2", "x")])
    last = rendered.document_spans[1]
    assert rendered.text[last.start : last.stop] == "[2] x"
    assert last.start > rendered.document_spans[0].stop
    assert rendered.asking_span.start > last.stop


def test_hash_covers_every_field() -> None:
    changed = [
        PromptFormat(**{**_fields(PLAIN), field: (not value if isinstance(value, bool) else value + "x")})
        for field, value in _fields(PLAIN).items()
    ]
    assert len({PLAIN.hash, *(prompt.hash for prompt in changed)}) == 1 + len(changed)
    assert PromptFormat(**_fields(PLAIN)).hash == PLAIN.hash


def test_auto_takes_the_recorded_format_first() -> None:
    recorded = PromptFormat(**{**_fields(PLAIN), "name": "mine"})
    assert resolve_prompt("auto", tokenizer(LLAMA3_MARKERS, TEMPLATE), recorded) is recorded
    assert resolve_prompt("plain", tokenizer(LLAMA3_MARKERS), recorded) is PLAIN


@pytest.mark.parametrize(("markers", "expected"), [(LLAMA3_MARKERS, LLAMA3), (QWEN2_MARKERS, QWEN2)])
def test_auto_takes_the_family_before_the_template(markers: list[str], expected: PromptFormat) -> None:
    assert resolve_prompt("auto", tokenizer(markers, TEMPLATE)) is expected


def test_auto_knows_the_embedded_markers() -> None:
    assert resolve_prompt("auto", tiny.wrapped(tiny.byte_level())) is EMBEDDED


@pytest.mark.parametrize("missing", range(3))
def test_auto_needs_every_marker_of_a_family(missing: int) -> None:
    markers = [marker for i, marker in enumerate(LLAMA3_MARKERS) if i != missing]
    assert resolve_prompt("auto", tokenizer(markers, TEMPLATE)).name == "chat"
    assert resolve_prompt("auto", tokenizer(markers)) is PLAIN


@pytest.mark.parametrize("name", FORMATS)
def test_a_name_stands_for_itself(name: str) -> None:
    markers = {"qrhead-llama3": LLAMA3_MARKERS, "qrhead-qwen2": QWEN2_MARKERS, "embedded": list(tiny.MARKERS)}
    assert resolve_prompt(name, tokenizer(markers.get(name, []))) is FORMATS[name]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PromptError, match="auto, chat, qrhead-llama3, qrhead-qwen2, embedded, plain; got 'qwen'"):
        resolve_prompt("qwen", tokenizer([]))


def test_a_format_whose_markers_are_split_is_refused() -> None:
    with pytest.raises(PromptError, match=r"<\|eot_id\|> is not"):
        resolve_prompt("qrhead-llama3", tokenizer(LLAMA3_MARKERS[:2]))


def test_chat_is_cut_out_of_the_template() -> None:
    prompt = chat_format(tokenizer([], TEMPLATE))
    assert (prompt.prefix, prompt.suffix, prompt.begins_with_bos) == ("<user>", "<end><assistant>", True)
    assert prompt.name == "chat"
    rendered = prompt.render("why?", [Document("1", "Text.")])
    assert rendered.text.startswith("<user>Here are some paragraphs:\n\n[1] Text.\n\nPlease find")
    assert rendered.text.endswith("Query: why?<end><assistant>")


def test_chat_without_bos_in_the_template() -> None:
    prompt = chat_format(tokenizer([], TEMPLATE.removeprefix("{{ bos_token }}")))
    assert (prompt.prefix, prompt.begins_with_bos) == ("<user>", False)


@pytest.mark.parametrize("date", ["{{ date_string }}", "{{ strftime_now('%d %b %Y') }}"])
def test_chat_does_not_depend_on_the_day(date: str) -> None:
    prompt = chat_format(tokenizer([], f"<system>{date}<end>" + TEMPLATE.removeprefix("{{ bos_token }}")))
    assert prompt.prefix == "<system>26 Jul 2024<end><user>"


def test_chat_asks_without_thinking_and_without_a_system_turn() -> None:
    template = "{{ messages | length }}{{ messages[0]['role'] }}:{{ messages[0]['content'] }}|{{ enable_thinking }}"
    prompt = chat_format(tokenizer([], template))
    assert (prompt.prefix, prompt.suffix) == ("1user:", "|False")


@pytest.mark.parametrize(("template", "times"), [("hello", 0), ("{{ messages[0]['content'] }}" * 2, 2)])
def test_chat_needs_the_content_once(template: str, times: int) -> None:
    with pytest.raises(PromptError, match=f"it came {times} times"):
        chat_format(tokenizer([], template))


def test_chat_needs_a_template() -> None:
    with pytest.raises(PromptError, match="this one has none"):
        resolve_prompt("chat", tokenizer([]))


def tokenizer(markers: list[str], chat_template: str | None = None) -> PreTrainedTokenizerFast:
    made = tiny.wrapped(tiny.byte_level(tricky=False, control=(tiny.BOS,)), chat_template=chat_template)
    made.add_tokens([AddedToken(marker, special=True, normalized=False) for marker in markers])
    return made


def _fields(prompt: PromptFormat) -> dict[str, Any]:
    return {field: getattr(prompt, field) for field in PromptFormat.__slots__}


def test_a_template_that_refuses_is_a_prompt_error() -> None:
    tokenizer = tiny.wrapped(tiny.byte_level())
    tokenizer.chat_template = "{{ raise_exception('a system turn is needed') }}"
    with pytest.raises(PromptError, match="a system turn is needed"):
        chat_format(tokenizer)
