"""Choose the embedded model's heads: ``python -m tests.benchmarks.embedded_heads --model FOLDER --top 6``.

Every head ranks the *dev* lists of ``--lists`` alone; heads are ordered by mean nDCG@10 (the paper's detection on
retrieval data), the best ``--top`` become ``headset.json`` in the model folder, and the whole table is printed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch

from qrcore import HeadSet, load_scorer
from qrcore.models import model_shape, open_model, weights_sha256
from qrcore.prompts import EMBEDDED
from tests.benchmarks.embedded_lists import BUILDERS, JudgedList, build_lists
from tests.benchmarks.embedded_quality import per_query


def head_scores(model: str, names: Sequence[str]) -> tuple[dict[str, float], int]:
    """Mean nDCG@10 over dev lists of each head alone, best first (lists weigh alike), and how many queries."""
    scorer = load_scorer(model, heads="all", prompt=EMBEDDED.name)
    by_list = [[entry for entry in build_lists(name) if entry.is_dev] for name in names]
    heads = [str(head) for head in scorer.heads.head_list]
    tables = [_list_scores([scorer.score_heads(e.query, e.documents) for e in lists], lists) for lists in by_list]
    scores = {head: mean(table[place] for table in tables) for place, head in enumerate(heads)}
    return dict(sorted(scores.items(), key=lambda item: -item[1])), sum(map(len, by_list))


def _list_scores(tensors: Sequence[torch.Tensor], lists: Sequence[JudgedList]) -> list[float]:
    flat = [tensor.flatten(1) for tensor in tensors]
    return [mean(per_query(lists, [t[:, head].tolist() for t in flat])[0]) for head in range(flat[0].shape[1])]


def head_set(model: str, names: Sequence[str], top: int) -> tuple[HeadSet, dict[str, float]]:
    """The best heads as a head set of this model, and the scores of all."""
    scores, queries = head_scores(model, names)
    chosen = list(scores)[:top]
    found = HeadSet(
        name="embedded",
        heads=tuple(chosen),
        scores=tuple(round(scores[head], 4) for head in chosen),
        model_id="embedded",
        weights_sha256=weights_sha256(model),
        shape=model_shape(open_model(model).config),
        method="qrhead",
        method_settings={"measure": "ndcg@10", "part": "dev"},
        detection_data=", ".join(names),
        examples=queries,
        prompt=EMBEDDED,
        null_query="N/A",
        calibration_weight=1.0,
        query_span="official",
        order="as_given",
        dtype="float32",
    )
    return found, scores


def main() -> None:
    """Detect, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--top", type=int, default=6)
    parser.add_argument("--lists", nargs="*", choices=tuple(BUILDERS), default=("nq-10", "xquad-10"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found, scores = head_set(arguments.model, arguments.lists, arguments.top)
    for head, score in scores.items():
        print(f"{head:6} {score:.3f} {'chosen' if head in found.heads else ''}")
    content = found.model_dump(mode="json", exclude_none=True)
    path = Path(arguments.model) / "headset.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
