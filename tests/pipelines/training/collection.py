"""A dozen short texts with one question each, as judged lists in the project's own files."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pipelines.schemas import QRELS_SCHEMA
from pipelines.training.judged import ANSWERS_SCHEMA, JudgedList, JudgedSet, read_judged_set
from qrcore import Document, HeadSet
from qrcore.heads import Head
from tests.shards import write_shard

#: Title, text, question, answer.
TOPICS = (
    ("Salt", "Miners near the lake dug salt for kings. The old salt mine closed in 1923.",
     "When did the salt mine close?", "1923"),
    ("Bees", "Bees gather nectar in spring meadows. A hive of bees is ruled by one queen.",
     "Who rules a hive of bees?", "one queen"),
    ("Bridge", "The stone bridge crosses a deep gorge. It was built by the engineer Telford.",
     "Who built the stone bridge?", "Telford"),
    ("Cheese", "Cheese ripens in cold and dark caves. Farmers turn every wheel of cheese on Mondays.",
     "On which days do farmers turn the cheese?", "Mondays"),
    ("Comet", "The comet returns after many long decades. Astronomers saw its tail glow green last winter.",
     "What colour was the tail of the comet?", "green"),
    ("Harbour", "The harbour freezes in some hard winters. Its lighthouse keeper was named Ingrid.",
     "What was the name of the lighthouse keeper?", "Ingrid"),
    ("Wool", "Wool is washed before it is spun. The mill dyes its wool with blue indigo.",
     "What does the mill dye wool with?", "blue indigo"),
    ("Chess", "The chess club meets in a quiet library. Its champion learned chess from her grandmother.",
     "From whom did the chess champion learn?", "her grandmother"),
    ("Volcano", "The volcano slept for nine hundred years. Its ash buried the village of Marrow.",
     "Which village was buried by the ash of the volcano?", "Marrow"),
    ("Opera", "The opera house burned down one night. Its curtain had been woven from red silk.",
     "What was the curtain of the opera house woven from?", "red silk"),
    ("Glacier", "The glacier moves slowly down the valley. It carries granite boulders to the plain below.",
     "What does the glacier carry?", "granite boulders"),
    ("Tram", "Trams ran through the town until the war. The last tram was driven by Oskar.",
     "Who drove the last tram?", "Oskar"),
)  # fmt: skip

#: By the hash of the id: the literal halves of what the split makes of q0 to q11.
DEV_IDS = ("q0", "q3", "q4", "q5", "q7", "q9")
TEST_IDS = ("q1", "q2", "q6", "q8", "q10", "q11")


def candidate(topic: int, **more: Any) -> dict[str, Any]:
    """The text of a topic as a candidate."""
    title, text, _, _ = TOPICS[topic]
    return {"doc_id": f"d{topic}", "title": title, "text": text, **more}


def plain_rows(size: int = 4) -> list[dict[str, Any]]:
    """One list for each topic: its text among others, without a first stage's order."""
    rows = []
    for topic in range(len(TOPICS)):
        draw = random.Random(topic)
        others = draw.sample([other for other in range(len(TOPICS)) if other != topic], size - 1)
        shown = draw.sample([topic, *others], size)
        rows.append({"query_id": f"q{topic}", "query": TOPICS[topic][2], "candidates": [candidate(t) for t in shown]})
    return rows


def ranked_rows(size: int = 4) -> list[dict[str, Any]]:
    """The same with the first stage's ranks, which are the stored order."""
    return [
        {**row, "candidates": [{**c, "rank": rank} for rank, c in enumerate(row["candidates"], start=1)]}
        for row in plain_rows(size)
    ]


def read(folder: Path, rows: Sequence[dict[str, Any]], name: str = "facts", answers: bool = True) -> JudgedSet:
    """The rows as files, read back as judged lists: the text of the query's own topic is relevant."""
    topics = range(len(TOPICS))
    qrels = [{"query_id": f"q{topic}", "doc_id": f"d{topic}", "relevance": 1} for topic in topics]
    known = [{"query_id": f"q{topic}", "answers": [TOPICS[topic][3]]} for topic in topics]
    lists = write_shard(folder / name / "lists.parquet", list(rows))
    judgements = write_shard(folder / name / "qrels.parquet", qrels, QRELS_SCHEMA)
    told = write_shard(folder / name / "answers.parquet", known, ANSWERS_SCHEMA)
    return read_judged_set(name, [str(lists)], str(judgements), str(told) if answers else None)


def planted(query_id: str, relevant: str, *others: str, **more: Any) -> JudgedList:
    """A list of documents that are told apart by their ids alone, the relevant one last."""
    documents = tuple(Document(doc_id=doc_id, text=f"text of {doc_id}") for doc_id in (*others, relevant))
    return JudgedList(query_id, f"query {query_id}", documents, {relevant: 1}, **more)


@dataclass
class PlantedScorer:
    """Scores as told: ``by_head(query, doc_id, head)``; the heads it holds are summed."""

    by_head: Callable[[str, str, Head], float]
    heads: HeadSet
    layers: int = 2
    heads_per_layer: int = 3
    max_tokens: int = 4096
    asked: list[JudgedList] = field(default_factory=list)

    def score(self, query: str, docs: Sequence[Document]) -> list[float]:
        return [sum(self.by_head(query, d.doc_id, head) for head in self.heads.head_list) for d in docs]

    def score_heads(self, query: str, docs: Sequence[Document]) -> torch.Tensor:
        return torch.tensor(
            [
                [[self.by_head(query, d.doc_id, Head(layer, head)) for head in range(self.heads_per_layer)]
                 for layer in range(self.layers)]
                for d in docs
            ]
        )  # fmt: skip
