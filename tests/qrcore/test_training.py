"""Training of the embedded model: tokenizer, samples, and a miniature in which induction emerges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from qrcore.errors import ConfigError, InputError, RunError
from qrcore.prompts import EMBEDDED
from qrcore.training.attention import sliced_attention
from qrcore.training.curriculum import Stage
from qrcore.training.loss import measure
from qrcore.training.model import InitialScales, ModelShape, build_model
from qrcore.training.passages import PassageBuilder, PassageCollection, QuestionRow
from qrcore.training.progress import Progress
from qrcore.training.queries import QueryMix, QueryWriter
from qrcore.training.retrieval import PromptTokens, RetrievalShape, RetrievalTask
from qrcore.training.samples import COPY, INDEX, SHARED, InductionTask, Sample, visibility
from qrcore.training.tokenizer import SPECIAL_TOKENS, train_tokenizer
from qrcore.training.trainer import Trainer, TrainingSettings

_SUBJECTS = ("harbour", "lantern", "orchard", "railway", "glacier", "violin", "beacon", "meadow", "turbine", "castle")
_VERBS = ("crosses", "borders", "resembles", "precedes", "supports", "conceals", "reflects", "surrounds")
_PLACES = ("valley", "village", "mountain", "monastery", "library", "peninsula", "market", "lagoon", "quarry")


def _sentence(number: int) -> str:
    subject, verb, place = _SUBJECTS[number % 10], _VERBS[number // 10 % 8], _PLACES[number // 80 % 9]
    return f"The {subject} of year {1500 + number} quietly {verb} the old {place} near Zürich."


def _texts(count: int) -> list[str]:
    return [
        "\n\n".join(" ".join(_sentence(9 * t + 3 * p + s) for s in range(3)) for p in range(3)) for t in range(count)
    ]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(_texts(60), size=700)


@pytest.fixture(scope="module")
def builder(tokenizer: PreTrainedTokenizerFast) -> PassageBuilder:
    return PassageBuilder(tokenizer)


@pytest.fixture(scope="module")
def collection(builder: PassageBuilder) -> PassageCollection:
    paragraphs = [" ".join(_sentence(600 + 3 * p + s) for s in range(3)) for p in range(8)]
    rows = [
        QuestionRow("article", text, f"What did year {1500 + 600 + 3 * p + 1} see?", _sentence(600 + 3 * p + 1))
        for p, text in enumerate(paragraphs)
    ]
    return builder.build(_texts(60), rows)


@pytest.fixture(scope="module")
def prompt(tokenizer: PreTrainedTokenizerFast, builder: PassageBuilder) -> PromptTokens:
    return PromptTokens(tokenizer, builder)


@pytest.fixture(scope="module")
def task(collection: PassageCollection, prompt: PromptTokens, builder: PassageBuilder) -> RetrievalTask:
    return RetrievalTask(collection, prompt, QueryWriter(builder))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _samples(task: RetrievalTask, count: int = 40, **changes: object) -> list[Sample]:
    shape = RetrievalShape(**({"length": 256, "position_span": 256, "mix": QueryMix()} | changes))
    return [task.sample(np.random.default_rng(seed), shape) for seed in range(count)]


# Tokenizer


@pytest.mark.parametrize("before", ["", " ", "\n", "\n\n", "(", "[", "“", "\t "])
def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast, before: str) -> None:
    alone = tokenizer("peninsula xylophone", add_special_tokens=False)["input_ids"]
    placed = tokenizer(f"{before}peninsula xylophone", add_special_tokens=False)["input_ids"]
    assert placed[-len(alone) :] == alone


def test_upper_case_and_accents_make_no_difference(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("ZÜRICH Harbour")["input_ids"] == tokenizer("zurich harbour")["input_ids"]


def test_offsets_cover_the_original_text(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Café İstanbul, ﬁne\n\nZÜRICH naïve 日本 ½ x"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    covered = {place for start, stop in encoded["offset_mapping"] for place in range(start, stop)}
    assert covered == {place for place, character in enumerate(text) if character.strip()} | {18, 19}
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    pieces: dict[str, str] = {}
    for token, (start, stop) in zip(tokens, encoded["offset_mapping"], strict=True):
        pieces[token] = text[start:stop]
    assert pieces["x"] == "x"
    assert pieces["\n\n"] == "\n\n"


def test_indices_are_single_tokens_and_bos_comes_once(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("[7] [64]")["input_ids"])
    assert tokens == ["<s>", "[", "7", "]", "[", "64", "]"]


def test_characters_outside_the_vocabulary_are_spelled_in_bytes(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("日", add_special_tokens=False)["input_ids"])
    assert tokens == ["<0xE6>", "<0x97>", "<0xA5>"]
    assert tokenizer.decode(tokenizer("日", add_special_tokens=False)["input_ids"]) == "日"


def test_the_tokenizer_has_the_size_that_was_asked_for(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) <= 700
    assert sorted(tokenizer.all_special_tokens) == sorted(SPECIAL_TOKENS)


# Passages


def test_questions_point_at_the_sentence_that_answers_them(
    collection: PassageCollection, builder: PassageBuilder
) -> None:
    asked = [collection.passages[number] for number in collection.asked]
    assert len(asked) == 8
    for place, passage in enumerate(asked):
        sentence = passage.sentences[passage.questions[0].sentence]
        expected = builder.encode(_sentence(600 + 3 * place + 1))
        assert passage.ids[sentence.start : sentence.stop].tolist() == expected.tolist()


def test_special_tokens_written_in_text_stay_text(builder: PassageBuilder, tokenizer: PreTrainedTokenizerFast) -> None:
    assert not set(builder.encode("<end> <assistant>").tolist()) & set(tokenizer.all_special_ids)


# Samples


def test_question_blocks_see_the_documents_and_themselves_only() -> None:
    blocks = torch.tensor([[0, 0, 1, 1, 2, 2, -1]])
    visible = visibility(blocks)[0, 0].int().tolist()
    assert visible[3] == [1, 1, 1, 1, 0, 0, 0]
    assert visible[5] == [1, 1, 0, 0, 1, 1, 0]
    assert visible[1] == [1, 1, 0, 0, 0, 0, 0]


def test_every_question_block_begins_right_after_the_documents(task: RetrievalTask) -> None:
    for sample in _samples(task):
        after = int(sample.positions[sample.blocks == SHARED].max()) + 1
        for block in range(1, int(sample.blocks.max()) + 1):
            places = sample.positions[sample.blocks == block]
            assert places.tolist() == list(range(after, after + len(places)))


def test_position_gaps_stay_within_the_span_and_shift_documents(task: RetrievalTask) -> None:
    for sample in _samples(task, count=10, position_span=3000):
        shared = sample.positions[sample.blocks == SHARED]
        assert (np.diff(shared) >= 1).all()
        assert int(shared.max()) <= 3000
    widest = max(int(sample.positions.max()) for sample in _samples(task, position_span=3000))
    assert widest > 1500


def test_answers_name_the_document_that_holds_the_sentence(task: RetrievalTask, prompt: PromptTokens) -> None:
    index_of = {ids[1]: number for number, ids in enumerate(prompt.indices)}
    end = int(prompt.end[0])
    for sample in _samples(task):
        documents = _documents(sample, prompt)
        for block in range(1, int(sample.blocks.max()) + 1):
            ids, roles = sample.ids[sample.blocks == block], sample.roles[sample.blocks == block]
            answer = ids[roles == COPY].tolist()
            named = documents[index_of[int(ids[roles == INDEX][0])]]
            assert ids[-1] == end
            assert answer == [] or _contains(named, answer)


def _documents(sample: Sample, prompt: PromptTokens) -> list[list[int]]:
    shared = sample.ids[sample.blocks == SHARED].tolist()
    shared = shared[: len(shared) - len(prompt.ask)]
    blank = int(prompt.separator[0])
    starts = [i for i, token in enumerate(shared) if token == blank]
    return [shared[a:b] for a, b in zip(starts, [*starts[1:], len(shared)], strict=True)]


def _contains(whole: list[int], part: list[int]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def test_the_prompt_is_the_one_of_the_scorer(
    task: RetrievalTask, prompt: PromptTokens, tokenizer: PreTrainedTokenizerFast
) -> None:
    sample = _samples(task, count=1, permuted=0.0)[0]
    asking = EMBEDDED.separator + EMBEDDED.instruction + EMBEDDED.separator + EMBEDDED.query_label
    expected = tokenizer(asking, add_special_tokens=False)["input_ids"]
    shared = sample.ids[sample.blocks == SHARED].tolist()
    assert shared[-len(expected) :] == expected
    assert tokenizer.convert_ids_to_tokens(shared[:6]) == ["<s>", "<user>", "\n\n", "[", "1", "]"]
    suffix = tokenizer(EMBEDDED.suffix, add_special_tokens=False)["input_ids"]
    block = sample.ids[sample.blocks == 1].tolist()
    assert _contains(block, [*suffix, *prompt.indices[0][:1].tolist()])


def test_the_first_token_of_a_block_is_never_learned(task: RetrievalTask) -> None:
    for sample in _samples(task):
        first = np.flatnonzero(np.diff(sample.blocks, prepend=0) != 0)
        assert (sample.weights[first] == 0).all()
        assert (sample.weights[sample.roles == INDEX] > 0).all()


def test_removed_sentences_are_asked_for_and_not_shown(task: RetrievalTask) -> None:
    mix = QueryMix(question=0, words=0, span=0, removed=1)
    empty = [sample for sample in _samples(task, mix=mix) if not (sample.roles == COPY).any()]
    assert empty  # answers without a sentence: only the index can be told


def test_permuted_samples_keep_the_frame_and_change_the_words(task: RetrievalTask, prompt: PromptTokens) -> None:
    plain, permuted = (_samples(task, count=1, permuted=share)[0] for share in (0.0, 1.0))
    ordinary = np.isin(plain.ids, prompt.ordinary)
    assert (plain.ids[~ordinary] == permuted.ids[~ordinary]).all()
    assert (plain.ids[ordinary] != permuted.ids[ordinary]).mean() > 0.9


def test_induction_weighs_only_what_can_be_copied() -> None:
    sample = InductionTask(np.arange(10, 200), bos_id=1).sample(np.random.default_rng(3), length=64)
    seen: set[tuple[int, int]] = set()
    for place in range(1, 64):
        pair = (int(sample.ids[place - 1]), int(sample.ids[place]))
        if sample.weights[place]:
            assert pair in seen
        seen.add(pair)
    assert len(sample) == 64
    assert sample.weights.sum() >= 16


# Attention


def test_sliced_attention_equals_full_attention_forward_and_backward() -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 4, 600, 8, requires_grad=True)
    key, value = (torch.randn(2, 2, 600, 8, requires_grad=True) for _ in range(2))
    blocks = torch.cat((torch.zeros(2, 500), torch.ones(2, 60), torch.full((2, 40), 2.0)), dim=1)
    bias = torch.zeros(2, 1, 600, 600).masked_fill(~visibility(blocks), float("-inf"))
    ours, _ = sliced_attention(torch.nn.Identity(), query, key, value, bias, scaling=0.3)
    full = torch.nn.functional.scaled_dot_product_attention(query, key, value, bias, scale=0.3, enable_gqa=True)
    upstream = torch.randn(2, 4, 600, 8)
    torch.testing.assert_close(ours, full.transpose(1, 2), atol=1e-5, rtol=1e-4)
    gradients = torch.autograd.grad(ours.transpose(1, 2), (query, key, value), upstream)
    expected = torch.autograd.grad(full, (query, key, value), upstream)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


# Trainer

_VOCABULARY = 64


class _Vocabulary:
    """As much of a tokenizer as a model's config needs."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __len__(self) -> int:
        return _VOCABULARY


