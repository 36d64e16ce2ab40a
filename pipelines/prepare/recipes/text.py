"""Plain text files, each a document named by its path; queries in a table of their own."""

from __future__ import annotations

from pipelines.prepare.recipes import Recipe
from pipelines.prepare.recipes.documents import prepare

RECIPE = Recipe({"file": "UTF-8 text", "query_id, query, document_id": "in the table of queries"}, prepare)
