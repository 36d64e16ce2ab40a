"""What finding heads has found, as plain values: the content of its ``report.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.detection.found import Examples, Found, overlaps, warnings
from qrcore.heads import HeadSet


def detection_report(artifact: HeadSet, chosen: Found, others: Sequence[Found], examples: Examples) -> dict[str, Any]:
    """The head set, every method's scores and choice, and what speaks for and against them."""
    methods = [chosen, *others]
    return {
        "head_set": {
            "id": artifact.id,
            **artifact.model_dump(mode="json", exclude_none=True, exclude={"detection_queries"}),
        },
        "examples": {
            "used": len(examples.prompt_tokens),
            "kept_back": examples.kept_back,
            "failed": dict(sorted(examples.errors.items())),
            "relevant": examples.relevant,
            "relevant_elsewhere": examples.relevant_elsewhere,
            "judged_without_row": examples.judged_without_row,
        },
        "methods": {one.method: _method(one) for one in methods},
        "overlap": {"methods": [one.method for one in methods], "shares": overlaps(methods)},
        "warnings": list(warnings(chosen, examples)),
    }


def _method(found: Found) -> dict[str, Any]:
    stable = found.stability
    return {
        "settings": dict(found.settings),
        "chosen": [str(one.head) for one in found.chosen],
        "scores": {str(one.head): [one.score, one.std, one.low, one.high] for one in found.scores},
        "stability": stable
        and {
            "overlap": stable.overlap,
            "chance": stable.chance,
            "draws": stable.draws,
            "kept": {str(head): share for head, share in stable.kept.items()},
        },
    }
