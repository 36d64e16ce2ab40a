"""CAFE: both stages on planted attention, the bias against full matrices, and the baselines."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any, Final

import pytest
import torch

from qrcore.attention.gate import Gate
from qrcore.attention.read import Suffix, read_attention
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError, ScoreError
from qrcore.heads import Head
from qrcore.loading import load_method, load_scorer
from qrcore.methods.cafe import Cafe, CafeSettings, Variant, best_of_each
from qrcore.methods.share import GoldShare
from qrcore.models import LanguageModel, load_language_model, open_model
from qrcore.prompts import EMBEDDED
from qrcore.records import Document, Span
from qrcore.scoring import document_shares
from qrcore.tokens import PromptEncoder

SETTINGS: Final = CafeSettings(
    coarse_heads=(Head(1, 0), Head(1, 2), Head(0, 0)),
    fine_heads=(Head(2, 1), Head(1, 1), Head(3, 3)),
    coarse_count=2,
    coarse_top=2,
    fine_count=2,
    fine_top=1,
    max_new_tokens=5,
)
TEXTS: Final = (
    "The river Aline carries water from the mountains to the sea.",
    "Bees collect nectar from flowers in spring.",
    "The function splits a path into head and tail.",
    "Old Tamsin hid the key under the third stone of the mill bridge.",
    "A café in Harrow Bay opens at seven.",
)
DOCUMENTS: Final = tuple(Document(f"d{number}", text) for number, text in enumerate(TEXTS))
QUESTION: Final = "Where did old Tamsin hide the key?"


@cache
def _model() -> LanguageModel:
    return load_language_model(open_model("embedded"), device="cpu", dtype="float32")


def _cafe(settings: CafeSettings = SETTINGS) -> Cafe:
    return Cafe(settings, PromptEncoder(_model().decoder.tokenizer), EMBEDDED)


# Stages


def test_shares_are_masses_over_documents() -> None:
    attention = torch.tensor([[0.5, 0.1, 0.1, 0.2, 0.1], [1.0, 0.0, 0.0, 0.0, 0.0]])
    found = document_shares(attention, [Span(1, 3), Span(3, 4), Span(4, 5)])
    torch.testing.assert_close(found, torch.tensor([[0.4, 0.4, 0.2], [0.0, 0.0, 0.0]]))


def test_the_best_of_each_head_are_kept_and_the_best_of_all_stands_last() -> None:
    shares = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.0, 0.2, 0.7]])
    assert best_of_each(shares, 1) == (0, 3)
    assert best_of_each(shares, 2) == best_of_each(shares, 9) == (1, 2, 0, 3)
    assert best_of_each(shares[:, [0, 2, 3]], 2) == (1, 0, 2), "the middle one is in the top of the second head"
    assert best_of_each(torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.5, 0.1]]), 2) == (1, 0)
    assert best_of_each(torch.full((1, 3), 1 / 3), 2) == (1, 0), "equals: the first stands last"


def test_both_stages_by_hand() -> None:
    cafe, model = _cafe(), _model()
    made = cafe.prompt(model, QUESTION, DOCUMENTS)
    coarse = cafe.shares(model, QUESTION, DOCUMENTS, SETTINGS.coarse_heads[:2])
    assert coarse.shape == (2, 5)
    torch.testing.assert_close(coarse.sum(dim=1), torch.ones(2))
    assert made.shown == best_of_each(coarse, 2)
    shown = [DOCUMENTS[place] for place in made.shown]
    fine = cafe.shares(model, QUESTION, shown, SETTINGS.fine_heads[:2])
    assert made.steered == tuple(made.shown[place] for place in best_of_each(fine, 1))
    assert set(made.steered) <= set(made.shown)
    assert made.encoded == PromptEncoder(model.decoder.tokenizer).encode(EMBEDDED, QUESTION, shown)


def test_shares_read_the_questions_rows() -> None:
    encoded = PromptEncoder(_model().decoder.tokenizer).encode(EMBEDDED, QUESTION, DOCUMENTS)
    start = encoded.asking_span.start
    rows = Span(encoded.query_span.start - start, encoded.query_span.stop - start)
    (attention,) = read_attention(
        _model().decoder.model, encoded.ids[:start], [Suffix(encoded.ids[start:], rows)], [Head(1, 2)]
    )
    found = _cafe().shares(_model(), QUESTION, DOCUMENTS, [Head(1, 2)])
    torch.testing.assert_close(found, document_shares(attention, encoded.document_spans))


# Variants


def test_variants_show_what_they_say() -> None:
    made = {
        variant: _cafe().prompt(_model(), QUESTION, DOCUMENTS, variant, gold=(3,))
        for variant in ("cafe", "filter", "random_order", "full", "oracle")
    }
    assert made["full"].shown == (0, 1, 2, 3, 4) and made["oracle"].shown == (3,)
    assert made["filter"].shown == made["cafe"].shown
    assert sorted(made["random_order"].shown) == sorted(made["cafe"].shown)
    assert {name for name, one in made.items() if one.steered} == {"cafe", "random_order"}
    shuffled = {_cafe(replace(SETTINGS, seed=seed)).prompt(_model(), QUESTION, DOCUMENTS, "random_order").shown
                for seed in range(6)}  # fmt: skip
    assert len(shuffled) > 1


@pytest.mark.parametrize("rows", ["question", "question_and_answer"])
@pytest.mark.parametrize("inside", [False, True])
def test_the_bias_stands_on_the_steered_documents_from_the_questions_rows(rows: Any, inside: bool) -> None:
    cafe = _cafe(replace(SETTINGS, rows=rows, bias_inside_scale=inside))
    made = cafe.prompt(_model(), QUESTION, DOCUMENTS)
    (gate,) = cafe.gates(_model(), made)
    shape = _model().decoder.source.shape
    assert shape.head_dim and gate.mode == "bias" and len(set(gate.heads)) == shape.layers * shape.query_heads
    assert gate.keys == tuple(made.encoded.document_spans[made.shown.index(place)] for place in sorted(made.steered))
    assert gate.delta == pytest.approx(math.log(10) / (math.sqrt(shape.head_dim) if inside else 1))
    assert gate.queries is not None and gate.queries.start == made.encoded.query_span.start
    assert (gate.queries.stop == made.encoded.query_span.stop) == (rows == "question")


def test_answers_are_those_of_the_prompt_with_its_bias() -> None:
    cafe = _cafe(replace(SETTINGS, delta=8.0, rows="question_and_answer"))
    variants: tuple[Variant, ...] = ("cafe", "filter")
    for variant in variants:
        made = cafe.prompt(_model(), QUESTION, DOCUMENTS, variant)
        gates: tuple[Gate, ...] = cafe.gates(_model(), made)
        (expected,) = decode_greedy(_model().model, [made.encoded.ids], 5, _model().end_ids, gates=[gates])
        found = cafe.answer(_model(), QUESTION, DOCUMENTS, variant)
        assert (found.ids, found.ended) == (expected.ids, expected.ended)
        assert (found.shown, found.steered, found.prompt_tokens) == (made.shown, made.steered, len(made.encoded.ids))


def test_a_bias_of_nothing_is_the_filter_alone() -> None:
    found = [
        _cafe(replace(SETTINGS, delta=delta)).answer(_model(), QUESTION, DOCUMENTS, variant)  # type: ignore[arg-type]
        for delta, variant in ((0.0, "cafe"), (3.0, "filter"))
    ]
    assert found[0].ids == found[1].ids


def test_variants_together_are_the_variants_alone_and_one_that_fails_stays_alone() -> None:
    cafe, variants = _cafe(), ("cafe", "filter", "random_order", "full", "oracle")
    together = cafe.answers(_model(), QUESTION, DOCUMENTS, variants, gold=(3,))
    assert list(together) == list(variants)
    for variant, answer in together.items():
        assert answer == cafe.answer(_model(), QUESTION, DOCUMENTS, variant, gold=(3,))  # type: ignore[arg-type]
    without_gold = cafe.answers(_model(), QUESTION, DOCUMENTS, ("filter", "oracle"))
    assert without_gold["filter"] == together["filter"]
    assert isinstance(without_gold["oracle"], ScoreError) and without_gold["oracle"].code == "nothing_relevant"


def test_the_first_stage_reads_once_for_all_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    cafe, read = _cafe(), []
    shares = Cafe.shares
    monkeypatch.setattr(Cafe, "shares", lambda self, *given: read.append(len(given[2])) or shares(self, *given))
    cafe.answers(_model(), QUESTION, DOCUMENTS, ("cafe", "filter", "full"))
    kept = len(cafe.prompt(_model(), QUESTION, DOCUMENTS, "filter").shown)
    assert read == [5, kept, 5]


def test_heads_are_found_by_what_the_stages_read() -> None:
    """What ``detect --method share`` measures is the stages' own share of the relevant documents."""
    scorer = load_scorer("embedded", heads="all", query_span="query", prompt="embedded")
    reading = scorer.read(QUESTION, DOCUMENTS)
    values = GoldShare().head_values(reading, [0, 1, 0, 2, 0])
    shares = _cafe().shares(_model(), QUESTION, DOCUMENTS, reading.heads)
    torch.testing.assert_close(values, shares[:, 1] + shares[:, 3])
    assert GoldShare().head_values(reading, [0] * 5).tolist() == [0.0] * len(reading.heads)


