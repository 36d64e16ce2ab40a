"""The models in the package: their sizes, their shapes, and what they must get right whatever their numbers are."""

from __future__ import annotations

import json
import random

import pytest

from qrcore import Document, load_scorer
from qrcore.methods.qrhead import QRHeadScorer
from qrcore.shipped import EMBEDDED_MODELS, embedded_folder

MOST_BYTES = 12_000_000

FACTS = {
    "How do bees make honey?": "Bees collect nectar from flowers, carry it to the hive and turn it into honey.",
    "Where does the river Rhine end?": "The river Rhine rises in the Alps, flows north and ends in the North Sea.",
    "Who painted the ceiling of the chapel?": "The ceiling of the chapel was painted by Michelangelo in four years.",
    "When was the railway bridge opened?": "The railway bridge over the valley was opened in the spring of 1883.",
    "What do whales eat?": "Most whales eat small shrimps and fish, which they sieve from the water.",
    "Why is the desert cold at night?": "The desert is cold at night because dry air does not keep the heat.",
}
#: Tokens that text for training hardly holds.
ODD = ("\u00e6\u00f8\u00e5", "##]", "[[", "~~~", "@@#", "{}{}", "\u4e2d\u6587", "\U0001f600", "^^|", "[99]")


@pytest.fixture(scope="module", params=sorted(EMBEDDED_MODELS))
def scorer(request: pytest.FixtureRequest) -> QRHeadScorer:
    return load_scorer(request.param, device="cpu")


def test_both_fit_into_the_package() -> None:
    sizes = {name: sum(path.stat().st_size for path in embedded_folder(name).iterdir()) for name in EMBEDDED_MODELS}
    assert all(size > 1_000_000 for size in sizes.values()), sizes
    assert sum(sizes.values()) <= MOST_BYTES, sizes


@pytest.mark.parametrize("name", sorted(EMBEDDED_MODELS))
def test_each_has_its_licences_and_heads_in_the_middle(name: str) -> None:
    folder = embedded_folder(name)
    card = (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "CC BY-SA 4.0" in card
    heads = json.loads((folder / "headset.json").read_text(encoding="utf-8"))["heads"]
    layers = json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    assert len(heads) >= 4 and len({head.split("-")[0] for head in heads}) == 1
    assert 0 < int(heads[0].split("-")[0]) < layers - 1, "a middle layer, so that layers above are cut off"


def test_the_second_has_grouped_heads_and_six_layers() -> None:
    first, second = (
        json.loads((embedded_folder(name) / "config.json").read_text(encoding="utf-8"))
        for name in ("embedded", "embedded-gqa")
    )
    assert first["num_key_value_heads"] == first["num_attention_heads"]
    assert second["num_key_value_heads"] < second["num_attention_heads"]
    assert second["num_hidden_layers"] >= 6


def test_only_the_layers_below_the_cut_are_there(scorer: QRHeadScorer) -> None:
    depth = scorer.heads.depth
    assert scorer.model.depth == depth < scorer.model.source.shape.layers
    assert len(scorer.model.model.layers) == depth


def test_facts_are_found_among_others(scorer: QRHeadScorer) -> None:
    documents = [Document(doc_id=question, text=fact) for question, fact in FACTS.items()]
    right = [scorer.rank(question, documents).documents[0].doc_id == question for question in FACTS]
    assert sum(right) >= len(right) - 1, right


@pytest.mark.parametrize("copies", [4, 8])
def test_rare_tokens_and_high_numbers_do_not_draw_the_heads_away(scorer: QRHeadScorer, copies: int) -> None:
    """Tokens that training hardly met once drew half of the attention in wrong documents of long lists."""
    rng = random.Random(0)
    right = []
    for question, fact in FACTS.items():
        others = [other for other in FACTS.values() if other != fact] * copies
        odd = [" ".join([*other.split()[:6], *rng.sample(ODD, 4), *other.split()[6:]]) for other in others]
        documents = [Document(doc_id=str(number), text=text) for number, text in enumerate(odd)]
        documents.insert(rng.randrange(len(documents)), Document(doc_id="gold", text=fact))
        right.append(scorer.rank(question, documents).documents[0].doc_id == "gold")
    assert sum(right) >= len(right) - 1, right
