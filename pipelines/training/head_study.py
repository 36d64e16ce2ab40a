"""Which heads of a trained model retrieve: every head alone on dev lists, and how sure the choice among them is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipelines.training.findings import HeadTable
from pipelines.training.judged import JudgedList, JudgedSet
from pipelines.training.orders import best_first, open_scorer, quality, scorer_order
from qrcore.contracts.scorer import Scorer
from qrcore.errors import ConfigError, InputError, ScoreError
from qrcore.heads import Head, HeadSet
from qrcore.matching import query_digest
from qrcore.models import open_model, weights_sha256
from qrcore.prompts import EMBEDDED
from qrcore.training.retrieval import NULL_QUERY

_Floats = npt.NDArray[np.float64]

HEAD_SET_FILE: Final = "headset.json"
_NOT_MEASURED: Final = "Training taught these heads to find the document asked for; how well they do was not measured."
_METHOD_SETTINGS: Final = {"measure": "ndcg@10", "part": "dev", "layers": "one"}


def head_table(
    folder: str, sets: Sequence[JudgedSet], top: int, *, draws: int = 20, seed: int = 0, device: str = "auto"
) -> HeadTable:
    """Rank dev lists by each head alone and choose the ``top`` best heads of one layer.

    Lists weigh alike, whatever their number of queries. ``draws`` random halves of each list's dev queries tell how
    stable the choice is; transfer compares, list by list, the heads that the other lists choose with those that the
    list itself chooses. Raises :class:`InputError` without dev lists, :class:`ConfigError` if no layer has ``top``
    heads.
    """
    by_name = {judged.name: judged.part("dev") for judged in sets if judged.part("dev")}
    if not by_name:
        raise InputError("lists: expected dev queries to choose heads on, got none. Give lists with more queries.")
    scorer = open_scorer(folder, "all", device)
    heads = scorer.heads.head_list
    _check_top(top, heads)
    tables = {name: _ndcg_by_head(scorer, lists) for name, lists in by_name.items()}
    means = {name: table.mean(axis=0) for name, table in tables.items()}
    overall = np.mean(list(means.values()), axis=0)
    counts = _count_draws(tables, heads, top, draws, seed)
    ranked = _best_first(overall, heads)
    return HeadTable(
        scores={str(heads[place]): float(overall[place]) for place in ranked},
        chosen=tuple(map(str, _choose(overall, heads, top))),
        queries=sum(map(len, by_name.values())),
        detection_queries=tuple(
            sorted(query_digest(one.query_id, one.query) for lists in by_name.values() for one in lists)
        ),
        by_list={name: {str(heads[place]): float(own[place]) for place in ranked} for name, own in means.items()},
        draws={str(heads[place]): counts[heads[place]] for place in ranked},
        draw_count=draws,
        transfer=_transfer(folder, by_name, means, heads, top, device),
    )


def write_head_set(folder: str, table: HeadTable, *, name: str = "embedded") -> HeadSet:
    """Write the chosen heads, best first, as the model folder's ``headset.json``, and return them."""
    return _write(
        folder,
        name,
        table.chosen,
        scores=tuple(round(table.scores[head], 4) for head in table.chosen),
        method="qrhead",
        method_settings=dict(_METHOD_SETTINGS),
        detection_data=", ".join(table.by_list),
        examples=table.queries,
        detection_queries=table.detection_queries,
    )


def write_taught_head_set(folder: str, heads: Sequence[str], *, name: str = "embedded") -> HeadSet:
    """Write heads (``layer-head``) that were taught to retrieve as the model folder's ``headset.json``, and return
    them: the best guess where nothing was measured."""
    return _write(folder, name, tuple(heads), method="taught", notes=_NOT_MEASURED)


def remove_head_set(folder: str) -> None:
    """Leave the model folder without a ``headset.json``."""
    Path(folder, HEAD_SET_FILE).unlink(missing_ok=True)


