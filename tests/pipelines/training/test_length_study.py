"""Lists of growing length: nested, full, and judged like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pipelines.training import length_study
from pipelines.training.judged import JudgedList, JudgedSet
from pipelines.training.length_study import length_curve
from pipelines.training.orders import Order, scorer_order
from qrcore.contracts.scorer import Scorer
from qrcore.models import load_tokenizer, open_model
from qrcore.prompts import EMBEDDED
from qrcore.tokens import PromptEncoder
from tests.pipelines.training.collection import DEV_IDS, plain_rows, read

BUDGETS = (130, 190, 260)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return read(tmp_path_factory.mktemp("length"), plain_rows(size=3))


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[JudgedList]]:
    """The lists that were scored, one entry for each budget."""
    seen: list[Sequence[JudgedList]] = []

    def remember(lists: Sequence[JudgedList], scorer: Scorer) -> tuple[Order, int]:
        seen.append(lists)
        return scorer_order(lists, scorer)

    monkeypatch.setattr(length_study, "scorer_order", remember)
    return seen


def tokens(entry: JudgedList) -> int:
    encoder = PromptEncoder(load_tokenizer(open_model("embedded")))
    return len(encoder.encode(EMBEDDED, entry.query, entry.documents).ids)


def test_lists_grow_by_adding_and_fill_their_budget(judged: JudgedSet, scored: list[Sequence[JudgedList]]) -> None:
    points = length_curve("embedded", judged, BUDGETS)
    assert [point.tokens for point in points] == list(BUDGETS)
    assert len(scored) == 3
    shown = {f"\n\n[1] {d.title}\n{d.text}" for entry in judged.lists for d in entry.documents}
    largest = max(len(ids) for ids in load_tokenizer(open_model("embedded"))(sorted(shown))["input_ids"])
    for smaller, larger in pairwise(scored):
        for one, other in zip(smaller, larger, strict=True):
            assert {d.doc_id for d in one.documents} < {d.doc_id for d in other.documents}
    for budget, lists in zip(BUDGETS, scored, strict=True):
        assert [entry.query_id for entry in lists] == list(DEV_IDS)
        for entry in lists:
            assert set(entry.relevance) <= {d.doc_id for d in entry.documents}
            assert budget - largest < tokens(entry) <= budget + 3


def test_own_documents_come_before_others(judged: JudgedSet, scored: list[Sequence[JudgedList]]) -> None:
    length_curve("embedded", judged, BUDGETS)
    own = {entry.query_id: {d.doc_id for d in entry.documents} for entry in judged.lists}
    for lists in scored:
        for entry in lists:
            shown = {d.doc_id for d in entry.documents}
            assert shown <= own[entry.query_id] or own[entry.query_id] <= shown


def test_the_relevant_document_may_stand_anywhere(judged: JudgedSet, scored: list[Sequence[JudgedList]]) -> None:
    length_curve("embedded", judged, BUDGETS)
    assert len({entry.relevant_places for entry in scored[-1]}) >= 3
    pairs = [tuple(d.doc_id for d in entry.documents if d.doc_id in ("d1", "d2")) for entry in scored[-1]]
    assert {pair for pair in pairs if len(pair) == 2} == {("d1", "d2"), ("d2", "d1")}, "no order for all queries"


def test_a_point_tells_documents_quality_and_chance(judged: JudgedSet, scored: list[Sequence[JudgedList]]) -> None:
    first, _, last = length_curve("embedded", judged, BUDGETS)
    assert last.queries == len(DEV_IDS)
    assert last.documents == sum(len(entry.documents) for entry in scored[-1]) / len(DEV_IDS)
    assert last.documents > first.documents
    assert last.random < first.random < 1.0
    assert last.heads.mean > last.random
    assert length_curve("embedded", judged, BUDGETS)[2] == last


def test_relevant_documents_that_a_list_lacks_are_not_added(
    judged: JudgedSet, scored: list[Sequence[JudgedList]]
) -> None:
    every = {d.doc_id for entry in judged.lists for d in entry.documents}
    changed = []
    for entry in judged.lists:
        shown = {d.doc_id for d in entry.documents}
        changed.append(replace(entry, missed=frozenset(sorted(every - shown)[:5])))
    length_curve("embedded", replace(judged, lists=tuple(changed)), (200,))
    for entry in scored[0]:
        assert not entry.missed & {d.doc_id for d in entry.documents}


def test_points_may_rest_on_different_queries_and_tell_how_many(
    judged: JudgedSet, scored: list[Sequence[JudgedList]]
) -> None:
    # Of q0 the text that answers is long; q3 has no other documents than its own three.
    every = {d.doc_id for entry in judged.lists for d in entry.documents}
    changed = []
    for entry in judged.lists:
        documents = tuple(replace(d, text=d.text * 6) if d.doc_id == "d0" else d for d in entry.documents)
        missed = frozenset(every - {d.doc_id for d in documents}) if entry.query_id == "q3" else frozenset()
        changed.append(replace(entry, documents=documents, missed=missed))
    points = length_curve("embedded", replace(judged, lists=tuple(changed)), (110, 190, 260))
    always = set(DEV_IDS) - {"q0", "q3"}
    asked = [{entry.query_id for entry in entries} for entries in scored]
    assert asked == [always | {"q3"}, always, always | {"q0"}]
    assert [point.queries for point in points] == [5, 4, 5]


def test_budgets_that_cannot_be_filled_or_read_are_left_out(judged: JudgedSet) -> None:
    # Twelve texts fill no 1,000 tokens; 60 tokens hold no relevant document and another; 9,000 exceed the model.
    assert length_curve("embedded", judged, (60, 1000, 9000)) == ()


def test_a_budget_beyond_the_model_is_left_out(judged: JudgedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        max_tokens = 150

        def score(self, query: str, docs: Sequence[object]) -> list[float]:
            return [0.0] * len(docs)

    monkeypatch.setattr(length_study, "open_scorer", lambda *_, **__: Short())
    assert [point.tokens for point in length_curve("embedded", judged, BUDGETS)] == [130]


def test_documents_are_counted_once_each(judged: JudgedSet, tmp_path: Path) -> None:
    growing = length_study._grow("embedded", judged.part("dev"), length_study._pool(judged), seed=0)
    for entry in growing:
        ids = [document.doc_id for document in entry.documents]
        assert len(set(ids)) == len(ids) == 12
        whole = replace(entry.entry, documents=entry.documents)
        assert abs(entry.lengths[-1] - tokens(whole)) <= 3