def _trainer(stages: tuple[Stage, ...], parts: int = 1) -> Trainer:
    shape = ModelShape(hidden=32, layers=2, heads=4, kv_heads=4, head_size=8, feed_forward=64)
    model = build_model(shape, _Vocabulary(), 0, InitialScales(copying=1.0))  # type: ignore[arg-type]
    return Trainer(model, InductionTask(np.arange(8, _VOCABULARY), 1), None, TrainingSettings(stages, parts=parts))


def _copying(tokens: int, gate: float | None = None, max_tokens: int = 0) -> Stage:
    return Stage("induction", "induction", (32, 32), tokens, 1024, (6e-3, 6e-3), gate=gate, max_tokens=max_tokens)


def test_induction_emerges_in_a_miniature() -> None:
    trainer = _trainer((_copying(0, gate=0.6, max_tokens=1_500_000),))
    seen: list[Progress] = []
    trainer.train(seen.append)
    assert seen[99].copy_accuracy < 0.3
    assert trainer.completed[0].copy_accuracy > 0.6
    fresh = [
        InductionTask(np.arange(8, _VOCABULARY), 1).sample(np.random.default_rng(10**6 + i), 32) for i in range(20)
    ]
    copy, index = measure(trainer.model, fresh)
    assert copy is not None
    assert copy > 0.6
    assert index is None


