"""Compiled parts score as the model itself does, leave it alone, and say so where they cannot be had."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch._inductor import config as inductor_config

from qrcore.attention.compiled import CompiledParts
from qrcore.engine import EngineSettings
from qrcore.errors import ConfigError
from qrcore.methods.qrhead import QRHeadScorer
from tests.qrcore.families import DOCUMENTS, MODELS, QUERY, FamilyModels
from tests.qrcore.golden import TOLERANCE

HEADS = "1-3,2-0,2-5,0-7"
QUICK = ("gemma2",)
#: Torch's compiler uses what torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def nothing_compiled_yet() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(scorer: QRHeadScorer, chunk_tokens: int = 2048) -> QRHeadScorer:
    engine = EngineSettings(compile=True, chunk_tokens=chunk_tokens)
    return QRHeadScorer(scorer.model, scorer.heads, scorer.settings, engine=engine)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MODELS]
)
def test_compiled_parts_score_as_the_model_does(name: str, family_models: FamilyModels) -> None:
    scorer = family_models.scorer(name, HEADS)
    expected = scorer.score(QUERY, DOCUMENTS)
    assert compiled(scorer, chunk_tokens=70).score(QUERY, DOCUMENTS) == pytest.approx(expected, rel=0, abs=TOLERANCE)
    assert not any("forward" in vars(module) for module in scorer.model.model.modules()), "the model is as it was"


def test_calls_go_to_what_was_compiled(family_models: FamilyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = family_models.scorer("llama", HEADS)
    seen: list[int] = []

    def not_compiled(forward: object, *, dynamic: bool) -> object:
        assert dynamic, "any number of tokens"
        return lambda hidden: seen.append(hidden.shape[1]) or forward(hidden)  # type: ignore[func-returns-value,operator]

    monkeypatch.setattr(torch, "compile", not_compiled)
    other = compiled(scorer)
    trial = len(seen)
    assert trial == 3 * 3, "two norms and the MLP of three layers, each tried"
    other.score(QUERY, DOCUMENTS)
    tokens = max(seen[trial:])
    # The deepest layer ends inside its attention: of it only the first norm runs.
    assert seen[trial:] == [tokens] * (3 * 2 + 1)
    scorer.score(QUERY, DOCUMENTS)
    assert len(seen) == trial + 7, "and of nobody else's"


def test_where_nothing_can_be_compiled_the_setting_is_refused(
    family_models: FamilyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inductor_config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor_config, "force_disable_caches", True)
    with pytest.raises(ConfigError, match=r"engine\.compile: expected a machine on which torch can compile.*false"):
        CompiledParts(family_models.scorer("olmo2", HEADS).model.model)
