"""Values of heads on labelled examples: against the official code, and against plain Python."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest
import pytrec_eval
import torch
from hypothesis import given
from hypothesis import strategies as st

from qrcore import Document
from qrcore.contracts.scorer import Reading
from qrcore.errors import ConfigError
from qrcore.heads import Head
from qrcore.methods import load
from qrcore.methods.core import CoRe
from qrcore.methods.ndcg import PerHeadNDCG, ndcg
from qrcore.methods.qrscore import QRScore
from qrcore.records import Span
from qrcore.scoring import calibrate
from tests.qrcore.golden import FAMILIES, FOLDER, golden_scorer
from tests.qrcore.reference import slow_pool

LME_TOLERANCE = 1e-6


@cache
def _golden() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "detection.json").read_text(encoding="utf-8"))
    return found


def _documents(question: dict[str, Any], order: list[str] | None = None) -> list[Document]:
    # The official detection strips the text of each document, not its title.
    given = [Document(p["idx"], p["paragraph_text"].strip(), p.get("title")) for p in question["paragraphs"]]
    by_id = {document.doc_id: document for document in given}
    return [by_id[doc_id] for doc_id in order] if order else given


def _mean_values(family: str, detector: QRScore | PerHeadNDCG, orders: dict[str, list[str]] | None) -> dict[str, float]:
    scorer = golden_scorer(family, "full")
    values = []
    for question in _golden()["data"]:
        documents = _documents(question, orders and orders[question["idx"]])
        grades = {idx: 1 for idx in question["gt_docs"]} if orders is None else _golden()["qrels"][question["idx"]]
        reading = scorer.read(question["question"], documents)
        values.append(detector.head_values(reading, [grades.get(d.doc_id, 0) for d in documents]).double())
    heads = map(str, reading.heads)
    return dict(zip(heads, torch.stack(values).mean(dim=0).tolist(), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_qrscore_ranks_heads_as_the_official_code_does(family: str) -> None:
    expected = _golden()["expected"][family]["lme"]
    found = _mean_values(family, QRScore(), None)
    assert sorted(found, key=lambda head: -found[head]) == [head for head, _ in expected]
    assert found == pytest.approx(dict(expected), rel=0, abs=LME_TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_ndcg_ranks_heads_as_the_official_code_does(family: str) -> None:
    expected = _golden()["expected"][family]["beir"]
    found = _mean_values(family, PerHeadNDCG(), _golden()["expected"][family]["beir_order"])
    rounded = {head: round(value, 5) for head, value in found.items()}
    ordered = sorted(rounded, key=lambda head: (-rounded[head], [int(part) for part in head.split("-")]))
    assert ordered == [head for head, _ in expected]
    assert rounded == dict(expected)


grades = st.lists(st.integers(0, 3), min_size=1, max_size=15)


@given(grades, st.randoms(use_true_random=False), st.integers(1, 12))
def test_ndcg_is_trec_evals(relevance: list[int], random: Any, cutoff: int) -> None:
    scores = random.sample(range(100), len(relevance))  # no two alike: trec_eval orders equal ones by name
    judged = {f"d{place}": grade for place, grade in enumerate(relevance)}
    run = {f"d{place}": float(score) for place, score in enumerate(scores)}
    evaluator = pytrec_eval.RelevanceEvaluator({"q": judged}, {f"ndcg_cut.{cutoff}"})
    expected = evaluator.evaluate({"q": run})["q"][f"ndcg_cut_{cutoff}"]
    assert ndcg(torch.tensor([scores], dtype=torch.float32), relevance, cutoff).item() == pytest.approx(expected)


def test_equal_scores_stay_in_the_order_given() -> None:
    assert ndcg(torch.zeros(1, 3), [1, 0, 0], 10).item() == 1.0
    assert ndcg(torch.zeros(1, 3), [0, 0, 1], 10).item() == pytest.approx(1 / math.log2(4))
    assert ndcg(torch.zeros(1, 3), [0, 0, 1], 2).item() == 0.0


def _reading(tokens: list[list[list[float]]], null: float = 0.0) -> Reading:
    """A reading of heads whose documents have these attention values, one token of no document before each."""
    spans, start = [], 0
    for document in tokens[0]:
        spans.append(Span(start + 1, start + 1 + len(document)))
        start += 1 + len(document)
    attention = torch.tensor([[value for document in head for value in (9.0, *document)] for head in tokens])
    return Reading(
        heads=tuple(Head(0, head) for head in range(len(tokens))),
        query_attention=attention,
        null_attention=torch.full_like(attention, null),
        token_ids=tuple(range(attention.shape[1])),
        document_spans=tuple(spans),
        prompt_order=tuple(range(len(spans))),
        prompt_tokens=attention.shape[1],
    )


attention = st.integers(0, 64).map(lambda n: n / 64)


@st.composite
def readings(draw: st.DrawFn) -> tuple[Reading, list[int]]:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    heads = [[[draw(attention) for _ in range(n)] for n in lengths] for _ in range(draw(st.integers(1, 3)))]
    return _reading(heads, null=draw(attention)), [draw(st.integers(0, 2)) for _ in lengths]


@given(readings())
def test_qrscore_sums_the_relevant_documents(given_: tuple[Reading, list[int]]) -> None:
    reading, relevance = given_
    tokens = calibrate(reading.query_attention, reading.null_attention).double()
    for head, value in enumerate(QRScore().head_values(reading, relevance).tolist()):
        pooled = [slow_pool(tokens[head, span.start : span.stop].tolist()) for span in reading.document_spans]
        if all(margin > 1e-9 for _, margin in pooled):
            expected = sum(score for (score, _), grade in zip(pooled, relevance, strict=True) if grade)
            assert value == pytest.approx(expected, abs=1e-6)


@given(readings(), st.sampled_from([0.05, 0.5, 2.0]))
def test_core_is_the_mean_softmax_of_a_relevant_document_against_the_others(
    given_: tuple[Reading, list[int]], temperature: float
) -> None:
    reading, relevance = given_
    for head, value in enumerate(CoRe(temperature).head_values(reading, relevance).tolist()):
        sums = [float(reading.query_attention[head, s.start : s.stop].sum()) for s in reading.document_spans]
        powers = [math.exp(total / temperature) for total in sums]
        others = sum(power for power, grade in zip(powers, relevance, strict=True) if not grade)
        shares = [power / (power + others) for power, grade in zip(powers, relevance, strict=True) if grade]
        assert value == pytest.approx(sum(shares) / len(shares) if shares else 0.0, abs=1e-6)


def test_core_at_a_low_temperature_neither_overflows_nor_reads_the_null_query() -> None:
    reading = _reading([[[0.9], [0.2], [0.1]], [[0.1], [0.2], [0.9]]], null=0.7)
    assert CoRe(1e-4).head_values(reading, [1, 0, 0]).tolist() == pytest.approx([1.0, 0.0])
    even = _reading([[[0.5], [0.5], [0.5], [0.5]]])
    assert CoRe().head_values(even, [0, 1, 0, 0]).item() == pytest.approx(0.25)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_core_wants_a_temperature_above_0(temperature: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        CoRe(temperature)


@pytest.mark.parametrize("name", ["qrscore", "ndcg", "core"])
def test_without_a_relevant_document_a_head_is_worth_nothing(name: str) -> None:
    detector = load(name).build()
    assert detector.head_values(_reading([[[0.5, 0.1], [0.2, 0.3]]]), [0, 0]).tolist() == [0.0]


@pytest.mark.parametrize("name", ["qrscore", "ndcg", "core"])
def test_settings_build_the_same_detector_again(name: str) -> None:
    build = load(name).build
    changed = {key: value * 2 for key, value in build().settings.items()}
    assert build(**changed).settings == changed
    assert load(name).needs.labels
