"""Runs against judgements: measures with intervals, tests between runs, a page that compares two."""
