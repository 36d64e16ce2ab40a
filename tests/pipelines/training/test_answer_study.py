"""Answers and verdicts of a model, on planted generations and log-probabilities."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from pipelines.training import answer_study
from pipelines.training.answer_study import (
    answer_quality,
    answering_sentence,
    sentences,
    token_f1,
    verdict_quality,
)
from pipelines.training.judged import JudgedList, JudgedSet
from qrcore.models import load_tokenizer, open_model
from qrcore.prompts import EMBEDDED
from qrcore.records import Document
from qrcore.tokens import PromptEncoder
from qrcore.training.passages import PassageBuilder
from qrcore.training.probing import next_token_log_probabilities
from qrcore.training.retrieval import PromptTokens
from tests.pipelines.training.collection import DEV_IDS, TOPICS, plain_rows, read

MODEL = "embedded"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> JudgedSet:
    return read(tmp_path_factory.mktemp("answers"), plain_rows())


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(open_model(MODEL))


def answered(answers: tuple[str, ...], *texts: str, relevant: Sequence[int] = (0,)) -> JudgedList:
    documents = tuple(Document(f"d{number}", text) for number, text in enumerate(texts))
    return JudgedList("q0", "query", documents, {f"d{number}": 1 for number in relevant}, answers)


# Sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two three four five. Six seven eight nine ten!",
         ["One two three four five.", "Six seven eight nine ten!"]),
        ('He said "no more of this today." Then he went home again.',
         ['He said "no more of this today."', "Then he went home again."]),
        ("The river near St. Louis was 3.5 metres high that year. It fell again before long.",
         ["The river near St. Louis was 3.5 metres high that year.", "It fell again before long."]),
        ("No end of any kind here", ["No end of any kind here"]),
        ("", []),
    ],
)  # fmt: skip
def test_texts_are_cut_into_sentences(text: str, expected: list[str]) -> None:
    found = sentences(text)
    assert [sentence for _, sentence in found] == expected
    for start, sentence in found:
        assert text[start : start + len(sentence)] == sentence


def test_the_answering_sentence_holds_the_first_occurrence() -> None:
    first, second = "The old mill burned down in 1810.", "It was built again in 1823 by Anna."
    third = "In 1823 the town got a bridge too."
    entry = answered(("1823",), f"{first} {second} {third}")
    assert answering_sentence(entry) == (1, second)
    assert answering_sentence(replace(entry, answers=("anna",))) == (1, second)
    assert answering_sentence(replace(entry, answers=("1999", "bridge"))) == (1, third)
    assert answering_sentence(replace(entry, answers=("18", "23"))) is None, "only whole words"
    assert answering_sentence(replace(entry, answers=())) is None


def test_only_relevant_documents_answer() -> None:
    entry = answered(("Anna",), "It was built by Anna.", "Nobody knows.", "Some say it was Anna.", relevant=(1, 2))
    assert answering_sentence(entry) == (3, "Some say it was Anna.")


def test_token_f1_is_of_multisets() -> None:
    assert token_f1([1, 2, 2, 3], [2, 2, 2, 4]) == pytest.approx(2 * 0.5 * 0.5 / (0.5 + 0.5))
    assert token_f1([1, 2], [1, 2, 3, 4]) == pytest.approx(2 * 1.0 * 0.5 / 1.5)
    assert token_f1([3, 2, 1], [1, 2, 3]) == 1.0
    assert token_f1([5], [6]) == token_f1([], [6]) == 0.0


# Answers


def plant_answers(
    monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase, judged: JudgedSet, answers: Sequence[str]
) -> list[int]:
    """Generated texts, one for each list of ``judged`` dev; returns how many tokens each was allowed."""
    encoder = PromptEncoder(tokenizer)
    by_prompt = {
        encoder.encode(EMBEDDED, entry.query, entry.documents).ids: answer
        for entry, answer in zip(judged.part("dev"), answers, strict=True)
    }
    allowed: list[int] = []

    def generate(model: object, ids: tuple[int, ...], room: int, end: int) -> tuple[int, ...]:
        assert end == tokenizer.get_vocab()["<end>"]
        allowed.append(room)
        return tuple(tokenizer.encode(by_prompt[ids], add_special_tokens=False))

    monkeypatch.setattr(answer_study, "greedy_continuation", generate)
    return allowed


def second_sentence(entry: JudgedList) -> str:
    return TOPICS[int(entry.query_id[1:])][1].split(". ")[1]


def test_answers_are_judged_by_index_and_copy(
    judged: JudgedSet, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = judged.part("dev")
    right = [entry.relevant_places[0] for entry in lists]
    copied = [second_sentence(entry) for entry in lists]
    answers = [
        f"[{right[0]}] {copied[0]}",
        f"[{right[1] % 4 + 1}] {copied[1]}",
        f"{copied[2]}",
        f"[{right[3]}] zebra",
        f"The [{right[4]}] {copied[4]}",
        f"[{right[5]}] {copied[5]} [{right[5]}]",
    ]
    allowed = plant_answers(monkeypatch, tokenizer, judged, answers)
    found = answer_quality(MODEL, judged, "dev", max_new_tokens=33)
    assert found is not None
    assert (found.name, found.part, found.queries) == ("facts", "dev", len(DEV_IDS))
    assert found.begins == pytest.approx(4 / 6)
    assert found.index.mean == pytest.approx(3 / 6)
    texts = (copied[5], f"{copied[5]} [{right[5]}]")
    asked, given = (len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    f1 = 2 * asked / (asked + given)
    assert found.copy_f1.mean == pytest.approx(fmean([1.0, 1.0, 0.0, 0.0, 0.0, f1]))
    assert found.copy_f1.low < found.copy_f1.mean < found.copy_f1.high
    assert [query for query, _ in found.examples] == [entry.query for entry in lists[:3]]
    assert found.examples[2][1].lower().replace(" ", "") == copied[2].lower().replace(" ", "")
    assert allowed == [33] * 6


def test_queries_without_an_answering_sentence_count_for_the_index_alone(
    judged: JudgedSet, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = judged.part("dev")
    changed = replace(judged, lists=(replace(lists[0], answers=("elsewhere",)), *lists[1:]))
    answers = [f"[{lists[0].relevant_places[0]}]", *["no"] * 5]
    plant_answers(monkeypatch, tokenizer, changed, answers)
    found = answer_quality(MODEL, changed, "dev")
    assert found is not None
    assert found.queries == 6
    assert found.index.mean == pytest.approx(1 / 6)
    assert found.copy_f1.mean == 0.0
    nowhere = replace(judged, lists=tuple(replace(entry, answers=()) for entry in lists))
    assert answer_quality(MODEL, nowhere, "dev") is None


def test_a_prompt_that_leaves_no_room_counts_as_wrong(judged: JudgedSet, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry, *_) = judged.part("dev")
    filler = Document("filler", "word " * 40_000)
    long = replace(entry, documents=(*entry.documents, filler))
    monkeypatch.setattr(answer_study, "greedy_continuation", lambda *_: pytest.fail("must not be asked"))
    found = answer_quality(MODEL, replace(judged, lists=(long,)), "dev")
    assert found is not None
    assert (found.begins, found.index.mean, found.copy_f1.mean) == (0.0, 0.0, 0.0)


def test_the_shipped_model_is_asked_in_its_own_prompt(judged: JudgedSet, capfd: pytest.CaptureFixture[str]) -> None:
    two = replace(judged, lists=judged.part("dev")[:2])
    found = answer_quality(MODEL, two, "dev", max_new_tokens=6)
    assert found is not None
    assert found.begins == 1.0, "answers were trained to begin with an index"
    assert len(found.examples) == 2
    assert capfd.readouterr() == ("", "")


# Verdicts


def plant_verdicts(
    monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerBase, says_yes: Callable[[tuple[int, ...]], bool]
) -> list[tuple[int, ...]]:
    asked: list[tuple[int, ...]] = []
    words = {word: tokenizer.encode(word, add_special_tokens=False)[0] for word in ("yes", "no")}

    def answer(model: object, ids: tuple[int, ...]) -> torch.Tensor:
        asked.append(ids)
        log_probabilities = torch.full((len(tokenizer),), -9.0)
        log_probabilities[words["yes" if says_yes(ids) else "no"]] = -8.0
        log_probabilities[0] = 0.0
        return log_probabilities

    monkeypatch.setattr(answer_study, "next_token_log_probabilities", answer)
    return asked


def accuracy(judged: JudgedSet) -> float:
    found = verdict_quality(MODEL, judged, "dev")
    assert found is not None
    assert found.queries == len(DEV_IDS)
    assert found.accuracy.low <= found.accuracy.mean <= found.accuracy.high
    return found.accuracy.mean


def test_verdicts_are_right_for_both_kinds_or_not(
    judged: JudgedSet, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plant_verdicts(monkeypatch, tokenizer, lambda ids: True)
    assert accuracy(judged) == 0.5
    assert len(asked) == 2 * len(DEV_IDS)
    right_ones = {ids for number, ids in enumerate(asked) if number % 2 == 0}
    plant_verdicts(monkeypatch, tokenizer, lambda ids: ids in right_ones)
    assert accuracy(judged) == 1.0
    plant_verdicts(monkeypatch, tokenizer, lambda ids: ids not in right_ones)
    assert accuracy(judged) == 0.0


def test_the_re_asking_prompt_is_the_one_of_training(
    judged: JudgedSet, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plant_verdicts(monkeypatch, tokenizer, lambda ids: True)
    verdict_quality(MODEL, judged, "dev")
    builder = PassageBuilder(tokenizer)  # type: ignore[arg-type]
    trained = PromptTokens(tokenizer, builder)  # type: ignore[arg-type]
    for entry, right, wrong in zip(judged.part("dev"), asked[::2], asked[1::2], strict=True):
        prompt = PromptEncoder(tokenizer).encode(EMBEDDED, entry.query, entry.documents).ids
        place = entry.relevant_places[0]
        answer = [*trained.indices[place - 1], *builder.encode(second_sentence(entry)), *trained.end]
        assert right == (*prompt, *answer, *trained.ask_again)
        shown = str(tokenizer.decode(list(wrong[len(prompt) : -len(trained.ask_again)])))
        others = [p for p in range(1, 5) if p != place]
        firsts = [f"[{p}] {sentences(entry.documents[p - 1].text)[0][1]}<end>" for p in others]
        assert "".join(shown.lower().split()) in ["".join(text.lower().split()) for text in firsts]


def test_queries_without_a_right_or_a_wrong_answer_are_passed_over(
    judged: JudgedSet, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plant_verdicts(monkeypatch, tokenizer, lambda ids: True)
    first, second, *_ = judged.part("dev")
    unknown = replace(first, answers=())
    alone = replace(second, documents=tuple(d for d in second.documents if d.doc_id in second.relevance))
    assert verdict_quality(MODEL, replace(judged, lists=(unknown, alone)), "dev") is None
    assert asked == []


def test_a_query_that_fits_with_one_answer_alone_is_passed_over(
    judged: JudgedSet, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else guessing would not give one half."""
    asked = plant_verdicts(monkeypatch, tokenizer, lambda ids: True)
    verdict_quality(MODEL, judged, "dev")
    lengths = [sorted((len(right), len(wrong))) for right, wrong in zip(asked[::2], asked[1::2], strict=True)]
    number, (shorter, longer) = next((n, pair) for n, pair in enumerate(lengths) if pair[0] < pair[1])
    one = replace(judged, lists=(judged.part("dev")[number],))
    source = open_model(MODEL)
    for limit, passed_over in ((shorter, True), (longer, False)):
        config = copy.deepcopy(source.config)
        config.max_position_embeddings = limit
        monkeypatch.setattr(answer_study, "open_model", lambda _, config=config: replace(source, config=config))
        assert (verdict_quality(MODEL, one, "dev") is None) is passed_over


def test_verdicts_are_what_the_shipped_model_holds_likelier(
    judged: JudgedSet, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[tuple[int, ...], float]] = []
    yes, no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("yes", "no"))

    def remember(model: LlamaForCausalLM, ids: tuple[int, ...]) -> torch.Tensor:
        says = next_token_log_probabilities(model, ids)
        asked.append((ids, float(says[yes] - says[no])))
        return says

    monkeypatch.setattr(answer_study, "next_token_log_probabilities", remember)
    found = verdict_quality(MODEL, replace(judged, lists=judged.part("dev")[:3]), "dev")
    plain = LlamaForCausalLM.from_pretrained(open_model(MODEL).path, dtype=torch.float32)
    for ids, margin in asked:
        with torch.no_grad():
            logits = plain(torch.tensor([ids])).logits[0, -1]
        assert float(logits[yes] - logits[no]) == pytest.approx(margin, abs=0.3), "but for bfloat16, the model itself"
    assert len(asked) == 6
    right = [margin > 0 for _, margin in asked[::2]] + [margin < 0 for _, margin in asked[1::2]]
    assert found is not None
    assert (found.name, found.part, found.queries) == ("facts", "dev", 3)
    assert found.accuracy.mean == pytest.approx(fmean(right))
