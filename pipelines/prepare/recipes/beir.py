"""A BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/SPLIT.tsv``."""

from __future__ import annotations

from pipelines.prepare.recipes import Recipe
from pipelines.prepare.recipes.tables import prepare

RECIPE = Recipe({"_id": "text, in corpus.jsonl and queries.jsonl", "text": "text", "title": "text, corpus"}, prepare)
