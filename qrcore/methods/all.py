"""All heads of all layers, unchosen: in-context re-ranking (ICR, arXiv 2410.02642), the baseline of head selection."""

from __future__ import annotations

from qrcore.contracts.method import Method, Needs
from qrcore.heads import HeadSet, ModelShape, all_heads


def build(shape: ModelShape) -> HeadSet:
    """The head set of every head."""
    return all_heads(shape)


METHOD = Method(
    name="all", kind="baseline", source="In-context re-ranking, arXiv 2410.02642", needs=Needs(), build=build
)
