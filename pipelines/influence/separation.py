"""Whether documents that copy from themselves need a set of heads more than plain ones, and more than other heads.

Nearly any mask makes a copy harder to predict, so that the order of documents alone (AUC) proves little. The result is
the difference of means, copied minus plain, against the same difference for control sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

import numpy as np

from pipelines.measures import Difference, paired_bootstrap

COPIED: Final = "copied"
PLAIN: Final = "plain"
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class Separation:
    """``auc``: chance that a copied document has a higher influence than a plain one; ``difference``: mean influence of
    copied minus plain documents with its 95 % interval over pairs; ``controls``: the same mean for every control set;
    ``percentile``: share of control sets that ``difference`` is above; ``beyond``: it minus the controls' mean, pair by
    pair; ``noise``: the largest relative change of a loss in a repeated pass, None where none was made."""

    pairs: int
    auc: float
    difference: Difference
    controls: tuple[float, ...]
    percentile: float
    beyond: Difference
    noise: float | None


def pair_rows(halves: Sequence[str], domain: str) -> Iterator[dict[str, Any]]:
    """Documents in pairs: of two neighbouring texts, both together (plain), and the first one twice (copied)."""
    for number, (first, other) in enumerate(zip(halves[::2], halves[1::2], strict=False)):
        for kind, second in ((PLAIN, other), (COPIED, first)):
            yield {"doc_id": f"{kind}-{number:04}", "domain": domain, "text": f"{first}\n\n{second}"}


def separation(rows: Sequence[Mapping[str, Any]]) -> Separation:
    """What scored documents say that :func:`pair_rows` has made; a pair with a failed one is left out.

    Raises :class:`qrcore.errors.InputError` where no pair is left.
    """
    scored = {row["doc_id"]: row for row in rows if row["error"] is None}
    numbers = [name.removeprefix(f"{COPIED}-") for name in scored if name.startswith(f"{COPIED}-")]
    pairs = {n: (scored[f"{COPIED}-{n}"], scored[f"{PLAIN}-{n}"]) for n in numbers if f"{PLAIN}-{n}" in scored}
    influence = {n: copied["influence"] - plain["influence"] for n, (copied, plain) in pairs.items()}
    others = {n: _gaps(copied, plain) for n, (copied, plain) in pairs.items()}
    means = tuple(np.mean(list(others.values()), axis=0).tolist()) if others else ()
    difference = paired_bootstrap(influence, dict.fromkeys(influence, 0.0), _SEED)
    average = {n: float(np.mean(gaps)) if len(gaps) else 0.0 for n, gaps in others.items()}
    used = [one for pair in pairs.values() for one in pair]
    return Separation(
        pairs=len(pairs),
        auc=_auc([pair[0]["influence"] for pair in pairs.values()], [pair[1]["influence"] for pair in pairs.values()]),
        difference=difference,
        controls=means,
        percentile=fmean(difference.mean > mean for mean in means) if means else 0.0,
        beyond=paired_bootstrap(influence, average, _SEED),
        noise=max(row["noise"] for row in used) if all(row["noise"] is not None for row in used) else None,
    )


def _gaps(copied: Mapping[str, Any], plain: Mapping[str, Any]) -> np.ndarray:
    one, other = (np.array(row["control_influence"], dtype=np.float64) for row in (copied, plain))
    gaps: np.ndarray = one - other
    return gaps


def _auc(higher: Sequence[float], lower: Sequence[float]) -> float:
    one, other = np.array(higher)[:, None], np.array(lower)[None, :]
    return float(np.mean((one > other) + 0.5 * (one == other)))
