"""The model card says what was measured, all of it, and nothing else."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.training.card import CardFacts, best_on_dev
from pipelines.training.claims import LayerHeads, retrieval_layer
from pipelines.training.facts import dev_mean
from pipelines.training.findings import CausalCheck, Comparison, Interval, LengthPoint, ListQuality
from tests.pipelines.training.card_samples import (
    CAUSAL,
    COMPARISONS,
    HEADS,
    VERDICTS,
    around,
    card_facts,
    findings,
    replaced,
    seed_facts,
)
from tests.pipelines.training.card_text import HEADINGS, SEEDS, headings, named, rows, section, text_of, three_seeds


def test_what_it_is_comes_from_the_facts() -> None:
    card = text_of(three_seeds())
    cells = {line[0]: line[1] for line in rows(section(card, "What it is"), "")}
    assert cells["architecture"].startswith(
        "Llama: hidden 192, 4 layers × 8 query heads of size 64 (4 key and value heads)"
    )
    assert cells["parameters"] == "2,262,720" and cells["vocabulary"] == "4,096 tokens"
    assert cells["heads"] == "2-0, 2-3, 2-1, 2-2 (layer-head, from 0)"
    assert "layers 0 to 2 of 4: 1 is not needed" in card
    assert named(section(card, "Data"), "source")["gutenberg"]["licence"] == "public domain in the USA"
    assert named(section(card, "Data"), "source")["gutenberg"]["characters"] == "12M"
    assert named(section(card, "Data"), "source")["questions to Wikipedia paragraphs"]["questions"] == "11,784"


def test_training_is_told_by_stage_and_by_seed() -> None:
    part = section(text_of(three_seeds(shipped=0)), "How it was trained")
    stages = named(part, "stage")
    assert list(stages) == ["induction-128", "retrieval-2048", "re-ask"]
    assert stages["retrieval-2048"]["document index"] == "0.405" and stages["retrieval-2048"]["tokens"] == "12.5M"
    assert stages["induction-128"]["document index"] == "" and stages["re-ask"]["yes or no"] == "0.960"
    assert list(named(part, "seed")) == ["0 (shipped)", "1", "2"]
    assert named(part, "seed")["2"]["dev nDCG@10"] == "0.949"
    assert "weight 5 where the token is the number of the document that answers, 3 where it begins" in part


def test_a_loss_on_attention_is_stated_plainly() -> None:
    taught = section(text_of(card_facts()), "How it was trained")
    assert "**a loss on attention**: 4 heads of layer 2 (2-0, 2-1, 2-2, 2-3) were taught" in taught
    assert "with weight 5 for a query. Where these heads look" in taught
    assert "that they retrieve did not appear by itself" in taught
    free = text_of(dataclasses.replace(card_facts(), taught=None))
    assert "No loss was put on attention" in free and "did not appear" not in free
    assert named(section(text_of(card_facts()), "Heads"), "head")["2-0"][""] == "chosen, taught to retrieve"
    assert named(section(free, "Heads"), "head")["2-0"][""] == "chosen"
    assert "taught" not in section(free, "Heads")


def test_quality_is_that_of_the_shipped_seed() -> None:
    part = section(text_of(three_seeds(shipped=1)), "Quality")
    ndcg, recall = named(part, "nDCG@10"), named(part, "recall@1")
    assert ndcg["nq-10"] == {
        "nDCG@10": "nq-10", "n": "175", "random": "0.450", "BM25": "0.900 [0.880, 0.920]", "first stage": "",
        "all heads": "0.880 [0.860, 0.900]", "heads": "0.930 [0.910, 0.950]", "fused": "", "too long": "3",
    }  # fmt: skip
    assert ndcg["hotpotqa-10"]["fused"] == "0.940 [0.920, 0.960]" and ndcg["hotpotqa-10"]["too long"] == ""
    assert recall["xquad-10"]["heads"] == "0.830 [0.810, 0.850]"
    assert "0.935 on xquad-10 (66), 0.935 on nq-10 (175), 0.935 on hotpotqa-10 (301)" in part


def test_mean_and_deviation_over_seeds() -> None:
    part = section(text_of(three_seeds()), "Quality")
    assert "over 3 seeds" in part
    header, _, *body = rows(part.split("over 3 seeds")[1], "list")
    values = list(SEEDS.values())
    expected = f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"
    assert all(line[header.index("heads")] == expected for line in body)
    assert body[0][header.index("copy F1")] == "0.851 ± 0.000" and body[1][header.index("copy F1")] == ""
    assert "over 1 seed" not in text_of(card_facts()) and "±" not in text_of(card_facts())


@given(st.tuples(*(st.floats(-1, 1) for _ in range(3))).map(sorted))
@settings(max_examples=30, deadline=None)
def test_not_distinguishable_is_said_exactly_where_the_interval_covers_0(values: list[float]) -> None:
    low, mean, high = values
    one = Comparison("nq-10", "test", "heads", "BM25", Interval(mean, low, high))
    card = text_of(replaced(findings(), comparisons=(one,)))
    (sentence,) = re.findall(r"\*\*nq-10\*\*: (.*)", card)
    said = "not distinguishable from" if low <= 0 <= high else "above" if mean > 0 else "below"
    assert sentence.startswith(f"The chosen heads are {said} BM25 (")
    limit = "The chosen heads were not shown to be above BM25: nq-10 (" in section(card, "Limits")
    assert limit == (said != "above")


def test_comparisons_of_dev_queries_are_not_told() -> None:
    part = section(text_of(card_facts()), "Quality")
    assert part.count("**nq-10**") == 1 and "−0.900" not in part
    dev_only = dataclasses.replace(COMPARISONS[1], part="dev")
    assert "not shown to be above" not in text_of(replaced(findings(), comparisons=(dev_only,)))
    assert (
        "from the first stage (+0.030 [+0.000, +0.060]). The first stage fused with the chosen heads is above" in part
    )


def test_length_is_told_in_a_picture_and_a_table() -> None:
    part = section(text_of(card_facts()), "Length")
    assert '<img src="length_curve.svg" width="100%"' in part
    assert "0.972 [0.952, 0.992] at 512 tokens (random 0.620)" in part
    found = named(part, "prompt tokens")
    assert found["3,072"]["heads"] == "0.919 [0.878, 0.960]" and found["3,072"]["random"] == "0.240"
    assert (found["512"]["n"], found["3,072"]["n"]) == ("98", "124")
    assert "they need not be the same ones at each length" in part
    assert "chosen on dev queries, too (of xquad-10, nq-10 and hotpotqa-10)" in part
    assert "on dev queries, whose lists" in part
    known = text_of(dataclasses.replace(card_facts(), length_on="xquad-20"))
    assert "on dev queries of xquad-20, whose lists" in section(known, "Length")


@pytest.mark.parametrize(
    ("means", "said"),
    [
        (
            (0.9, 0.96, 0.92, 0.9),
            "Mean nDCG@10 is 0.960 [0.940, 0.980] with 2,000 prompt tokens and 0.900 [0.880, 0.920] with 4,000; the "
            "intervals do not overlap. Keep prompts shorter.",
        ),
        ((0.9, 0.96, 0.92, 0.92), "No fall by more than 0.05 in mean nDCG@10 was seen up to 4,000 tokens"),
    ],
)
def test_the_length_at_which_quality_falls(means: tuple[float, ...], said: str) -> None:
    lengths = tuple(LengthPoint(1000 * (n + 1), 9, 2.0, around(mean), 0.3) for n, mean in enumerate(means))
    assert said in section(text_of(replaced(findings(), lengths=lengths[::-1])), "Limits")


def test_a_fall_with_length_that_may_be_chance_is_said_to_be_so() -> None:
    lengths = tuple(
        LengthPoint(tokens, 9, 2.0, around(mean, 0.04), 0.3) for tokens, mean in ((1000, 0.96), (2000, 0.9))
    )
    limits = section(text_of(replaced(findings(), lengths=lengths)), "Limits")
    assert "0.900 [0.860, 0.940] with 2,000; the intervals overlap." in limits


def test_heads_beside_the_best_others() -> None:
    found = named(section(text_of(card_facts()), "Heads"), "head")
    assert [head for head, cells in found.items() if cells[""].startswith("chosen")] == list(HEADS.chosen)
    assert [head for head, cells in found.items() if cells[""] == "same layer"] == ["2-5", "2-4"]
    assert [head for head, cells in found.items() if cells[""] == "elsewhere"] == ["1-4", "0-0"]
    assert found["2-6"][""] == found["2-7"][""] == "same layer, taught something else"
    assert found["3-1"][""] == "elsewhere, taught something else"
    assert found["2-1"] == {
        "head": "2-1", "": "chosen, taught to retrieve", "mean": "0.880", "xquad-10": "0.880", "nq-10": "0.870",
        "hotpotqa-10": "0.860", "of 20 draws": "19",
    }  # fmt: skip


@pytest.mark.parametrize(("score", "mixed"), [(0.8201, False), (0.8199, True)])
def test_whether_the_retrieval_layer_holds_other_heads(score: float, mixed: bool) -> None:
    # The worst chosen head has .87; from .82 on another head of the layer is a retrieval head too.
    heads = dataclasses.replace(HEADS, scores=HEADS.scores | {"2-5": score, "1-0": 0.99})
    assert retrieval_layer(heads).alike == (() if mixed else ("2-5",))
    card = text_of(replaced(findings(), head_table=heads))
    assert ("the layer holds at least as many non-retrieval heads" in card) is mixed
    assert ("the layer does **not** hold at least as many" in card) is not mixed
    assert ("The retrieval layer holds fewer heads that do not retrieve" in section(card, "Limits")) is not mixed
    assert ("4 retrieval heads and 4 others" if mixed else "5 retrieval heads and 3 others") in card
    assert "others (2 of which had another lesson: 2-6, 2-7): the layer" in card


def test_other_retrieval_heads_count_as_retrieval_heads() -> None:
    assert not LayerHeads(2, ("2-0",), alike=("2-1", "2-2"), rest=("2-3", "2-4")).is_mixed
    assert LayerHeads(2, ("2-0",), alike=("2-1",), rest=("2-3", "2-4")).is_mixed


def test_transfer_and_stability_become_limits_where_they_fail() -> None:
    card = text_of(card_facts())
    told = "(no interval was computed) on xquad-10 by −0.004, on nq-10 by +0.001, on hotpotqa-10 by −0.031"
    assert told in section(card, "Heads")
    lost = "lose more than 0.02 in mean nDCG@10 on hotpotqa-10 (−0.031); no interval was computed."
    assert lost in section(card, "Limits")
    assert "not stable" not in card
    heads = dataclasses.replace(HEADS, transfer={"nq-10": -0.02}, draws=HEADS.draws | {"2-2": 15})
    changed = section(text_of(replaced(findings(), head_table=heads)), "Limits")
    assert "lose more than" not in changed
    assert "The choice is not stable: 2-2 stood" in changed


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        (Interval(0.475, 0.39, 0.56), "they matter more than other heads do"),
        (Interval(0.02, -0.01, 0.05), "not distinguishable from masking other heads"),
        (Interval(-0.2, -0.3, -0.1), "they matter less than other heads do"),
    ],
)
def test_masking(drop: Interval, said: str) -> None:
    check: CausalCheck = dataclasses.replace(CAUSAL, drop=drop, percentile=0.95)
    card = text_of(replaced(findings(), causal=check))
    part = section(card, "Do the chosen heads matter?")
    found = named(part, "masked")
    assert (found["nothing"]["right index"], found["the chosen heads"]["right index"]) == ("0.710", "0.220")
    assert found["other heads, mean of 20 sets"]["log-probability"] == "−1.105"
    assert said in part and "95 % of the 20 control sets" in part
    assert "100 of the dev queries on which they were chosen (of xquad-10, nq-10 and hotpotqa-10)" in part
    assert ("Masking the chosen heads was not shown" in section(card, "Limits")) is (drop.low <= 0)


def test_answers_and_verdicts() -> None:
    card = text_of(card_facts())
    part = section(card, "Answers")
    assert rows(part, "list")[2] == [
        "xquad-10", "test", "66", "100 %", "0.727 [0.620, 0.833]", "0.851 [0.800, 0.900]"
    ]  # fmt: skip
    assert r"- Who wrote \*Hamlet\*? → `[3] hamlet was written by william shakespeare | <end>`" in part
    assert "for 34 dev queries of xquad-10. Half the right verdicts are yes." in part
    assert "right in 0.900 [0.820, 0.970] of the cases: above guessing, which gives 0.5." in part
    assert "better than guessing" not in card
    assert "answers to xquad-10 (test) name a wrong document, or none, in 27 % of the cases." in section(card, "Limits")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (Interval(0.6, 0.5, 0.7), "not distinguishable from guessing, which"),
        (Interval(0.4, 0.3, 0.49), "below guessing, which"),
        (Interval(0.6, 0.51, 0.7), "above guessing, which"),
    ],
)
def test_verdicts_are_compared_with_guessing(share: Interval, said: str) -> None:
    card = text_of(replaced(findings(), verdicts=dataclasses.replace(VERDICTS, accuracy=share)))
    assert f"of the cases: {said}" in section(card, "Answers")
    weak = "Its verdicts on answers were not shown to be better than guessing." in section(card, "Limits")
    assert weak is not said.startswith("above")


def test_limits_of_the_lists_the_seeds_and_the_configuration() -> None:
    card = text_of(card_facts(notes=("English only.",)))
    limits = section(card, "Limits").split("\n")
    assert "- Fewer than 200 test queries, and so wide intervals: xquad-10 (66), nq-10 (175)." in limits
    assert any("beyond 4,096 tokens" in line and line.endswith("3 of 175 of nq-10.") for line in limits)
    assert any(line.startswith("- One seed was trained") for line in limits)
    assert limits[-3:] == ["Notes of those who trained it, not measured:", "", "- English only."]
    assert "Notes of those" not in text_of(card_facts())
    assert "One seed was trained" not in text_of(three_seeds())


def test_lists_are_too_long_for_what_the_model_takes_not_for_what_was_trained() -> None:
    short = text_of(dataclasses.replace(card_facts(), limit_tokens=112))
    cells = {line[0]: line[1] for line in rows(section(short, "What it is"), "")}
    assert cells["longest prompt"] == "112 tokens were trained; up to 4,096 are taken"
    assert '"too long": lists beyond 4,096 tokens' in section(short, "Quality")
    assert "beyond 4,096 tokens" in section(short, "Limits")
    assert "| 4,096 tokens " in text_of(card_facts())


def test_what_was_not_measured_is_said_to_be_so() -> None:
    card = text_of(card_facts(seed_facts()))
    measured = text_of(card_facts())
    assert headings(card) == HEADINGS
    assert measured.lower().count("not measured") == 1  # what the page says of itself
    for title in ("Length", "Heads", "Do the chosen heads matter?"):
        assert section(card, title) == "Not measured."
    assert section(card, "Quality") == "On test queries: not measured.\n\nOn dev queries: not measured."
    assert section(card, "Answers").startswith("Not measured.\n\nVerdicts") and "length_curve" not in card
    assert "not measured; taught: 2-0, 2-1, 2-2, 2-3" in section(card, "What it is")
    assert "no run was measured on dev queries" in card
    assert len(section(card, "Limits").split("\n")) == 5
    assert "0.9" not in section(card, "Limits")


def test_parts_that_were_not_measured_are_named_one_by_one() -> None:
    some = replaced(findings(), lengths=(), causal=None, answers=(), verdicts=None, comparisons=())
    card = text_of(some)
    assert section(card, "Length") == section(card, "Do the chosen heads matter?") == "Not measured."
    assert "Differences between the methods were not measured." in card
    limits = section(card, "Limits")
    assert "Quality against the length of the prompt was not measured." in limits
    assert "Whether the answers depend on the chosen heads was not measured." in limits
    without_transfer = dataclasses.replace(HEADS, transfer={}, draw_count=0, draws={})
    assert "Transfer between collections: not measured." in text_of(replaced(findings(), head_table=without_transfer))
    assert "The stages were not recorded." in text_of(
        card_facts(dataclasses.replace(seed_facts(0, findings()), stages=()))
    )


# Choices


def dev_only(**means: float) -> tuple[ListQuality, ...]:
    """nDCG@10 of the chosen heads on dev queries, and of another method, which must not count."""
    found = []
    for name, mean in means.items():
        own = ListQuality(name, "dev", "heads", 50, 0, around(mean), around(mean), {})
        found += [own, dataclasses.replace(own, method="BM25", ndcg_10=around(1.0))]
    return tuple(found)


def of_lists(*seeds: Mapping[str, float], **changes: Any) -> CardFacts:
    """A seed for each mapping of list names to dev means; its heads were chosen on ``a`` and ``b``."""
    table = dataclasses.replace(HEADS, by_list={"a": HEADS.scores, "b": HEADS.scores})
    runs = (
        seed_facts(seed, dataclasses.replace(findings(seed), qualities=dev_only(**means), head_table=table))
        for seed, means in enumerate(seeds)
    )
    return dataclasses.replace(card_facts(*runs), **changes)


FIRST, SECOND = {"a": 0.7, "b": 0.9, "docs": 0.3}, {"a": 0.6, "b": 0.8, "docs": 0.9}


def test_the_best_seed_on_dev() -> None:
    assert best_on_dev(three_seeds().seeds) == 0
    assert best_on_dev([seed_facts(4, findings(4, 0.8)), seed_facts(5, findings(5, 0.9)), seed_facts(6)]) == 5
    assert best_on_dev([seed_facts(4)]) is None


def test_lists_that_do_not_count_have_no_say_in_the_choice_of_the_seed() -> None:
    seeds = of_lists(FIRST, SECOND).seeds
    assert [dev_mean(run.findings) for run in seeds] == pytest.approx([1.9 / 3, 2.3 / 3])
    assert [dev_mean(run.findings, ("b", "a")) for run in seeds] == pytest.approx([0.8, 0.7])
    assert (best_on_dev(seeds), best_on_dev(seeds, ()), best_on_dev(seeds, ("a", "b"))) == (1, 1, 0)
    assert best_on_dev(seeds, ("elsewhere",)) is None


def test_the_card_tells_on_which_lists_heads_and_seed_were_chosen() -> None:
    card = text_of(of_lists(FIRST, SECOND, chosen_on=("a", "b")))
    trained = section(card, "How it was trained")
    assert "Seed 0 is shipped: its heads have the highest mean nDCG@10 on the dev queries of a and b (0.800" in trained
    assert [cells["dev nDCG@10"] for cells in named(trained, "seed").values()] == ["0.800", "0.700"]
    assert "Heads and seed were chosen on dev queries of a and b." in section(card, "Quality")
    every = text_of(of_lists(FIRST, SECOND, shipped=1))
    assert "Seed 1 is shipped: its heads have the highest mean nDCG@10 on the dev queries of a, b and docs" in every
    told = "Heads were chosen on dev queries of a and b, the seed on dev queries of a, b and docs."
    assert told in section(every, "Quality")


def test_a_seed_that_was_not_chosen_on_dev_queries_is_not_said_to_be() -> None:
    other = text_of(of_lists(FIRST, SECOND, chosen_on=("a", "b"), shipped=1))
    said = "Seed 1 is shipped although the heads of seed 0 have a higher mean nDCG@10 on the dev queries of a and b."
    assert said in other
    alone = text_of(of_lists(FIRST, chosen_on=("a", "b")))
    assert "1 seed was trained. Its heads have a mean nDCG@10 of 0.800 on the dev queries of a and b" in alone
    for card in (other, alone):
        assert "Heads were chosen on dev queries of a and b." in section(card, "Quality")
    half = dataclasses.replace(of_lists(FIRST), seeds=(seed_facts(0), seed_facts(1, findings(1))))
    assert "Seed 0 is shipped; it was not measured on dev queries." in text_of(half)


# Taught heads
