"""Measures are trec_eval's over the rank column; intervals, tests and exports say what they should."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from jobs.evaluate import EvaluateConfig, pipeline_settings
from jobs.settings import validate
from pipelines.commit import CommittedObject, Manifest
from pipelines.evaluation.compare import compare
from pipelines.evaluation.evaluate import Evaluation, evaluate
from pipelines.evaluation.measuring import measure
from pipelines.evaluation.readings import BundleSize, Reading, read_reading
from pipelines.evaluation.tests_of_difference import holm, randomisation_test
from pipelines.labels import load_qrels
from pipelines.schemas import QRELS_SCHEMA, ranking_schema
from pipelines.storage import StorageOptions
from pipelines.trec import read_qrels, read_run
from qrcore.errors import ConfigError, InputError
from tests.shards import write_shard

QRELS = {"q1": {"a": 2, "b": 1, "z": 1}, "q2": {"c": 1, "d": 0}, "q3": {"e": 1}}
OPTIONS = StorageOptions()


def ranked(doc_ids: str, rounds: dict[str, int] | None = None) -> list[dict[str, Any]]:
    """All scores equal: only ranks tell the order."""
    return [
        {"doc_id": d, "rank": n, "score": 0.5, "input_rank": n, "input_score": None, "round": (rounds or {}).get(d, 1)}
        for n, d in enumerate(doc_ids, start=1)
    ]


def committed(
    folder: Path,
    rankings: dict[str, list[dict[str, Any]] | None],
    job: str = "rerank",
    source: str = "gone.parquet",
) -> str:
    """A run folder as a commit leaves it, with errors where there is no ranking."""
    error = {"code": "oom", "kind": "transient", "message": "no", "stage": "score"}
    rows = [
        {
            "query_id": query_id,
            "ranking": found,
            "prompt_tokens": 1,
            "windows": 1,
            "flags": [],
            "source": {"uri": source, "row": number},
            "error": None if found is not None else error,
        }
        for number, (query_id, found) in enumerate(rankings.items())
    ]
    path = write_shard(folder / "data" / "u.parquet", rows, ranking_schema([]))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = CommittedObject(
        path="data/u.parquet", unit_id="u", size=1, sha256=sha256, rows=len(rows), scored=len(rows), failed=0
    )
    manifest = Manifest(
        run_id=folder.name,
        job=job,
        name=job,
        driver="d",
        committed_at="2026-01-01T00:00:00+00:00",
        config_hash="c",
        input_hash="i",
        rows=len(rows),
        scored=len(rows),
        failed=0,
        skipped_files=(),
        objects=(entry,),
        side_files=(),
        provenance={},
    )
    (folder / "_manifest.json").write_text(manifest.model_dump_json())
    return str(folder)


@pytest.fixture
def qrels(tmp_path: Path) -> str:
    rows = [{"query_id": q, "doc_id": d, "relevance": r} for q, found in QRELS.items() for d, r in found.items()]
    return str(write_shard(tmp_path / "qrels.parquet", rows, QRELS_SCHEMA))


def settings(runs: list[str], qrels: str, output: Path, **changes: Any) -> Any:
    return pipeline_settings(
        validate(EvaluateConfig, {"runs": runs, "qrels": qrels, "output": str(output), "rounds": 500, **changes})
    )


def means(evaluation: Evaluation, run: int = 0) -> dict[str, float]:
    return {value.measure: value.mean for value in evaluation.runs[run].values}


@given(
    orders=st.dictionaries(st.sampled_from(["q1", "q2", "q3", "q9"]), st.permutations("abcdez"), max_size=4),
    depth=st.integers(1, 6),
)
def test_values_are_trec_evals_with_ties_and_missing_queries(orders: dict[str, list[str]], depth: int) -> None:
    reading = Reading("r", "ranking", {query_id: tuple(found[:depth]) for query_id, found in orders.items()})
    names = {"ndcg@3": "ndcg_cut_3", "recall@3": "recall_3", "any@3": "success_3", "map": "map", "mrr": "recip_rank",
             "precision@3": "P_3"}  # fmt: skip
    ours = measure(reading, QRELS, list(names))
    evaluator = pytrec_eval.RelevanceEvaluator(
        QRELS, {"ndcg_cut.3", "recall.3", "success.3", "map", "recip_rank", "P.3"}
    )
    scored = {q: {d: float(-n) for n, d in enumerate(found)} for q, found in reading.rankings.items() if q in QRELS}
    theirs = evaluator.evaluate(scored)
    for name, trec_name in names.items():
        assert ours[name].keys() == QRELS.keys()
        for query_id, value in ours[name].items():
            assert value == pytest.approx(theirs.get(query_id, {}).get(trec_name, 0.0), abs=1e-9)
    for query_id, value in measure(reading, QRELS, ["all@3"])["all@3"].items():
        gold = {doc for doc, grade in QRELS[query_id].items() if grade > 0}
        assert value == float(gold <= set(reading.rankings.get(query_id, ())[:3]))


def test_the_rank_column_decides_where_scores_tie_and_rounds_differ(tmp_path: Path, qrels: str) -> None:
    # By score, or by score and id as trec_eval breaks ties, "z" or "a" would stand elsewhere.
    two_rounds = ranked("zab", {"z": 2, "a": 2, "b": 1})
    two_rounds[2]["score"] = 99.0
    run = committed(tmp_path / "run", {"q1": two_rounds, "q2": ranked("dc"), "q3": None})
    evaluation = evaluate(settings([run], qrels, tmp_path / "out", measures=["mrr", "precision@1"], trec=True))
    assert means(evaluation) == pytest.approx({"mrr": (1 + 0.5 + 0) / 3, "precision@1": 1 / 3})
    (said,) = evaluation.runs
    assert (said.missing, said.missing_queries, said.failed, said.gold_missing) == (1, ("q3",), 1, 1)
    text = (tmp_path / "out" / "trec" / "run.run").read_text()
    assert text.splitlines()[:3] == ["q1 Q0 z 1 3 qrbatch", "q1 Q0 a 2 2 qrbatch", "q1 Q0 b 3 1 qrbatch"]
    lines = {query_id: [line.doc_id for line in found] for query_id, found in read_run("x", text).items()}
    assert lines == {"q1": ["z", "a", "b"], "q2": ["d", "c"]}
    assert read_qrels("x", (tmp_path / "out" / "trec" / "qrels.txt").read_text()) == QRELS
    # trec_eval on the exported scores says the same.
    exported = {q: {line.doc_id: line.score for line in found} for q, found in read_run("x", text).items()}
    assert pytrec_eval.RelevanceEvaluator(QRELS, {"recip_rank"}).evaluate(exported)["q2"]["recip_rank"] == 0.5


def test_runs_are_tested_against_each_other(tmp_path: Path) -> None:
    names = [f"q{number}" for number in range(40)]
    judged = [{"query_id": name, "doc_id": "a", "relevance": 1} for name in names]
    qrels = str(write_shard(tmp_path / "qrels.parquet", judged, QRELS_SCHEMA))
    good = committed(tmp_path / "good", {name: ranked("ab") for name in names})
    bad = committed(tmp_path / "bad", {name: ranked("ba") for name in names})
    same = committed(tmp_path / "same", {name: ranked("ab") for name in names})
    evaluation = evaluate(settings([good, bad, same], qrels, tmp_path / "out", measures=["mrr"]))
    found = {(one.a, one.b): one for one in evaluation.comparisons}
    first = found["good", "bad"]
    assert (first.difference, first.low, first.high, first.wins, first.losses) == (0.5, 0.5, 0.5, 40, 0)
    assert first.p == pytest.approx(1 / 501) and first.p_holm == pytest.approx(3 / 501)
    assert (found["good", "same"].p, found["good", "same"].p_holm, found["good", "same"].ties) == (1.0, 1.0, 40)
    rows = pq.read_table(tmp_path / "out" / "per_query.parquet").to_pylist()
    assert len(rows) == 120 and rows[0] == {"run": "good", "query_id": "q0", "measure": "mrr", "value": 1.0}


def test_the_randomisation_test_is_the_exact_one() -> None:
    a, b = {"1": 0.9, "2": 0.4, "3": 0.7, "4": 0.2}, {"1": 0.1, "2": 0.5, "3": 0.2, "4": 0.2}
    differences = [a[q] - b[q] for q in a]
    signs = list(itertools.product((-1, 1), repeat=4))
    observed = abs(sum(differences)) - 1e-12
    exact = sum(abs(sum(s * d for s, d in zip(one, differences, strict=True))) >= observed for one in signs) / len(
        signs
    )
    assert randomisation_test(a, b, seed=1, rounds=20_000) == pytest.approx(exact, abs=0.015)
    assert randomisation_test(b, a, seed=1, rounds=999) == randomisation_test(a, b, seed=1, rounds=999)
    with pytest.raises(InputError, match="same queries"):
        randomisation_test(a, {"1": 0.0}, 1, 10)


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holms_correction(p: list[float]) -> None:
    adjusted = holm(p)
    assert all(one <= corrected <= 1 for one, corrected in zip(p, adjusted, strict=True))
    assert sorted(range(len(p)), key=lambda n: (p[n], n)) == sorted(range(len(p)), key=lambda n: (adjusted[n], p[n], n))
    assert min(adjusted) == pytest.approx(min(1.0, min(p) * len(p)))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_bundles_have_measures_of_their_own() -> None:
    reading = Reading(
        "b", "bundle", {"q1": ("a", "x"), "q2": ("d",)}, {"q1": BundleSize(50, 200), "q2": BundleSize(0, 9)}
    )
    values = measure(reading, QRELS, ["gold_recall", "any_gold", "all_gold", "tokens_kept", "gold_per_1k_tokens"])
    assert values["gold_recall"] == pytest.approx({"q1": 1 / 3, "q2": 0.0, "q3": 0.0})
    assert values["any_gold"] == {"q1": 1.0, "q2": 0.0, "q3": 0.0}
    assert values["all_gold"] == {"q1": 0.0, "q2": 0.0, "q3": 0.0}
    assert values["tokens_kept"]["q1"] == 0.25
    assert values["gold_per_1k_tokens"] == {"q1": 20.0, "q2": 0.0, "q3": 0.0}


def test_a_trec_run_and_a_parquet_run_are_read_by_rank(tmp_path: Path) -> None:
    (tmp_path / "a.run").write_text("q1 Q0 b 2 9.0 t\nq1 Q0 a 1 1.0 t\n")
    pq.write_table(pa.table({"query_id": ["q1", "q1"], "doc_id": ["b", "a"], "rank": [2, 1]}), tmp_path / "b.parquet")
    for name in ("a.run", "b.parquet"):
        assert read_reading(str(tmp_path / name), OPTIONS).rankings == {"q1": ("a", "b")}
    (tmp_path / "beir.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\n")
    assert load_qrels(str(tmp_path / "beir.tsv"), OPTIONS) == {"q1": {"a": 1}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("q1 Q0 a 1 1.0 t\nq1 Q0 b 1 0.5 t\n", "expected each rank once"),
        ("q1 Q0 a one 1.0 t\n", "line 1: expected a whole rank"),
        ("q1 Q0 a 1 1.0 t\nq1 Q0 a 2 1.0 t\n", "expected each document once"),
        ("q1 a 1\n", "line 1: expected query Q0 doc rank score tag"),
    ],
)
def test_a_run_file_with_a_mistake_is_named(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "bad.run").write_text(lines)
    with pytest.raises(InputError, match=message):
        read_reading(str(tmp_path / "bad.run"), OPTIONS)


def test_what_cannot_be_evaluated_is_refused(tmp_path: Path, qrels: str) -> None:
    run = committed(tmp_path / "run", {"q1": ranked("ab")})
    for measures, error in ((["ndgc@10"], ConfigError), (["recall"], ConfigError), (["gold_recall"], InputError)):
        with pytest.raises(error, match="measures"):
            evaluate(settings([run], qrels, tmp_path / "out", measures=measures))
    with pytest.raises(InputError, match="no manifest"):
        evaluate(settings([str(tmp_path)], qrels, tmp_path / "out"))
    with pytest.raises(InputError, match="found one of prepare"):
        evaluate(settings([committed(tmp_path / "p", {}, job="prepare")], qrels, tmp_path / "out"))
    (tmp_path / "spaces.run").write_text("q1 Q0 a 1 1.0 t\n")
    spaced = committed(tmp_path / "spaced", {"q 1": ranked("ab")})
    with pytest.raises(InputError, match="without white space, got 'q 1'"):
        evaluate(settings([spaced], qrels, tmp_path / "out", trec=True))


def test_a_comparison_shows_where_each_run_is_better(tmp_path: Path, qrels: str) -> None:
    text = "<script>alert(1)</script> when?"
    source = write_shard(tmp_path / "in.parquet", [{"query_id": "q1", "query": text, "candidates": []}])
    a = committed(tmp_path / "a", {"q1": ranked("ab"), "q2": ranked("dc")}, source=str(source))
    b = committed(tmp_path / "b", {"q1": ranked("dab"), "q2": ranked("cd"), "q3": ranked("x")})
    report = compare(settings([a, b], qrels, tmp_path / "out", measures=["mrr", "ndcg@10"]), examples=2)
    assert report.differences == {"q1": 0.5, "q2": -0.5, "q3": 0.0}
    assert [one.query_id for one in report.best_for_a] == ["q1"]
    assert [one.query_id for one in report.best_for_b] == ["q2"]
    (one,) = report.best_for_a
    assert [(doc.doc_id, doc.relevant) for doc in one.second] == [("d", None), ("a", True), ("b", True)]
    assert (one.query, report.best_for_b[0].query) == (text, None)  # of b's input nothing is left
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "1 won, 1 lost, 1 equal" in page and "a lacks 1 (q3), b lacks 0" in page
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["measure"] == "mrr"
