"""Several answers to one row: from several contexts, and of a method that chooses its documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from pipelines.answer_worker import AnswerWorker
from pipelines.answers.contexts import WholeContexts
from pipelines.answers.judging import Judge, ToJudge
from pipelines.answers.rows import answer_schema
from pipelines.answers.settings import AnswererSettings, AnswerSettings, CafeOptions, variant_names
from pipelines.answers.variants import ContextVariants, ReaderVariants, Variants
from pipelines.schemas import INPUT_SCHEMA
from pipelines.units import UnitRows
from qrcore.contracts.answerer import Answer, AnswererIdentity, Question, ReadAnswer, ReaderIdentity
from qrcore.errors import ConfigError, ScoreError
from qrcore.matching import query_digest
from qrcore.records import DETECTION_QUERY, Document
from tests.shards import row

CARRIED = [pa.field("answers", pa.list_(pa.string()))]
SCHEMA = pa.schema([*INPUT_SCHEMA, *CARRIED])


class Counter:
    """Says how many documents it was shown; keeps the questions."""

    def __init__(self) -> None:
        self.calls: list[list[Question]] = []

    @property
    def identity(self) -> AnswererIdentity:
        return AnswererIdentity(None, "w", "s", "p", "float32", "cpu", 100)

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]:
        self.calls.append(list(questions))
        return [Answer(str(len(one.documents)), 10, 1, True) for one in questions]


class LastTwo:
    """A reader that shows the last two documents, worst first, and pushes the last; keeps what it was told is right."""

    def __init__(self, known: frozenset[str] = frozenset()) -> None:
        self.gold: list[tuple[int, ...]] = []
        self._known = known

    @property
    def reader_identity(self) -> ReaderIdentity:
        return ReaderIdentity({}, {}, (), self._known)

    def read(
        self, question: str, documents: Sequence[Document], variants: Sequence[str], gold: Sequence[int] = ()
    ) -> dict[str, ReadAnswer | ScoreError]:
        self.gold.append(tuple(gold))
        last = len(documents) - 1
        found: dict[str, ReadAnswer | ScoreError] = {
            name: ReadAnswer(Answer(name, 10, 1, True), (last - 1, last), (last,)) for name in variants
        }
        if not gold and "oracle" in found:
            found["oracle"] = ScoreError("nothing_relevant", "none", stage="score")
        return found


def answered(variants: Variants, rows: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    keep = more.pop("keep_documents", False)
    unit = UnitRows(pa.Table.from_pylist(rows, schema=SCHEMA), "in.parquet", 4, more.pop("duplicates", frozenset()))
    table, _ = AnswerWorker(variants, answer_schema(CARRIED, keep_documents=keep), **more).answer(unit)
    assert table.schema.names[: len(answer_schema(()))] == answer_schema(()).names
    return list(table.to_pylist())


def test_several_contexts_are_answered_together_and_stay_apart() -> None:
    counter = Counter()
    contexts = {"full": WholeContexts(), "oracle": WholeContexts({"a": {"d2": 1}})}
    out = answered(ContextVariants(counter, contexts, None), [row("a"), row("b")])
    assert len(counter.calls) == 1 and len(counter.calls[0]) == 3
    assert [(one["answer"], one["documents"]) for one in out] == [("4", ["d0", "d1", "d2", "d3"])] * 2
    (oracle,), (missing,) = (one["baselines"] for one in out)
    assert (oracle["name"], oracle["answer"], oracle["documents"], oracle["error"]) == ("oracle", "1", ["d2"], None)
    assert missing["answer"] is None and missing["error"]["code"] == "nothing_relevant"
    assert out[1]["error"] is None


def test_a_method_tells_what_it_showed_and_pushed() -> None:
    reader = LastTwo()
    variants = ReaderVariants(reader, WholeContexts(), ("cafe", "oracle"), {"a": {"d1": 1, "d3": 2, "d0": 0}})
    out = answered(variants, [row("a"), row("b"), row("bad", candidates=[])], keep_documents=True)
    assert reader.gold == [(1, 3), ()]
    assert (out[0]["answer"], out[0]["documents"], out[0]["steered"]) == ("cafe", ["d2", "d3"], ["d3"])
    assert [one["doc_id"] for one in out[0]["candidates"]] == ["d2", "d3"]
    assert all(one["text"] and one["score"] is None and one["rank"] is None for one in out[0]["candidates"])
    assert out[1]["baselines"][0]["error"]["code"] == "nothing_relevant" and out[1]["error"] is None
    assert out[2]["error"]["code"] == "no_candidates" and out[2]["candidates"] is None


def test_answers_to_queries_that_the_heads_were_found_on_are_flagged() -> None:
    seen = row("a")
    reader = LastTwo(frozenset({query_digest("a", seen["query"])}))
    out = answered(ReaderVariants(reader, WholeContexts(), ("cafe",), None), [seen, row("b")])
    assert [one["flags"] for one in out] == [[DETECTION_QUERY], []]


def test_gold_answers_of_a_file_are_for_rows_without() -> None:
    rows = [{**row("a"), "answers": ["4"]}, {**row("b"), "answers": None}, {**row("c"), "answers": []}, row("d")]
    variants = ContextVariants(Counter(), {"full": WholeContexts()}, None)
    out = answered(variants, rows, gold={"a": ["no"], "b": ["4"], "c": ["x"]})
    assert [one["gold"] for one in out] == [["4"], ["4"], ["x"], None]
    assert [one["exact_match"] for one in out] == [1.0, 1.0, 0.0, None]


class YesToFour(Counter):
    """A judge that says yes to the answer 4, no to 1, and neither to others."""

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]:
        self.calls.append(list(questions))
        said = {"Answered: 4": "Yes, it does.", "Answered: 1": "no"}
        texts = [next((say for text, say in said.items() if text in str(one.text)), "hm") for one in questions]
        return [Answer(text, 10, 1, True) for text in texts]


def test_a_judge_is_asked_of_every_answer_with_gold() -> None:
    judge = YesToFour()
    contexts = {"full": WholeContexts(), "oracle": WholeContexts({"a": {"d2": 1}, "b": {"d0": 1, "d1": 1}})}
    rows = [{**row("a"), "answers": ["four"]}, {**row("b"), "answers": ["5"]}, row("c"), row("a")]
    variants = ContextVariants(Counter(), contexts, None)
    out = answered(variants, rows, judge=Judge(judge), duplicates=frozenset({7}))
    assert len(judge.calls[0]) == 4
    asked = judge.calls[0][0].text or ""
    assert rows[0]["query"] in asked and "Right answer: four" in asked and "Answered: 4" in asked
    assert [one["judged"] for one in out] == [True, True, None, None]
    assert [one["baselines"][0]["judged"] for one in out[:2]] == [False, None]


def test_a_judge_that_cannot_be_asked_says_nothing() -> None:
    class Broken(Counter):
        def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]:
            return [ScoreError("context_too_long", "long", stage="tokenise") for _ in questions]

    assert Judge(Broken()).verdicts([ToJudge("q", ["g"], "a")]) == [None]


def settings(**changes: Any) -> AnswerSettings:
    given: dict[str, Any] = {"run": None, "source": "s", "context": "auto", "template": None, "carry": "all"}
    return AnswerSettings(**{**given, "answerer": AnswererSettings("m"), **changes})


@pytest.mark.parametrize(
    ("changes", "bundles", "expected"),
    [
        ({}, True, ("bundle",)),
        ({}, False, ("full",)),
        ({"baselines": ("full", "oracle", "bundle"), "qrels": "q"}, True, ("bundle", "full", "oracle")),
        ({"context": "oracle", "qrels": "q", "baselines": ("full",)}, False, ("oracle", "full")),
        ({"cafe": CafeOptions(fine_heads="1-0")}, False, ("cafe", "full", "filter", "random_order")),
        ({"cafe": CafeOptions(fine_heads="1-0"), "qrels": "q", "baselines": ("oracle",)}, False, ("cafe", "oracle")),
        ({"cafe": CafeOptions(), "qrels": "q"}, False, ("filter", "full", "oracle")),
        ({"cafe": CafeOptions(), "baselines": ()}, False, ("filter",)),
    ],
)
def test_variants_are_the_runs_own_and_what_it_is_compared_with(
    changes: dict[str, Any], bundles: bool, expected: tuple[str, ...]
) -> None:
    assert variant_names(settings(**changes), bundles=bundles) == expected


@pytest.mark.parametrize(
    ("changes", "bundles", "said"),
    [
        ({"baselines": ("filter",)}, False, "baselines: expected bundle, full, oracle; got 'filter'"),
        ({"baselines": ("bundle",)}, False, "bundle needs a committed run of select"),
        ({"baselines": ("oracle",)}, False, "oracle needs judgements"),
        ({"cafe": CafeOptions()}, True, "cafe chooses from whole contexts"),
        ({"cafe": CafeOptions(), "context": "oracle", "qrels": "q"}, False, "cafe chooses from whole contexts"),
        ({"cafe": CafeOptions(), "template": "{{ context }}"}, False, "got a template"),
        ({"cafe": CafeOptions(), "baselines": ("random_order",)}, False, "need heads of the second stage"),
        ({"cafe": CafeOptions(fine_heads="1-0"), "baselines": ("oracle",)}, False, "oracle needs judgements"),
    ],
)
def test_what_cannot_be_answered_is_refused(changes: dict[str, Any], bundles: bool, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        variant_names(settings(**changes), bundles=bundles)
