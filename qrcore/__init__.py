"""qrcore: the science of qrbatch, without Ray, storage or printing.

Axes, everywhere: ``layer head query key doc token``. A head is (layer, query head), both from 0, written
``layer-head``. Spans are half-open token ranges. Scores are float32 and comparable within one prompt only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qrcore.contracts.scorer import Reading as Reading
    from qrcore.contracts.scorer import Scorer as Scorer
    from qrcore.errors import QRBatchError as QRBatchError
    from qrcore.errors import ScoreError as ScoreError
    from qrcore.heads import Head as Head
    from qrcore.heads import HeadSet as HeadSet
    from qrcore.loading import load_scorer as load_scorer
    from qrcore.records import Document as Document
    from qrcore.records import RankedDocument as RankedDocument
    from qrcore.records import Ranking as Ranking
    from qrcore.records import RankRequest as RankRequest

_HOMES = {
    "Document": "records",
    "Head": "heads",
    "HeadSet": "heads",
    "QRBatchError": "errors",
    "RankRequest": "records",
    "RankedDocument": "records",
    "Ranking": "records",
    "Reading": "contracts.scorer",
    "ScoreError": "errors",
    "Scorer": "contracts.scorer",
    "load_scorer": "loading",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import on first use: the command line needs the records and errors, not torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'qrcore' has no attribute {name!r}")
    return getattr(import_module(f"qrcore.{_HOMES[name]}"), name)
