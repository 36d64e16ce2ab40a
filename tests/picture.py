"""Draw the README's picture, three questions before and after: ``python -m tests.picture --output demo.svg``.

The questions and the documents are those of ``make demo``, ranked in this process by the embedded model. Shown are the
questions that the demo's report shows, too: the largest gain, the one in the middle, and the largest loss.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq
from markupsafe import Markup

from jobs.demo import CANDIDATES, QUESTIONS
from pipelines.labels import Qrels, load_qrels
from pipelines.measures import evaluate
from pipelines.python_docs import QRELS_FILE, SHARDS_FOLDER, build
from pipelines.report.charts import number
from pipelines.rows import request_from_row
from pipelines.storage import StorageOptions
from qrcore import load_scorer
from qrcore.records import Ranking, RankRequest

PICTURE: Final = Path(__file__).parent / "data" / "demo.svg"
_SHOWN: Final = 5
_WIDTH, _ROW, _HEAD = 860, 22, 52
#: Characters of a name that stand in their column, bold ones too.
_NAME: Final = 46
_STYLE: Final = """
svg { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif; }
text { fill: #1a1f26; } .soft { fill: #59636f; } .title { font-weight: 600; font-size: 14px; }
.right { font-weight: 600; fill: #18794a; } .line { stroke: #dfe3e8; } .bar { fill: #2f62c9; } .hit { fill: #18794a; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ed; } .soft { fill: #9ba6b2; } .right { fill: #5fcf95; } .line { stroke: #2f363e; }
  .bar { fill: #7ea8ff; } .hit { fill: #5fcf95; }
}
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A question with its ranking; ``gain``: nDCG@10 re-ranked minus that of BM25; ``right``: its judged documents."""

    query: str
    ranking: Ranking
    gain: float
    right: frozenset[str]


def rank_all(collection: Path) -> tuple[dict[str, str], dict[str, Ranking]]:
    """Every question of a collection and what the embedded model makes of it."""
    rows = [
        row
        for shard in sorted((collection / SHARDS_FOLDER).glob("*.parquet"))
        for row in pq.read_table(shard).to_pylist()
    ]
    requests = [request for row in rows if isinstance(request := request_from_row(row), RankRequest)]
    scorer = load_scorer("embedded", order="reversed")
    answers = zip(requests, scorer.rank_many(requests), strict=True)
    ranked = {request.query_id: answer for request, answer in answers if isinstance(answer, Ranking)}
    return {request.query_id: request.query for request in requests}, ranked


def chosen(queries: Mapping[str, str], ranked: Mapping[str, Ranking], qrels: Qrels) -> list[Shown]:
    """Largest gain, middle and largest loss of nDCG@10."""
    judged = {query_id: qrels[query_id] for query_id in ranked if query_id in qrels}
    before = {q: [doc.doc_id for doc in sorted(ranked[q].documents, key=lambda doc: doc.input_rank)] for q in judged}
    after = {q: [doc.doc_id for doc in ranked[q].documents] for q in judged}
    old, new = (evaluate(judged, run, ["ndcg@10"]).per_query["ndcg@10"] for run in (before, after))
    order = sorted(judged, key=lambda q: (old[q] - new[q], q))
    return [
        Shown(
            query=queries[q],
            ranking=ranked[q],
            gain=new[q] - old[q],
            right=frozenset(doc_id for doc_id, relevance in judged[q].items() if relevance > 0),
        )
        for q in (order[0], order[len(order) // 2], order[-1])
    ]


def draw(shown: Sequence[Shown]) -> str:
    """The picture as an SVG file that an ``<img>`` shows on light and on dark pages."""
    panel = _HEAD + _ROW * _SHOWN + 26
    parts = [part for place, one in enumerate(shown) for part in _panel(one, place * panel)]
    said = " ".join(_said(one) for one in shown)
    frame = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" role="img" aria-labelledby="title about">\n'
        '<title id="title">Three questions of the demo, re-ranked</title>\n<desc id="about">{}</desc>\n'
        "<style>{}</style>\n{}\n</svg>\n"
    )
    return str(frame.format(_WIDTH, number(panel * len(shown)), said, Markup(_STYLE), Markup("\n").join(parts)))


def _panel(one: Shown, top: float) -> list[Markup]:
    best = max(one.ranking.documents[0].score, 1e-9)
    text = Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>')
    head = top + 18
    parts = [text.format(0, number(head), "title", "start", one.query)]
    parts += [text.format(0, number(head + 19), "soft", "start", _summary(one))]
    for place, document in enumerate(one.ranking.documents[:_SHOWN]):
        y = top + _HEAD + _ROW * place
        hit = document.doc_id in one.right
        parts += [Markup('<line class="line" x1="0" x2="{}" y1="{y}" y2="{y}"/>').format(_WIDTH, y=number(y))]
        parts += [text.format(16, number(y + 15), "soft", "end", document.rank)]
        label = shortened(f"● {document.doc_id}" if hit else document.doc_id)
        parts += [text.format(28, number(y + 15), "right" if hit else "", "start", label)]
        parts += [text.format(470, number(y + 15), "soft", "end", f"BM25: {document.input_rank}")]
        width = max(0.0, document.score / best) * 310
        bar = Markup('<rect class="{}" x="490" y="{}" width="{}" height="12"/>')
        parts += [bar.format("hit" if hit else "bar", number(y + 5), number(max(width, 1)))]
        parts += [
            text.format(number(496 + width), number(y + 15), "soft", "start", f"{document.score:.2f}".replace("-", "−"))
        ]
    return parts


def shortened(name: str) -> str:
    """``name``, with an ellipsis where its column ends."""
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _summary(one: Shown) -> str:
    gain = f"nDCG@10 {one.gain:+.2f}".replace("-", "−")
    found = next((doc for doc in one.ranking.documents if doc.doc_id in one.right), None)
    if found is None:
        return f"no right answer among the {len(one.ranking.documents)}, {gain}"
    return f"right answer from {found.input_rank} to {found.rank}, {gain}"


def _said(one: Shown) -> str:
    listed = ", ".join(
        f"{doc.rank} {doc.doc_id}{' (right)' if doc.doc_id in one.right else ''}, by BM25 {doc.input_rank}"
        for doc in one.ranking.documents[:_SHOWN]
    )
    return f"{one.query} {_summary(one)}: {listed}."


def main(arguments: Sequence[str]) -> None:
    """Build the collection, rank it, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=PICTURE, help="the SVG file")
    parser.add_argument("--collection", type=Path, help="a collection that make demo has built; else it is built anew")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        collection = given.collection or Path(folder)
        if given.collection is None:
            build(folder, QUESTIONS, CANDIDATES, 1, None)
        queries, ranked = rank_all(collection)
        qrels = load_qrels(str(collection / QRELS_FILE), StorageOptions())
    given.output.write_text(draw(chosen(queries, ranked, qrels)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
