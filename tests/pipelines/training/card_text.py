"""Reading a model card in tests: its sections, and the cells of its tables."""

from __future__ import annotations

import re

from pipelines.training.card import CardFacts, model_card
from tests.pipelines.training.card_samples import (
    card_facts,
    findings,
    seed_facts,
)

SEEDS = {0: 0.95, 1: 0.93, 2: 0.944}


def three_seeds(shipped: int = 0) -> CardFacts:
    return card_facts(*(seed_facts(seed, findings(seed, heads)) for seed, heads in SEEDS.items()), shipped=shipped)


def text_of(facts: CardFacts) -> str:
    """The card with every paragraph on one line."""
    card = model_card(facts).replace("\N{NO-BREAK SPACE}", " ")
    return re.sub(r"(?<=[^\n|])\n *(?=[^\n|#<-])", " ", card)


def headings(card: str) -> list[str]:
    return re.findall(r"^#+ .*", card, re.MULTILINE)


HEADINGS = headings(model_card(card_facts()))


def section(card: str, title: str) -> str:
    return re.split(r"\n#+ ", card.split(f"# {title}\n")[1])[0].strip()


def rows(part: str, first: str) -> list[list[str]]:
    """Cells of the table whose first header is `first`."""
    lines = [line for line in part.split("\n\n") if line.startswith("|") and line.split("|")[1].strip() == first]
    assert len(lines) == 1, first
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[0].split("\n")]


def named(part: str, first: str) -> dict[str, dict[str, str]]:
    header, _, *body = rows(part, first)
    return {line[0]: dict(zip(header, line, strict=True)) for line in body}
