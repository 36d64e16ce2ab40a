"""Parity with the official QRHead code on every golden case, in both families."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from qrcore import Document
from qrcore.contracts.scorer import Reading
from qrcore.prompts import FORMATS
from qrcore.tokens import PromptEncoder, SpecialTokens
from tests.qrcore.golden import (
    FAMILIES,
    FOLDER,
    HEAD_SETS,
    TOLERANCE,
    GoldenCase,
    golden_array,
    golden_cases,
    golden_scorer,
)

FORMAT_NAMES = {"llama": "qrhead-llama3", "qwen2": "qrhead-qwen2"}


CASES = [case for family in FAMILIES for case in golden_cases(family).values()]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.family}-{case.id}")


def cases_but(*left_out: str) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if case.id not in left_out]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: f"{case.family}-{case.id}")


def test_all_sixteen_cases_are_there() -> None:
    assert len(CASES) == 2 * 16
    assert [case.id for case in CASES if case.noise_only] == ["null_query"] * 2


@every_case
def test_prompt_text(case: GoldenCase) -> None:
    assert FORMATS[FORMAT_NAMES[case.family]].render(case.query, case.documents).text == case.prompt


@every_case
def test_tokens_and_spans(case: GoldenCase) -> None:
    encoder, prompt = _encoder(case, "parse"), FORMATS[FORMAT_NAMES[case.family]]
    asked = encoder.encode(prompt, case.query, case.documents)
    null = encoder.encode(prompt, "N/A", case.documents)
    assert asked.ids == case.token_ids
    assert null.ids == case.null_token_ids
    assert asked.document_spans == case.document_spans
    assert asked.asking_span == case.asking_span
    assert null.asking_span == case.null_asking_span


@every_case
@pytest.mark.parametrize("head_set", HEAD_SETS)
def test_scores(case: GoldenCase, head_set: str) -> None:
    scores = golden_scorer(case.family, head_set).score(case.query, case.documents)
    expected = [case.scores[head_set][document.doc_id] for document in case.documents]
    assert scores == pytest.approx(expected, rel=0, abs=TOLERANCE)


@cases_but("null_query")  # its scores are rounding noise
@pytest.mark.parametrize("head_set", HEAD_SETS)
def test_document_order(case: GoldenCase, head_set: str) -> None:
    ranking = golden_scorer(case.family, head_set).rank(case.query, case.documents)
    expected = sorted(case.scores[head_set], key=lambda doc_id: -case.scores[head_set][doc_id])
    assert [document.doc_id for document in ranking.documents] == expected


@every_case
def test_scores_per_head(case: GoldenCase) -> None:
    scores = golden_scorer(case.family, "full").score_heads(case.query, case.documents)
    assert scores.shape == case.per_head.shape
    deviation = (scores - case.per_head).abs()
    for entry in case.near_cut:
        deviation[entry] = 0.0
    assert float(deviation.max()) <= TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_raw_attention(family: str) -> None:
    case, scorer = golden_cases(family)["basic_two"], golden_scorer(family, "full")
    reading = scorer.read(case.query, case.documents)
    for ours, name in ((reading.query_attention, "raw_query"), (reading.null_attention, "raw_null")):
        theirs = golden_array(f"basic_two/{family}/{name}").flatten(0, 1)[:, : ours.shape[1]]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("procedure", ["lme", "beir"])
def test_detection_scores_per_head(family: str, procedure: str) -> None:
    detection = json.loads((FOLDER / "detection.json").read_text(encoding="utf-8"))
    orders = dict(detection["expected"][family]["beir_order"]) if procedure == "beir" else {}
    for question in detection["data"]:
        documents = _detection_documents(question)
        order = orders.get(question["idx"], list(documents))
        shown = [documents[doc_id] for doc_id in order]
        in_file_order = [order.index(doc_id) for doc_id in documents]
        scores = golden_scorer(family, "full").score_heads(question["question"], shown)[in_file_order]
        clear = _clear_of_cuts(golden_scorer(family, "full").read(question["question"], shown))[in_file_order]
        expected = golden_array(f"detect/{question['idx']}/{procedure}/{family}")
        assert clear.float().mean() > 0.99
        torch.testing.assert_close(scores[clear], expected[clear], rtol=0, atol=TOLERANCE)


@cases_but("special_text")
def test_text_mode_changes_nothing_without_special_strings(case: GoldenCase) -> None:
    encoded = _encoder(case, "text").encode(FORMATS[FORMAT_NAMES[case.family]], case.query, case.documents)
    assert encoded.ids == case.token_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_text_mode_keeps_control_tokens_out_of_documents(family: str) -> None:
    case = golden_cases(family)["special_text"]
    tokenizer = golden_scorer(family, "subset").model.tokenizer
    control = set(tokenizer.get_added_vocab().values())
    parsed = _encoder(case, "parse").encode(FORMATS[FORMAT_NAMES[family]], case.query, case.documents)
    plain = _encoder(case, "text").encode(FORMATS[FORMAT_NAMES[family]], case.query, case.documents)
    inside = {i for span in plain.document_spans for i in plain.ids[span.start : span.stop]}
    assert control & {i for span in parsed.document_spans for i in parsed.ids[span.start : span.stop]}
    assert not control & inside
    assert sum(i in control for i in plain.ids) < sum(i in control for i in parsed.ids)


def _encoder(case: GoldenCase, mode: SpecialTokens) -> PromptEncoder:
    return PromptEncoder(golden_scorer(case.family, "subset").model.tokenizer, mode)


def _detection_documents(question: dict[str, Any]) -> dict[str, Document]:
    # Both official procedures strip the text of each document first, not the title.
    return {d["idx"]: Document(d["idx"], d["paragraph_text"].strip(), d.get("title")) for d in question["paragraphs"]}


def _clear_of_cuts(reading: Reading) -> Tensor:
    """``[doc, layer, head]``: False where rounding decides whether a token is cut off (``near_cut`` of the cases)."""
    difference = (reading.query_attention - reading.null_attention).double().reshape(4, 8, -1)
    clear = []
    for span in reading.document_spans:
        tokens = difference[..., span.start : span.stop]
        cut = tokens.mean(dim=-1) - 2 * tokens.std(dim=-1)
        clear.append((tokens - cut[..., None]).abs().amin(dim=-1) > 1e-7)
    return torch.stack(clear)
