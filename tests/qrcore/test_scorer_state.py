"""What a call leaves behind: nothing, whatever happened inside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface

from qrcore.attention import attach
from qrcore.methods.qrhead import QRHeadScorer
from tests.qrcore.golden import changed_scorer, golden_cases, golden_scorer

CASE: Final = golden_cases("llama")["no_titles"]


def test_nothing_is_left_behind_after_a_call() -> None:
    scorer = changed_scorer()
    before = _state(scorer)
    assert (before["implementation"], before["attached"]) == ("eager", 0), "as loaded, before any call"
    scorer.rank(CASE.query, CASE.documents)
    assert _same(before, _state(scorer))


@pytest.mark.parametrize("place", ["packed_attention", "_no_mask"])
def test_nothing_is_left_behind_after_an_error(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = changed_scorer()
    before = _state(scorer)
    expected = scorer.score(CASE.query, CASE.documents)
    with monkeypatch.context() as patch:
        patch.setattr(attach, place, _raise(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            scorer.rank(CASE.query, CASE.documents)
    assert _same(before, _state(scorer))
    assert scorer.score(CASE.query, CASE.documents) == expected


def test_scores_do_not_depend_on_earlier_prompts() -> None:
    first = changed_scorer().score(CASE.query, CASE.documents)
    for other in ("one_word", "long_docs", "special_text"):
        case = golden_cases("llama")[other]
        changed_scorer().score(case.query, case.documents)
    assert changed_scorer().score(CASE.query, CASE.documents) == first


def test_two_models_score_at_the_same_time() -> None:
    """Each has its own settings; the registration that they share outlives the one that ends first."""
    expected = {f: golden_scorer(f, "full").score(CASE.query, CASE.documents) for f in ("llama", "qwen2")}
    before = set(AttentionInterface._global_mapping)
    got: dict[str, list[list[float]]] = {"llama": [], "qwen2": []}

    def work(family: str, times: int) -> None:
        for _ in range(times):
            got[family].append(golden_scorer(family, "full").score(CASE.query, CASE.documents))

    threads = [threading.Thread(target=work, args=args) for args in (("llama", 12), ("qwen2", 9))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {"llama": [expected["llama"]] * 12, "qwen2": [expected["qwen2"]] * 9}
    assert set(AttentionInterface._global_mapping) == before


def _raise(error: BaseException) -> Callable[..., Any]:
    def raising(*args: Any, **settings_: Any) -> Any:
        raise error

    return raising


def _state(scorer: QRHeadScorer) -> dict[str, Any]:
    model = scorer.model.model
    return {
        "implementation": model.config._attn_implementation,
        "functions": dict(AttentionInterface._global_mapping),
        "masks": dict(AttentionMaskInterface._global_mapping),
        "attached": attach._attached,
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "buffers": {name: value.clone() for name, value in model.named_buffers()},
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
        "forwards": [name for name, module in model.named_modules() if "forward" in vars(module)],
        "config": model.config.to_dict(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
    }


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    tensors = ("tensors", "buffers")
    plain = [{key: value for key, value in state.items() if key not in tensors} for state in (one, other)]
    return plain[0] == plain[1] and all(
        one[kind].keys() == other[kind].keys() and all(torch.equal(v, other[kind][k]) for k, v in one[kind].items())
        for kind in tensors
    )
