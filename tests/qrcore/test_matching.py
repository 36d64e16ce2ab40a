"""A head set and the model that it was found for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qrcore import load_scorer
from qrcore.errors import ConfigError, HeadSetError
from qrcore.heads import HeadSet
from qrcore.matching import check_origin, length_warnings, query_digest
from qrcore.models import ModelSource, open_model, weights_sha256
from tests.qrcore.golden import FOLDER

MODEL = str(FOLDER / "models" / "llama")


@pytest.fixture(scope="module")
def source() -> ModelSource:
    return replace(open_model(MODEL), model_id="org/model", revision="a" * 40)


def _head_set(**known: Any) -> HeadSet:
    return HeadSet(**{"name": "mine", "heads": ("1-0",), "method": "qrscore", "model_id": "org/model", **known})


def test_a_set_of_this_very_model_says_nothing(source: ModelSource) -> None:
    own = _head_set(revision="a" * 40, weights_sha256=weights_sha256(MODEL))
    assert check_origin(own, source) == ()


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"revision": "b" * 40}, "revision bbbbbbbbbbbb, and this is aaaaaaaaaaaa"),
        ({"weights_sha256": "0" * 64}, "weights 000000000000, and these are"),
    ],
)
def test_another_revision_or_other_weights_are_refused_unless_meant(
    source: ModelSource, known: dict[str, str], said: str
) -> None:
    with pytest.raises(HeadSetError, match=f"{said}.*--allow-model-mismatch"):
        check_origin(_head_set(**known), source)
    (warning,) = check_origin(_head_set(**known), source, "warn")
    assert said in warning
    assert check_origin(_head_set(**known), source, "ignore") == ()


def test_what_is_not_recorded_is_said(source: ModelSource) -> None:
    (warning,) = check_origin(_head_set(), source)
    assert "records neither revision nor weights" in warning and "org/model" not in warning
    (warning,) = check_origin(_head_set(model_id="org/other"), source)
    assert "is named for org/other" in warning


@pytest.mark.parametrize("method", [None, "all", "random"])
def test_sets_that_claim_nothing_need_no_warning(source: ModelSource, method: str | None) -> None:
    assert check_origin(_head_set(method=method, model_id=None), source) == ()


@pytest.mark.parametrize(("interval", "warned"), [((-0.1, 0.3), True), ((0.1, 0.3), False)])
def test_a_best_head_that_may_be_worth_nothing(
    source: ModelSource, interval: tuple[float, float], warned: bool
) -> None:
    own = _head_set(revision="a" * 40, intervals=(interval,))
    assert any("includes 0" in one for one in check_origin(own, source)) == warned


def test_a_scorer_refuses_warns_or_looks_away() -> None:
    other = _head_set(weights_sha256="0" * 64)
    with pytest.raises(HeadSetError, match="another model"):
        load_scorer(MODEL, heads=other, prompt="qrhead-llama3", device="cpu")
    warned = load_scorer(MODEL, heads=other, prompt="qrhead-llama3", device="cpu", on_mismatch="warn")
    assert len(warned.warnings) == 1 and warned.identity.warnings == warned.warnings
    assert load_scorer(MODEL, heads=other, prompt="qrhead-llama3", device="cpu", on_mismatch="ignore").warnings == ()
    with pytest.raises(ConfigError, match="on_mismatch: expected one of refuse"):
        load_scorer(MODEL, heads=other, on_mismatch="never")  # type: ignore[arg-type]


def test_another_prompt_than_the_recorded_one_is_said() -> None:
    own = load_scorer("embedded", device="cpu")
    assert own.warnings == ()
    other = load_scorer("embedded", device="cpu", prompt="plain")
    assert "found with prompt 'embedded', and prompts here are 'plain'" in other.warnings[0]


@pytest.mark.parametrize(
    ("known", "prompts", "said"),
    [
        (None, [10_000], None),
        ({"p5": 10, "p50": 50, "p95": 100}, [400, 20], None),
        ({"p5": 10, "p50": 50, "p95": 100}, [401, 20, 900], "2 of 3 prompts have more than 4 times"),
        ({"p50": 50}, [201], "(p50 of them 50, the longest prompt here 201)"),
        ({"p95": 100}, [], None),
    ],
)
def test_prompts_much_longer_than_those_of_detection(
    known: dict[str, int] | None, prompts: list[int], said: str | None
) -> None:
    found = length_warnings("mine@0", known, prompts)
    assert (said is None) == (found == ())
    assert all(said is not None and said in one and "mine@0" in one for one in found)


def test_a_query_is_told_again_by_its_id_and_its_text() -> None:
    digest = query_digest("1", "who?")
    assert len(digest) == 16 and set(digest) <= set("0123456789abcdef")
    assert digest == query_digest("1", "who?")
    others = [
        query_digest("1", "what?"),
        query_digest("2", "who?"),
        query_digest(None, "1who?"),
        query_digest("1who?", ""),
    ]
    assert len({digest, *others}) == 5
    assert query_digest("1", "half a pair \ud800")