def test_resuming_gives_the_same_weights_as_never_stopping(tmp_path: Path) -> None:
    stages = (_copying(6_000), _copying(1_000_000))
    whole, first, second = (_trainer(stages, parts=2) for _ in range(3))
    whole.train(max_steps=20)
    first.train(checkpoint=tmp_path / "checkpoint.pt", max_steps=9)
    second.train(checkpoint=tmp_path / "checkpoint.pt", max_steps=11)
    assert second.progress.steps == whole.progress.steps == 20
    assert [p.tokens for p in second.completed] == [p.tokens for p in whole.completed]
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    _trainer((_copying(5_000),)).train(checkpoint=tmp_path / "checkpoint.pt", max_steps=1)
    with pytest.raises(InputError, match="expected settings"):
        _trainer((_copying(6_000),)).train(checkpoint=tmp_path / "checkpoint.pt")


def test_a_gate_that_is_not_reached_stops_training() -> None:
    with pytest.raises(RunError, match="expected copy accuracy"):
        _trainer((_copying(2_000, gate=0.9, max_tokens=4_000),)).train()


def test_retrieval_stages_need_text() -> None:
    with pytest.raises(ConfigError, match="expected text"):
        _trainer((Stage("retrieval", "retrieval", (64, 64), 1, 1, (1e-3, 1e-3)),))
