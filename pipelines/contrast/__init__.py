"""Answering with contrast to what a model says without its retrieval heads."""
