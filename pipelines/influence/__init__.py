"""Scoring documents by what a model's retrieval heads do for them."""
