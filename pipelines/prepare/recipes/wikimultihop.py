"""2WikiMultihopQA, whose rows have the form of HotpotQA's."""

from __future__ import annotations

from pipelines.prepare.recipes.hotpotqa import RECIPE as HOTPOTQA

RECIPE = HOTPOTQA