def _write(folder: str, name: str, heads: tuple[str, ...], **known: Any) -> HeadSet:
    source = open_model(folder)
    found = HeadSet(
        name=name,
        heads=heads,
        model_id=name,
        weights_sha256=weights_sha256(source.path),
        shape=source.shape,
        prompt=EMBEDDED,
        null_query=NULL_QUERY,
        calibration_weight=1.0,
        query_span="official",
        order="as_given",
        dtype="float32",
        **known,
    )
    content = json.dumps(found.model_dump(mode="json", exclude_none=True), indent=1)
    Path(source.path, HEAD_SET_FILE).write_text(content + "\n", encoding="utf-8")
    return found


def _check_top(top: int, heads: Sequence[Head]) -> None:
    most = max(Counter(head.layer for head in heads).values())
    if not 1 <= top <= most:
        raise ConfigError(
            f"top: expected 1 to {most} heads, as many as a layer of this model has, got {top}. Lower it."
        )


def _ndcg_by_head(scorer: Scorer, lists: Sequence[JudgedList]) -> _Floats:
    """nDCG@10 ``[query, head]`` of each head alone."""
    scores = [_scores_by_head(scorer, entry) for entry in lists]
    columns = []
    for head in range(scores[0].shape[1]):
        order = {
            entry.query_id: best_first(entry, own[:, head].tolist()) for entry, own in zip(lists, scores, strict=True)
        }
        measured = quality(lists, order).ndcg_10
        columns.append([measured[entry.query_id] for entry in lists])
    return np.array(columns).T


def _scores_by_head(scorer: Scorer, entry: JudgedList) -> _Floats:
    """Scores ``[document, head]``; zeros, which leave the order as given, for a list beyond the model's limit."""
    try:
        scores = scorer.score_heads(entry.query, entry.documents).flatten(1).numpy()
    except ScoreError as error:
        if error.code != "context_too_long":
            raise
        scores = np.zeros((len(entry.documents), len(scorer.heads.heads)))
    return np.asarray(scores, dtype=np.float64)


def _best_first(means: _Floats, heads: Sequence[Head]) -> list[int]:
    return sorted(range(len(heads)), key=lambda place: (-means[place], heads[place]))


def _choose(means: _Floats, heads: Sequence[Head], top: int) -> tuple[Head, ...]:
    """The ``top`` best heads of the layer whose ``top`` best heads have the highest mean, best first.

    All of one layer: a single good head further up would make every job run the layers in between for all documents.
    """
    by_layer: dict[int, list[int]] = {}
    for place in _best_first(means, heads):
        by_layer.setdefault(heads[place].layer, []).append(place)
    candidates = [places[:top] for places in by_layer.values() if len(places) >= top]
    best = max(candidates, key=lambda places: fmean(means[place] for place in places))
    return tuple(heads[place] for place in best)


def _count_draws(
    tables: Mapping[str, _Floats], heads: Sequence[Head], top: int, draws: int, seed: int
) -> Counter[Head]:
    counts: Counter[Head] = Counter()
    for draw in range(draws):
        generator = np.random.default_rng((seed, draw))
        halves = [generator.permutation(len(table))[: -(-len(table) // 2)] for table in tables.values()]
        means = [table[half].mean(axis=0) for table, half in zip(tables.values(), halves, strict=True)]
        counts.update(_choose(np.mean(means, axis=0), heads, top))
    return counts


def _transfer(
    folder: str,
    by_name: Mapping[str, Sequence[JudgedList]],
    means: Mapping[str, _Floats],
    heads: Sequence[Head],
    top: int,
    device: str,
) -> dict[str, float]:
    """For each list, nDCG@10 of the heads chosen on the others less that of its own choice; empty with one list."""
    if len(by_name) < 2:
        return {}
    lost = {}
    for name, lists in by_name.items():
        own = _choose(means[name], heads, top)
        others = _choose(np.mean([table for other, table in means.items() if other != name], axis=0), heads, top)
        same = set(own) == set(others)
        lost[name] = 0.0 if same else _mean_ndcg(folder, others, lists, device) - _mean_ndcg(folder, own, lists, device)
    return lost


def _mean_ndcg(folder: str, heads: Sequence[Head], lists: Sequence[JudgedList], device: str) -> float:
    scorer = open_scorer(folder, heads, device)
    return fmean(quality(lists, scorer_order(lists, scorer)[0]).ndcg_10.values())
