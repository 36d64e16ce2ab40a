"""The causal check: which control sets are drawn, what is asked, and how the outcome is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from pipelines.training import causal_study
from pipelines.training.causal_study import causal_check
from pipelines.training.judged import JudgedList, JudgedSet
from qrcore.heads import Head, all_heads, parse_head
from qrcore.models import ModelShape, load_tokenizer, open_model
from qrcore.prompts import EMBEDDED
from qrcore.records import Document
from qrcore.tokens import PromptEncoder
from tests.pipelines.training.collection import DEV_IDS, plain_rows, read

MODEL = "embedded"
VOCABULARY = 100_000
HEADS = all_heads(ModelShape(layers=3, query_heads=4, kv_heads=4)).head_list


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return read(tmp_path_factory.mktemp("causal"), plain_rows())


# What is asked, and what is made of it


def mark_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The tokens with which every mark begins, and those that tell the places 1 to 4."""
    marks = [tokenizer.encode(f"[{place}]", add_special_tokens=False) for place in range(1, 5)]
    if len(marks[0]) == 1:
        return [], [mark[0] for mark in marks]
    assert tokenizer.convert_ids_to_tokens([mark[1] for mark in marks]) == ["1", "2", "3", "4"]
    return marks[0][:1], [mark[1] for mark in marks]


class WholeMarks:
    """A tokenizer with one token for a mark."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [1000 + int(text.strip("[]"))]


def test_a_mark_of_one_token_is_asked_for_as_a_whole(judged: JudgedSet) -> None:
    entry = judged.part("dev")[0]
    encoder = PromptEncoder(load_tokenizer(open_model(MODEL)))
    found = causal_study._question(entry, encoder, WholeMarks())  # type: ignore[arg-type]
    assert found.ids == encoder.encode(EMBEDDED, entry.query, entry.documents).ids
    assert found.right == (1000 + entry.relevant_places[0],)


class PlantedModel:
    """Answers by rule: the right document's index unless one of the ``needed`` heads is closed."""

    def __init__(self, needed: Sequence[Head], right: dict[tuple[int, ...], int], index_ids: Sequence[int]) -> None:
        self._needed = needed
        self._right = right
        self._index_ids = index_ids
        self.gates: list[torch.Tensor] = []
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, model: object, ids: Sequence[int], gate: torch.Tensor) -> torch.Tensor:
        self.gates.append(gate)
        self.asked.append(tuple(ids))
        closed = any(gate[head.layer, head.head] == 0 for head in self._needed)
        place = self._right[tuple(ids)]
        logits = torch.zeros(VOCABULARY)
        logits[self._index_ids[place % 4 if closed else place - 1]] = 5.0
        return torch.log_softmax(logits, dim=-1)


def plant(monkeypatch: pytest.MonkeyPatch, judged: JudgedSet, needed: Sequence[Head]) -> PlantedModel:
    tokenizer = load_tokenizer(open_model(MODEL))
    encoder = PromptEncoder(tokenizer)
    given, indices = mark_tokens(tokenizer)
    right = {
        (*encoder.encode(EMBEDDED, entry.query, entry.documents).ids, *given): entry.relevant_places[0]
        for entry in judged.part("dev")
    }
    model = PlantedModel(needed, right, indices)
    monkeypatch.setattr(causal_study, "next_token_log_probabilities", model)
    return model


