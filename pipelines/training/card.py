"""The model card: what a trained model is, how it was made, and what was measured of it, in Markdown."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined
from markupsafe import escape

from pipelines.report.charts import short
from pipelines.report.html import bytes_text, duration, fixed
from pipelines.training import claims, tables
from pipelines.training.curves import LENGTH_CURVE, TRAINING_CURVE, accuracies_at
from pipelines.training.facts import (
    CardFacts,
    SeedFacts,
    TrainingText,
    best_on_dev,
    helping_heads,
    taught_names,
)
from pipelines.training.limits import limits
from pipelines.training.markdown import code, filled, plain, wrapped
from qrcore.training.retrieval import NULL_QUERY, LossWeights

__all__ = ["CardFacts", "SeedFacts", "TrainingText", "best_on_dev", "model_card"]

TEMPLATE: Final = "model_card.md.j2"


def model_card(facts: CardFacts) -> str:
    """The card in GitHub's Markdown. It names the pictures of :mod:`pipelines.training.curves`, which lie beside it."""
    # What is given as text goes through `plain`; escaping for HTML would spoil quotation marks.
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "plain": plain,
        "code": code,
        "fixed": fixed,
        "short": short,
        "amount": lambda value: f"{value:,}",
        "bytes": bytes_text,
        "duration": duration,
        "alt": lambda text: filled(str(escape(text))),
    }
    run = facts.shipped_run
    chosen = run.findings.head_table.chosen if run.findings else ()
    helping = helping_heads(facts.taught, facts.shape)
    source = files("pipelines.training").joinpath(TEMPLATE).read_text(encoding="utf-8")
    card = environment.from_string(source).render(
        facts=facts,
        run=run,
        found=run.findings,
        measured=[one for one in facts.seeds if one.findings],
        layer=claims.retrieval_layer(run.findings.head_table) if run.findings and chosen else None,
        layers=sorted({claims.layer_of(head) for head in chosen}),
        taught=taught_names(facts.taught),
        lessons=helping,
        helping={head for heads in helping.values() for head in heads},
        weights=LossWeights(),
        null_query=NULL_QUERY,
        limits=limits(run.findings, len(facts.seeds), facts.shape.max_positions),
        claims=claims,
        tables=tables,
        accuracies_at=accuracies_at,
        training_curve=TRAINING_CURVE,
        length_curve=LENGTH_CURVE,
    )
    return wrapped(card)