# What is refused


def test_rows_that_cannot_be_answered_say_why() -> None:
    cafe, long = _cafe(), tuple(Document(str(number), "word " * 400) for number in range(12))
    cases: list[tuple[str, tuple[Document, ...], Variant, str]] = [
        (" ", DOCUMENTS, "cafe", "empty_query"),
        (QUESTION, (), "cafe", "no_candidates"),
        (QUESTION, DOCUMENTS, "oracle", "nothing_relevant"),
        (QUESTION, long, "cafe", "context_too_long"),
        (QUESTION, long, "full", "context_too_long"),
    ]
    for question, documents, variant, code in cases:
        with pytest.raises(ScoreError) as caught:
            cafe.answer(_model(), question, documents, variant)
        assert caught.value.code == code
    with pytest.raises(ConfigError, match="expected one of cafe, filter"):
        cafe.prompt(_model(), QUESTION, DOCUMENTS, "best")  # type: ignore[arg-type]
    first_stage = _cafe(replace(SETTINGS, fine_heads=()))
    assert first_stage.prompt(_model(), QUESTION, DOCUMENTS, "filter") == cafe.prompt(
        _model(), QUESTION, DOCUMENTS, "filter"
    )
    with pytest.raises(ConfigError, match="fine_heads: expected at least one head for cafe"):
        first_stage.prompt(_model(), QUESTION, DOCUMENTS)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"coarse_heads": ()}, "coarse_heads"),
        ({"fine_top": 0}, "fine_top"),
        ({"delta": math.inf}, "delta"),
        ({"rows": "all"}, "rows"),
    ],
)
def test_settings_that_nothing_can_be_answered_with(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(SETTINGS, **settings)


def test_settings_stand_with_results() -> None:
    build = load_method("cafe").build
    heads = {"coarse_heads": SETTINGS.coarse_heads, "fine_heads": SETTINGS.fine_heads}
    told = build(PromptEncoder(_model().decoder.tokenizer), EMBEDDED, **heads, coarse_count=2, fine_count=2).settings
    assert told["coarse_heads"] == ["1-0", "1-2"] and told["fine_heads"] == ["2-1", "1-1"]
    assert told["delta"] == math.log(10) and told["bias_inside_scale"] is False
