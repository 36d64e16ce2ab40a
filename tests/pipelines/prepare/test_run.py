"""Preparing on a real local Ray: what comes out of tables, folders, documents and texts, and of bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from jobs.prepare import PrepareConfig, pipeline_settings
from jobs.settings import merge, validate
from pipelines.commit import manifest_rows
from pipelines.inputs import list_inputs, survey_file
from pipelines.job import RunResult
from pipelines.labels import load_qrels
from pipelines.prepare import run as preparing
from pipelines.side_files import read_side_file
from pipelines.storage import Storage, StorageOptions
from qrcore.errors import ConfigError, IncompleteRunError, InputError
from qrcore.splitting import rebuild
from tests.pipelines.prepare import samples
from tests.pipelines.reranking import Recorder
from tests.services import SECRET
from tests.shards import row as shard_row

pytestmark = pytest.mark.usefixtures("local_ray")
OPTIONS = StorageOptions()
DOCUMENTS = [
    {"doc_id": "d1", "title": "Rivers", "text": "The river floods in spring."},
    {"doc_id": "d2", "title": None, "text": "Salt is sold at the market."},
    {"doc_id": "d3", "title": "Bridges", "text": "A bridge crosses the river."},
]
QUERIES = [{"query_id": "q1", "query": "river flood"}, {"query_id": "q2", "query": "salt market"}]


def lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in rows), encoding="utf-8")
    return path


def prepared(recipe: str, uri: Path | str, output: Path | str, **changes: Any) -> RunResult:
    base = {"recipe": recipe, "input": {"uris": [str(uri)]}, "output": {"uri": str(output)}}
    return preparing.run(pipeline_settings(validate(PrepareConfig, merge(base, changes))), Recorder())


def report(result: RunResult) -> dict[str, Any]:
    return read_side_file(result.run_uri, result.manifest.side_files, "report.json", OPTIONS)


def errors(result: RunResult) -> list[dict[str, Any]]:
    (path,) = Path(result.run_uri).glob("commit/*/errors.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return str(lines(tmp_path / "corpus.jsonl", DOCUMENTS))


def test_a_trec_run_is_joined_with_queries_and_corpus(tmp_path: Path, corpus: str) -> None:
    queries = lines(
        tmp_path / "queries.jsonl", [*QUERIES, {"query_id": "q3", "query": "x"}, {"query_id": "q4", "query": "y"}]
    )
    (tmp_path / "run.txt").write_text(
        "q1 Q0 d3 1 2.5 tag\nq1 Q0 d1 2 2.5 tag\nq2 Q0 d2 0 1.0 tag\nq3 Q0 d1 1 1 tag\nq3 Q0 gone 2 1 tag\n"
    )
    (tmp_path / "qrels.txt").write_text("q1 0 d1 2\nq1 0 d2 1\nq2 0 d2 1\n")
    given = {"corpus": corpus, "run": str(tmp_path / "run.txt"), "qrels": str(tmp_path / "qrels.txt")}
    result = prepared("tables", queries, tmp_path / "out", input=given)
    rows = list(manifest_rows(result.run_uri))
    assert [[(c["doc_id"], c["rank"], c["score"], c["title"]) for c in one["candidates"]] for one in rows] == [
        [("d3", 1, 2.5, "Bridges"), ("d1", 2, 2.5, "Rivers")],
        [("d2", 1, 1.0, None)],
    ]
    assert [(one["query_id"], one["error"]["code"]) for one in errors(result)] == [
        ("q3", "missing_documents"),
        ("q4", "no_candidates"),
    ]
    assert load_qrels(f"{result.run_uri}/labels/qrels", OPTIONS) == {"q1": {"d1": 2, "d2": 1}, "q2": {"d2": 1}}
    said = report(result)["judged"]
    assert (said["with_gold"], said["without_gold"], said["gold"], said["gold_missing"]) == (2, 0, 3, 1)


def test_a_run_in_parquet_is_joined_by_its_ranks(tmp_path: Path, corpus: str) -> None:
    ranked = [("q1", "d2", 2, 9.0), ("q1", "d1", 3, 8.0), ("q1", "d3", 1, 1.0), ("q2", "d2", 1, 5.0)]
    table = pa.Table.from_pylist(
        [dict(zip(("query_id", "doc_id", "rank", "score"), one, strict=True)) for one in ranked]
    )
    pq.write_table(table, tmp_path / "run.parquet")
    pq.write_table(table.drop(["score"]), tmp_path / "ranks.parquet")
    (tmp_path / "qrels.txt").write_text("q1 0 d1 0\nq1 0 gone 1\n")
    queries = lines(tmp_path / "queries.jsonl", QUERIES)
    given = {"corpus": corpus, "run": str(tmp_path / "run.parquet"), "qrels": str(tmp_path / "qrels.txt"), "depth": 2}
    result = prepared("tables", queries, tmp_path / "out", input=given)
    rows = list(manifest_rows(result.run_uri))
    assert [[(c["doc_id"], c["rank"], c["score"]) for c in one["candidates"]] for one in rows] == [
        [("d3", 1, 1.0), ("d2", 2, 9.0)],
        [("d2", 1, 5.0)],
    ]
    judged = report(result)["judged"]
    assert (judged["with_gold"], judged["without_gold"]) == (1, 1)
    assert (judged["gold"], judged["gold_missing"], judged["queries_without_their_gold"]) == (1, 1, 1)
    result = prepared("tables", queries, tmp_path / "out", input={**given, "run": str(tmp_path / "ranks.parquet")})
    assert [c["score"] for one in manifest_rows(result.run_uri) for c in one["candidates"]] == [None] * 3


def test_queries_and_corpus_are_enough(tmp_path: Path, corpus: str) -> None:
    queries = lines(tmp_path / "queries.jsonl", [*QUERIES, {"query_id": "q3", "query": "zebra"}])
    result = prepared("tables", queries, tmp_path / "out", input={"corpus": corpus, "depth": 2})
    rows = {one["query_id"]: one["candidates"] for one in manifest_rows(result.run_uri)}
    assert [c["doc_id"] for c in rows["q1"]] == ["d1", "d3"]
    assert [c["rank"] for c in rows["q1"]] == [1, 2]
    assert rows["q1"][0]["score"] > rows["q1"][1]["score"] > 0
    assert [c["doc_id"] for c in rows["q2"]] == ["d2"]
    assert [one["query_id"] for one in errors(result)] == ["q3"]


def test_a_beir_folder_gives_its_judged_queries(tmp_path: Path) -> None:
    folder = tmp_path / "beir"
    lines(folder / "corpus.jsonl", [{"_id": d["doc_id"], "title": d["title"], "text": d["text"]} for d in DOCUMENTS])
    lines(folder / "queries.jsonl", [{"_id": q["query_id"], "text": q["query"]} for q in QUERIES])
    lines(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", "q1\td1\t1"])
    result = prepared("beir", folder, tmp_path / "out")
    (one,) = manifest_rows(result.run_uri)
    assert (one["query_id"], [c["doc_id"] for c in one["candidates"]]) == ("q1", ["d1", "d3"])
    assert report(result)["result"]["left_out"] == 1


def test_texts_are_rebuilt_exactly_from_shards_of_the_size_asked_for(tmp_path: Path) -> None:
    texts = {name: "".join(f"Line {number} of {name}.\n\n" for number in range(200)) for name in ("a", "b/c")}
    for name, text in texts.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    queries = lines(tmp_path / "queries.jsonl", [{"query_id": f"q{n}", "query": "what?"} for n in range(6)])
    shards = {"bytes": 9000}
    result = prepared("text", tmp_path / "texts", tmp_path / "out", input={"queries": str(queries)}, shards=shards)
    rows = list(manifest_rows(result.run_uri))
    assert [one["query_id"] for one in rows] == [f"{name}/q{n}" for name in texts for n in range(6)]
    for one in rows:
        assert rebuild((c["start"], c["text"]) for c in one["candidates"]) == texts[one["group"]]
    assert all(entry.rows <= 2 for entry in result.manifest.objects)
    assert len(result.manifest.objects) == report(result)["result"]["shards"] >= 6
    # The next job reads the run as its input.
    files = list_inputs([result.run_uri], OPTIONS)
    assert sum(len(survey_file(file, OPTIONS).row_bytes) for file in files) == 12


LONG = (
    "CHAPTER I\nThe flood came. It took the mill.\n\nCHAPTER II\n"
    + "The bees were gone by then. " * 30
    + "Salt stayed."
)


@pytest.mark.parametrize(
    ("split", "least"),
    [
        ({"by": "sentences", "max_tokens": 40}, 4),
        ({"by": "tokens", "max_tokens": 30, "overlap_tokens": 10}, 6),
        ({"by": "pattern", "pattern": "^CHAPTER"}, 2),
        ({"by": "none"}, 1),
    ],
)
def test_every_way_to_split_keeps_what_rebuilds_the_text(tmp_path: Path, split: dict[str, Any], least: int) -> None:
    row = {"document_id": "a", "title": "Flood", "text": LONG, "query_id": "q", "query": "What came?"}
    result = prepared("documents", lines(tmp_path / "in.jsonl", [row]), tmp_path / "out", split=split)
    (one,) = manifest_rows(result.run_uri)
    pieces = one["candidates"]
    assert rebuild((c["start"], c["text"]) for c in pieces) == LONG
    assert len(pieces) >= least and (len(pieces) == least) == (least <= 2)
    assert [(c["doc_id"], c["source_id"], c["title"]) for c in pieces[:1]] == [("a/1", "a", "Flood")]


def test_turns_of_dialogues_in_parquet(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": f"Turn {number}?", "time": number} for number in range(5)]
    table = pa.Table.from_pylist([{"query_id": "q", "query": "When?", "turns": turns}])
    pq.write_table(table, tmp_path / "in.parquet")
    result = prepared("dialogue", tmp_path / "in.parquet", tmp_path / "out", split={"turns": 2})
    (one,) = manifest_rows(result.run_uri)
    assert [c["text"] for c in one["candidates"]][1:] == ["user: Turn 2?\nuser: Turn 3?\n", "user: Turn 4?\n"]
    assert [(c["doc_id"], c["start"]) for c in one["candidates"]] == [("q/1", 0), ("q/2", 28), ("q/3", 56)]


@pytest.mark.parametrize("kind", ["json", "objects", "jsonl", "parquet"])
def test_collections_come_in_any_format(tmp_path: Path, kind: str) -> None:
    rows = [{**samples.MUSIQUE, "id": f"2hop__{number}"} for number in range(5)]
    # MuSiQue and others are published as lines under the ending of one array.
    path = tmp_path / f"musique.{'json' if kind == 'objects' else kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines(path, [json.dumps(rows, indent=1)] if kind == "json" else rows)
    result = prepared("musique", path, tmp_path / "out", shards={"rows": 2})
    out = list(manifest_rows(result.run_uri))
    assert [one["query_id"] for one in out] == [f"2hop__{number}" for number in range(5)]
    assert out[0]["answers"] == ["Bo", "Bo Miller"]
    assert len(result.manifest.objects) == 3
    answers = pq.read_table(min(Path(result.run_uri).glob("labels/answers/*.parquet"))).to_pylist()
    assert answers[0] == {"query_id": "2hop__0", "answers": ["Bo", "Bo Miller"]}


def test_every_bad_row_is_named_and_the_others_come_out(tmp_path: Path) -> None:
    good = shard_row("good")
    twice = {**shard_row("twice"), "candidates": [{"doc_id": "d", "text": "x"}] * 2}
    surrogate = '{"query_id": "half", "query": "\\ud800", "candidates": [{"doc_id": "d", "text": "x"}]}'
    rows = [good, "{", "[1]", {"query_id": "no"}, twice, surrogate, {**shard_row("empty"), "candidates": []}, good]
    result = prepared("shards", lines(tmp_path / "rows.jsonl", rows), tmp_path / "out", input={"carry": ["topic"]})
    assert [one["query_id"] for one in manifest_rows(result.run_uri)] == ["good", "good"]
    assert [(one["source"]["row"], one["error"]["code"]) for one in errors(result)] == [
        (1, "invalid_json"),
        (2, "invalid_row"),
        (3, "invalid_row"),
        (4, "duplicate_doc_id"),
        (5, "invalid_text"),
        (6, "no_candidates"),
    ]
    assert (result.manifest.rows, result.manifest.scored, result.manifest.failed) == (8, 2, 6)
    assert report(result)["duplicates"]["query_ids"] == 1
    assert report(result)["duplicates"]["examples"] == ["good"]


def test_json_lines_go_in_and_out(tmp_path: Path) -> None:
    rows = [{**shard_row("a"), "topic": {"x": 1}}, {**shard_row("b"), "topic": "t"}]
    changes = {"shards": {"format": "jsonl"}, "input": {"carry": ["topic"], "columns": {"query": "question"}}}
    rows = [{**{k: v for k, v in one.items() if k != "query"}, "question": one["query"]} for one in rows]
    result = prepared("shards", lines(tmp_path / "in.jsonl", rows), tmp_path / "out", **changes)
    (entry,) = result.manifest.objects
    out = [json.loads(line) for line in (Path(result.run_uri) / entry.path).read_text().splitlines()]
    assert [one["query"] for one in out] == [one["question"] for one in rows]
    assert [one["topic"] for one in out] == ['{"x": 1}', "t"]
    again = prepared("shards", Path(result.run_uri), tmp_path / "back")
    assert [len(one["candidates"]) for one in manifest_rows(again.run_uri)] == [4, 4]


def test_the_same_command_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lines(tmp_path / "in.jsonl", [shard_row(f"q{number}") for number in range(6)])

    def stop(*_: object, **__: object) -> None:
        raise IncompleteRunError("stopped before the commit")

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "_commit", stop)
        with pytest.raises(IncompleteRunError):
            prepared("shards", source, tmp_path / "out", shards={"rows": 2})
    (folder,) = (tmp_path / "out").glob("prepare-*")
    next(folder.glob("_units/*.parquet")).unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("data/*")}
    result = prepared("shards", source, tmp_path / "out", shards={"rows": 2})
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("data/*")} == before
    assert [one["query_id"] for one in manifest_rows(result.run_uri)] == [f"q{number}" for number in range(6)]
    assert prepared("shards", source, tmp_path / "out", shards={"rows": 2}).already_committed


def test_an_object_that_was_changed_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lines(tmp_path / "in.jsonl", [shard_row("q")])
    commit = preparing._commit

    def tampered(*args: Any, **named: Any) -> Any:
        next((tmp_path / "out").glob("*/data/*.parquet")).write_bytes(b"other")
        return commit(*args, **named)

    monkeypatch.setattr(preparing, "_commit", tampered)
    with pytest.raises(Exception, match="expected the object that its unit wrote"):
        prepared("shards", source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*/_manifest.json"))


@pytest.mark.parametrize(
    ("recipe", "changes", "error", "message"),
    [
        ("tables", {}, ConfigError, "expected a corpus, got none"),
        ("text", {}, ConfigError, "expected a table of queries"),
        ("shards", {"input": {"queries": "x.jsonl"}}, ConfigError, "Leave --queries out"),
        ("shards", {"input": {"carry": ["query"]}}, ConfigError, "carry: query"),
        ("documents", {"split": {"by": "pattern"}}, ConfigError, "expected a regular expression to cut at"),
        ("documents", {"split": {"by": "sentences", "tokenizer": "./nowhere"}}, ConfigError, "tokenizer '.*nowhere'"),
        ("sparkles", {}, ConfigError, "recipe: expected one of beir, clipper"),
        ("documents", {"input": {"queries": "gone.jsonl"}}, InputError, "queries: input gone.jsonl"),
        ("tables", {"input": {"corpus": "corpus-twice"}}, InputError, "expected each doc_id once, got 'd1' again"),
        ("tables", {"input": {"corpus": "corpus-bad"}}, InputError, "row 0: text: expected text, got nothing"),
        ("tables", {"input": {"corpus": "corpus", "run": "ties"}}, InputError, "query 'q1': expected each rank once"),
        ("tables", {"input": {"corpus": "corpus", "run": "short"}}, InputError, "line 1: expected query Q0 doc rank"),
        ("tables", {"input": {"corpus": "corpus", "qrels": "half"}}, InputError, "line 1: expected a whole relevance"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    tmp_path: Path, recipe: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    files = {
        "corpus": lines(tmp_path / "c.jsonl", DOCUMENTS),
        "corpus-twice": lines(tmp_path / "c2.jsonl", [*DOCUMENTS, DOCUMENTS[0]]),
        "corpus-bad": lines(tmp_path / "c3.jsonl", [{"doc_id": "d1"}]),
        "ties": lines(tmp_path / "ties.txt", ["q1 Q0 d1 1 2 t", "q1 Q0 d2 1 1 t"]),
        "short": lines(tmp_path / "short.txt", ["q1 d1 1"]),
        "half": lines(tmp_path / "half.txt", ["q1 0 d1 0.5"]),
    }
    if isinstance(changes.get("input"), dict):
        given = {
            key: str(files.get(value, value)) if isinstance(value, str) else value
            for key, value in changes["input"].items()
        }
        changes = {**changes, "input": given}
    with pytest.raises(error, match=message):
        prepared(recipe, lines(tmp_path / "in.jsonl", QUERIES), tmp_path / "out", **changes)


def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"in\.parquet: expected Parquet"):
        prepared("shards", tmp_path / "in.parquet", tmp_path / "out")
    (tmp_path / "in.json").write_text('[{"a": 1}')
    with pytest.raises(InputError, match=r"in\.json: expected one JSON array; the array ends at byte 9"):
        prepared("shards", tmp_path / "in.json", tmp_path / "out")
    (tmp_path / "in.csv").write_text("a,b")
    with pytest.raises(InputError, match=r"in\.csv: expected a file ending in"):
        prepared("shards", tmp_path / "in.csv", tmp_path / "out")


def test_object_storage_in_and_out(tmp_path: Path, s3_environment: str) -> None:
    s3 = s3fs.S3FileSystem(key="test", secret=SECRET, endpoint_url=s3_environment, skip_instance_cache=True)
    s3.mkdir("prepared")
    s3.put_file(str(lines(tmp_path / "in.json", [json.dumps([samples.LOCOMO])])), "prepared/in/locomo.json")
    result = prepared("locomo", "s3://prepared/in", "s3://prepared/out")
    assert [one["query_id"] for one in manifest_rows(result.run_uri)] == ["conv-1/q0", "conv-1/q1", "conv-1/q2"]
    assert Storage("s3://prepared").list_files(f"{result.run_uri}/labels/qrels")
