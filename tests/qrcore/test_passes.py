"""The largest pass is told to whoever listens, as the memory model predicts it."""

from __future__ import annotations

from qrcore import Document, load_scorer
from qrcore.engine import EngineSettings
from qrcore.memory import PassMemory
from qrcore.methods.qrhead import QRHeadScorer
from qrcore.passes import largest_pass, tell_pass
from qrcore.records import RankRequest
from tests.small_model import HEADS, MODEL


def test_the_largest_is_kept_and_nothing_is_reckoned_unheard() -> None:
    def never() -> int:
        raise AssertionError("nobody listens")

    tell_pass(never)
    with largest_pass() as outer:
        tell_pass(lambda: 3)
        with largest_pass() as inner:
            tell_pass(lambda: 9)
        tell_pass(lambda: 2)
    assert (outer.predicted_bytes, inner.predicted_bytes) == (3, 9)


def test_a_scorer_tells_what_its_largest_pass_is_predicted_to_take() -> None:
    loaded = load_scorer(MODEL, heads=HEADS)
    scorer = QRHeadScorer(loaded.model, loaded.heads, loaded.settings, engine=EngineSettings(pack_tokens=0))
    short = RankRequest("which bee", (Document("a", "a bee"), Document("b", "a town")))
    long = RankRequest("which bee", (Document("a", "a bee " * 50), Document("b", "a town")))
    with largest_pass() as told:
        assert len(list(scorer.rank_many([long, short]))) == 2
    tokens = scorer.encode(long)
    packed = len(tokens.prefix_ids) + len(tokens.query_ids) + len(tokens.null_ids)
    memory = PassMemory.of(loaded.model.source.config, loaded.heads.head_list)
    assert told.predicted_bytes == memory.predict(packed, 2, tokens.longest_prompt).total
