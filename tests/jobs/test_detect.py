"""``qrbatch detect`` from shards and judgements to a proved head set, on a real local Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.detect import pipeline_settings
from jobs.detect_config import DetectConfig
from jobs.settings import validate
from pipelines.commit import manifest_rows
from pipelines.schemas import QRELS_SCHEMA
from pipelines.splits import part_of
from qrcore.heads import HeadSet, load_head_set
from qrcore.matching import query_digest
from qrcore.records import DETECTION_QUERY
from tests.shards import MODEL, row, write_shard

pytestmark = pytest.mark.usefixtures("local_ray")

QUERIES = [f"q{number}" for number in range(24)]
DEV = [name for name in QUERIES if part_of(name) == "dev"]


def detect(folder: Path, *more: str) -> Result:
    arguments = [
        "detect",
        *("--input", str(folder / "in"), "--qrels", str(folder / "qrels.parquet"), "--output", str(folder / "out")),
        *("--model", MODEL, "--prompt", "qrhead-llama3", "--top", "4"),
        *("--set", "actors.count=1", "--set", "units.max_rows=6", "--set", "dataset_id=words"),
    ]
    return CliRunner().invoke(app, [*arguments, *more], env={"COLUMNS": "200"}, catch_exceptions=False)


def write_examples(folder: Path, gold: str = "d1") -> None:
    """Two shards; a row without judgements and a broken one among them."""
    write_shard(folder / "in" / "1.parquet", [row(name) for name in QUERIES[:12]])
    write_shard(folder / "in" / "2.parquet", [*(row(name) for name in QUERIES[12:]), row("x", query=None)])
    judged = [{"query_id": name, "doc_id": gold, "relevance": 1} for name in [*QUERIES, "gone"] if name != DEV[0]]
    judged += [{**one, "doc_id": "in no list"} for one in judged]
    pq.write_table(pa.Table.from_pylist(judged, schema=QRELS_SCHEMA), folder / "qrels.parquet")


@pytest.fixture(scope="module")
def detected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("detect")
    write_examples(folder)
    return folder, detect(folder)


def side_file(folder: Path, run: str, name: str) -> Path:
    (path,) = (folder / "out").glob(f"{run}/commit/*/{name}")
    return path


def load(folder: Path, run: str, name: str) -> Any:
    return json.loads(side_file(folder, run, name).read_text(encoding="utf-8"))


def test_heads_are_found_and_proved_in_two_committed_runs(detected: tuple[Path, Result]) -> None:
    folder, shown = detected
    assert shown.exit_code == 3, shown.output  # the broken row, and the one that nobody judged
    report = load(folder, "detect-[0-9a-f]*", "report.json")
    assert report["examples"] == {
        "used": len(DEV) - 1, "kept_back": 24 - len(DEV), "failed": {"nothing_relevant": 1, "null_query": 1},
        "relevant": 23, "relevant_elsewhere": 23, "judged_without_row": 1,
    }  # fmt: skip
    (run,) = (folder / "out").glob("detect-[0-9a-f]*")
    rows = list(manifest_rows(str(run)))
    assert [one["query_id"] for one in rows] == [*QUERIES, "x"]
    proof = load(folder, "detect-proof-*", "report.json")
    assert proof["queries"] == 24 - len(DEV) and not proof["seen_by_the_choice"]


def test_the_head_set_can_be_used_and_says_where_it_comes_from(detected: tuple[Path, Result]) -> None:
    folder, shown = detected
    file = side_file(folder, "detect-[0-9a-f]*", "headset.json")
    heads = load_head_set(str(file))
    assert (heads.name, heads.method, heads.detection_data, heads.examples) == (
        "detect", "qrscore", "words", len(DEV) - 1,
    )  # fmt: skip
    assert heads.detection_queries == tuple(sorted(query_digest(one, row(one)["query"]) for one in DEV[1:]))
    assert heads.scores == tuple(sorted(heads.scores or (), reverse=True)) and len(heads.heads) == 4
    assert heads.id in shown.output
    fit = CliRunner().invoke(app, ["heads", "validate", str(file), "--model", MODEL], catch_exceptions=False)
    assert fit.exit_code == 0 and "warning" not in fit.output.split("interval")[0]


def test_judgements_of_queries_that_the_heads_were_found_on_are_no_evidence(
    detected: tuple[Path, Result], tmp_path: Path
) -> None:
    folder, _ = detected
    heads = side_file(folder, "detect-[0-9a-f]*", "headset.json")
    qrels, out = str(folder / "qrels.parquet"), str(tmp_path / "out")
    arguments = ["rerank", "--input", str(folder / "in"), "--output", out, "--model", MODEL, "--heads", str(heads)]
    arguments += ["--prompt", "qrhead-llama3", "--qrels", qrels, "--set", "actors.count=1"]
    ranked = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert ranked.exit_code == 3, ranked.output
    (run,) = (tmp_path / "out").glob("rerank-[0-9a-f]*")
    marked = [one["query_id"] for one in manifest_rows(str(run)) if DETECTION_QUERY in (one["flags"] or ())]
    assert marked == [name for name in QUERIES if name in DEV[1:]]
    quality = json.loads(next(run.glob("commit/*/report.json")).read_text(encoding="utf-8"))["quality"]
    assert (quality["judged_queries"], quality["detection_queries"]) == (24 - len(DEV), len(DEV) - 1)
    assert quality["missing_queries"] == 1  # the one that no row asks

    def evaluate(*more: str) -> Result:
        arguments = ["evaluate", "--input", str(run), "--qrels", qrels, "--output", str(tmp_path / "found"), *more]
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)

    refused = evaluate()
    assert refused.exit_code == 2 and f"got {len(DEV) - 1} judged ones" in " ".join(refused.stderr.split())
    forced = evaluate("--allow-detection-queries")
    assert forced.exit_code == 0 and f"{len(DEV) - 1} of these queries" in " ".join(forced.output.split())
    evaluation = json.loads((tmp_path / "found" / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["runs"][0]["found_on"] == len(DEV) - 1


def test_scores_of_all_heads_by_all_methods(detected: tuple[Path, Result]) -> None:
    folder, _ = detected
    rows = pq.read_table(side_file(folder, "detect-[0-9a-f]*", "head_scores.parquet")).to_pylist()
    assert len(rows) == 3 * 32
    best = [f"{one['layer']}-{one['head']}" for one in rows if one["method"] == "qrscore"][:4]
    heads = HeadSet.model_validate(load(folder, "detect-[0-9a-f]*", "headset.json"))
    assert tuple(best) == heads.heads


def test_the_choice_is_compared_with_its_rivals(detected: tuple[Path, Result]) -> None:
    folder, shown = detected
    proof = load(folder, "detect-proof-*", "report.json")
    names = [one["name"] for one in proof["sets"]]
    assert names[0] == "chosen"
    assert {"first-stage", "all", "ndcg", "core", "random-0", "random-same-layers-4", "top-1", "top-8"} <= set(names)
    assert {one["order"] for one in proof["places"]} == {"as_given", "reversed", "shuffled"}
    assert [one["seeds"] for one in proof["random"]] == [5, 5]
    for text in ("nDCG@10", "chosen - it", "first-stage", "not distinguishable"):
        assert text in shown.output


def test_the_same_command_again_does_nothing(detected: tuple[Path, Result]) -> None:
    folder, first = detected
    again = detect(folder)
    assert again.exit_code == first.exit_code
    assert again.output.count("already committed") == 2


def test_without_a_usable_example_there_is_no_head_set(tmp_path: Path) -> None:
    write_examples(tmp_path, gold="elsewhere")
    refused = detect(tmp_path)
    assert refused.exit_code == 2
    assert "at least one with a relevant candidate" in " ".join(refused.stderr.split())
    assert not list((tmp_path / "out").glob("*.latest.json"))


def test_proving_on_what_the_choice_has_seen_must_be_asked_for_and_is_written_into_the_head_set() -> None:
    given = {"input": {"uris": ["in"]}, "output": {"uri": "out"}, "qrels": "qrels.parquet"}
    usual = pipeline_settings(validate(DetectConfig, given))
    assert (usual.part, usual.contamination) == ("dev", None)
    forced = pipeline_settings(validate(DetectConfig, {**given, "part": "all", "contamination": "BEIR NQ test"}))
    assert forced.part is None
    assert forced.contamination == "BEIR NQ test; found on all queries of its data, the test part among them"