def test_masking_the_needed_heads_shows(judged: JudgedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [Head(1, 0), Head(1, 3)]
    model = plant(monkeypatch, judged, chosen)
    found = causal_check(MODEL, [judged], [str(head) for head in chosen], controls=5)
    assert found is not None
    assert found.queries == len(DEV_IDS)
    assert (found.intact.heads, found.intact.index_accuracy) == ((), 1.0)
    assert (found.chosen.heads, found.chosen.index_accuracy) == (("1-0", "1-3"), 0.0)
    assert [control.index_accuracy for control in found.controls] == [1.0] * 5
    assert found.percentile == 1.0
    assert (found.drop.mean, found.drop.low, found.drop.high) == (1.0, 1.0, 1.0)
    certain = float(torch.log_softmax(torch.tensor([5.0, *[0.0] * (VOCABULARY - 1)]), 0)[0])
    assert found.intact.index_log_probability == pytest.approx(certain)
    assert found.chosen.index_log_probability == pytest.approx(certain - 5.0)
    assert len(model.gates) == 7 * len(DEV_IDS)


def test_heads_that_do_not_matter_are_told_apart_from_nothing(
    judged: JudgedSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, judged, [Head(2, 1)])
    found = causal_check(MODEL, [judged], ["2-0"], controls=500)
    assert found is not None
    assert (found.chosen.index_accuracy, found.intact.index_accuracy) == (1.0, 1.0)
    hurt = [control.index_accuracy == 0.0 for control in found.controls]
    assert sum(hurt) == 1
    assert found.controls[hurt.index(True)].heads == ("2-1",)
    assert found.percentile == 0.0, "no control hurts less: the others hurt as little"
    assert found.drop.mean == pytest.approx(-1 / len(found.controls))


def test_gates_close_the_heads_that_the_outcome_names(judged: JudgedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plant(monkeypatch, judged, [Head(1, 0)])
    found = causal_check(MODEL, [judged], ["1-0", "1-1"], controls=3, max_queries=1)
    assert found is not None
    assert found.queries == 1
    closed = [{str(Head(*place)) for place in (gate == 0).nonzero().tolist()} for gate in model.gates]
    assert closed == [set(masked.heads) for masked in (found.intact, found.chosen, *found.controls)]


def test_any_relevant_document_is_right(judged: JudgedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = judged.part("dev")[0]
    both = JudgedList(entry.query_id, entry.query, entry.documents, {d.doc_id: 1 for d in entry.documents[:2]})
    _, (first, second, *_) = mark_tokens(load_tokenizer(open_model(MODEL)))
    logits = torch.zeros(VOCABULARY)
    logits[second], logits[first] = 4.0, 3.0
    answer = torch.log_softmax(logits, dim=-1)
    monkeypatch.setattr(causal_study, "next_token_log_probabilities", lambda *_: answer)
    found = causal_check(MODEL, [JudgedSet("both", (both,), ranked=False)], ["1-0"], controls=1)
    assert found is not None
    assert found.intact.index_accuracy == 1.0
    expected = float(torch.log(answer[first].exp() + answer[second].exp()))
    assert found.intact.index_log_probability == pytest.approx(expected, rel=1e-5)


def test_queries_come_evenly_from_the_lists(judged: JudgedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    other = JudgedSet("other", tuple(
        JudgedList(entry.query_id, f"Again: {entry.query}", entry.documents, entry.relevance) for entry in judged.lists
    ), ranked=False)  # fmt: skip
    asked: list[tuple[int, ...]] = []

    def remember(model: object, ids: tuple[int, ...], gate: torch.Tensor) -> torch.Tensor:
        asked.append(ids)
        return torch.zeros(VOCABULARY)

    monkeypatch.setattr(causal_study, "next_token_log_probabilities", remember)
    assert causal_check(MODEL, [judged, other], ["1-0"], controls=1, max_queries=4) is not None
    tokenizer = load_tokenizer(open_model(MODEL))
    texts = [tokenizer.decode(list(ids)) for ids in dict.fromkeys(asked)]
    assert len(texts) == 4
    assert sum("again :" in text.lower() for text in texts) == 2


def test_what_cannot_be_asked_is_passed_over(judged: JudgedSet) -> None:
    entry = judged.part("dev")[0]
    many = tuple(Document(f"d{number}", "short") for number in range(65))
    long = tuple(Document(d.doc_id, "word " * 9000) for d in entry.documents)
    lists = tuple(JudgedList(entry.query_id, "query", documents, {"d0": 1}) for documents in (many, long))
    for one in lists:
        assert causal_check(MODEL, [JudgedSet("no", (one,), ranked=False)], ["1-0"], controls=1) is None


def test_masking_the_shipped_heads_lowers_the_right_index(tmp_path: Path) -> None:
    source = open_model(MODEL)
    assert source.head_set is not None
    chosen = source.head_set.heads
    found = causal_check(MODEL, [read(tmp_path, plain_rows())], chosen, controls=2)
    assert found is not None
    assert found.chosen.heads == chosen
    assert found.chosen.index_log_probability < found.intact.index_log_probability
    first = min(parse_head(head).layer for head in chosen)
    for control in found.controls:
        assert len(control.heads) == len(chosen)
        assert min(parse_head(head).layer for head in control.heads) >= first
    assert -1.0 <= found.drop.low <= found.drop.mean <= found.drop.high <= 1.0
