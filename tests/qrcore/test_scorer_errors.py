"""What the scorer cannot answer becomes an error of that row, with a code; what is a defect stays one."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from qrcore import Document, RankRequest, ScoreError, load_scorer
from qrcore.attention import read
from qrcore.engine import EngineSettings
from qrcore.errors import ConfigError, HeadSetError, PromptError
from qrcore.heads import head_set_from_list
from qrcore.methods import qrhead
from qrcore.methods.qrhead import QRHeadScorer
from tests.qrcore.families import DOCUMENTS, FamilyModels
from tests.qrcore.golden import FOLDER, changed_scorer, golden_cases, golden_scorer

CASE: Final = golden_cases("llama")["no_titles"]
LLAMA: Final = str(FOLDER / "models" / "llama")
ONE: Final = (Document("1", "A stream."),)


BROKEN: Final[dict[str, tuple[str, tuple[Document, ...]]]] = {
    "no_candidates": ("why?", ()),
    "duplicate_doc_id": ("why?", (*ONE, Document("2", "x"), Document("1", "y"))),
    "context_too_long": ("why?", (Document("1", "word " * 400),)),
    "invalid_text": ("why?", (Document("1", "a\ud800b"),)),
}


@pytest.fixture(autouse=True, scope="module")
def shared_before_it_is_patched() -> None:
    """Other tests use the same loaded scorer: it must not be made while its limit is another one."""
    golden_scorer("llama", "full")


@pytest.fixture
def limit_300(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QRHeadScorer, "max_tokens", 300)


@pytest.mark.parametrize("code", BROKEN)
@pytest.mark.parametrize("call", [QRHeadScorer.score, QRHeadScorer.read, QRHeadScorer.rank, QRHeadScorer.score_heads])
def test_what_cannot_be_scored_says_why(code: str, call: Callable[..., Any], limit_300: None) -> None:
    query, docs = BROKEN[code]
    with pytest.raises(ScoreError) as caught:
        call(changed_scorer(), query, docs)
    assert (caught.value.code, caught.value.kind) == (code, "input")
    assert caught.value.stage in ("validate", "tokenise")


@pytest.mark.parametrize(
    "request_", [("\udfff", ONE), ("why?", (Document("1", "x", "\ud800"),))], ids=["query", "title"]
)
def test_lone_surrogates_are_refused_anywhere(request_: tuple[str, tuple[Document, ...]]) -> None:
    with pytest.raises(ScoreError, match="lone surrogate") as caught:
        changed_scorer().rank(*request_)
    assert caught.value.code == "invalid_text"


def test_the_uninformative_query_is_checked_too() -> None:
    with pytest.raises(ScoreError, match="'1' twice"):
        changed_scorer().rank("N/A", [*ONE, *ONE])


def test_an_empty_query_has_no_rows_of_its_own() -> None:
    assert changed_scorer().score("", ONE)
    with pytest.raises(ScoreError) as caught:
        changed_scorer(query_span="query").score("", ONE)
    assert caught.value.code == "empty_query"


def test_the_limit_is_the_whole_prompt_to_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QRHeadScorer, "max_tokens", 229)
    assert len(changed_scorer().score(CASE.query, CASE.documents)) == 5
    monkeypatch.setattr(QRHeadScorer, "max_tokens", 228)
    with pytest.raises(ScoreError, match="at most 228 tokens for this model, got 229"):
        changed_scorer().score(CASE.query, CASE.documents)


def test_the_longer_of_both_prompts_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QRHeadScorer, "max_tokens", 229)
    with pytest.raises(ScoreError, match="at most 229 tokens"):
        changed_scorer(null_query="nothing " * 50).score(CASE.query, CASE.documents)


@pytest.mark.parametrize(
    ("name", "heads", "refused"),
    [
        ("mistral", "0-0", True),
        ("phi3", "3-0", True),
        ("gemma2", "1-0,3-1", False),
        ("gemma2", "1-0,2-1", True),
        ("qwen2", "1-0", False),
        ("qwen2", "2-0", True),
        ("smollm3", "0-0", True),
        ("llama", "0-0", False),
    ],
)
def test_heads_with_a_window_are_refused_beyond_it(
    name: str, heads: str, refused: bool, family_models: FamilyModels
) -> None:
    loaded = family_models.scorer(name)
    strict = replace(loaded.settings, allow_sliding_window=False)
    scorer = QRHeadScorer(loaded.model, head_set_from_list(heads), strict)
    if not refused:
        assert len(scorer.score("why?", DOCUMENTS)) == len(DOCUMENTS)
        return
    with pytest.raises(ScoreError, match="sees 40 tokens") as caught:
        scorer.score("why?", DOCUMENTS)
    assert caught.value.code == "sliding_window_exceeded"
    assert len(scorer.score("why?", [Document("1", "x")])) == 1, "a prompt within the window is read"


def test_rank_many_goes_on_after_an_error(limit_300: None) -> None:
    good = RankRequest(CASE.query, CASE.documents, "good")
    bad = [RankRequest(query, docs, code) for code, (query, docs) in BROKEN.items()]
    answers = list(changed_scorer().rank_many([good, *bad, good]))
    assert [a.code if isinstance(a, ScoreError) else "ranked" for a in answers] == ["ranked", *BROKEN, "ranked"]
    assert [a.query_id for a in answers] == ["good", *BROKEN, "good"]
    assert answers[0] == answers[-1] == replace(changed_scorer().rank(CASE.query, CASE.documents), query_id="good")


def test_rank_many_without_packing_asks_for_requests_one_by_one() -> None:
    asked = []

    def requests() -> Iterator[RankRequest]:
        for number in range(3):
            asked.append(number)
            yield RankRequest("why?", ONE, str(number))

    loaded = changed_scorer()
    scorer = QRHeadScorer(loaded.model, loaded.heads, loaded.settings, engine=EngineSettings(pack_tokens=0))
    answers = scorer.rank_many(requests())
    next(answers)
    assert asked == [0]


def test_rank_many_does_not_hide_defects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qrhead, "read_packed", _raise(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        list(changed_scorer().rank_many([RankRequest("why?", ONE)]))


def test_scores_that_are_no_numbers_are_an_error_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def nan(*args: Any) -> list[list[Tensor]]:
        return [[torch.full_like(one, float("nan")) for one in attention] for attention in read_packed(*args)]

    read_packed = read.read_packed
    monkeypatch.setattr(qrhead, "read_packed", nan)
    with pytest.raises(ScoreError) as caught:
        changed_scorer().score("why?", ONE)
    assert (caught.value.code, caught.value.kind, caught.value.stage) == ("non_finite", "transient", "score")


def test_an_error_of_a_row_crosses_process_borders() -> None:
    error = ScoreError("oom", "memory: …", stage="score", query_id="q1")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.kind, copy.stage, copy.query_id, str(copy)) == (
        "oom",
        "transient",
        "score",
        "q1",
        "memory: …",
    )


@pytest.mark.parametrize(
    ("settings_", "error", "message"),
    [
        ({"query_span": "all"}, ConfigError, "query_span: expected one of official, query"),
        ({"order": "best"}, ConfigError, "order: expected one of as_given, reversed, shuffled"),
        ({"document_special_tokens": "keep"}, ConfigError, "document_special_tokens: expected one of text, parse"),
        ({"null_query": " \n"}, ConfigError, "null_query: expected text"),
        ({"heads": None}, HeadSetError, "ships none"),
        ({"heads": "9-0"}, HeadSetError, "layers 0-3"),
        ({"prompt": "qrhead-qwen2"}, PromptError, r"<\|im_start\|>"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings_: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load_scorer(LLAMA, **{"heads": "1-0", **settings_})


def _raise(error: BaseException) -> Callable[..., Any]:
    def raising(*args: Any, **settings_: Any) -> Any:
        raise error

    return raising


def test_an_error_does_not_keep_the_frames_that_hold_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = load_scorer(str(FOLDER / "models" / "llama"), heads="0-0")
    monkeypatch.setattr(scorer, "_read", _out_of_memory)
    (error,) = scorer.rank_many([RankRequest("q", (Document("d", "text"),))])
    assert isinstance(error, ScoreError)
    assert error.code == "oom"
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


def _out_of_memory(_groups: object) -> None:
    raise MemoryError


def test_a_memory_budget_below_the_weights_is_refused_before_anything_is_scored() -> None:
    with pytest.raises(ConfigError, match=r"memory_bytes: expected more than the \d+ bytes that the weights take"):
        load_scorer("embedded", device="cpu", engine=EngineSettings(memory_bytes=1000))
