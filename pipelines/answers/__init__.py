"""Answering questions from contexts: where those come from, how they are answered and judged, what is told of it."""
