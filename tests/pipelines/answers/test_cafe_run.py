"""CAFE from finding the heads of both stages to a committed run with its baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.answer import pipeline_settings
from jobs.answer_config import AnswerConfig
from jobs.detect import detect
from jobs.detect_config import DetectConfig
from jobs.settings import merge, validate
from pipelines import answer
from pipelines.answer_files import read_report
from pipelines.answers.models import open_answerer, open_reader
from pipelines.answers.settings import AnswererSettings, CafeOptions
from pipelines.commit import manifest_rows
from pipelines.job import RunResult
from pipelines.schemas import INPUT_SCHEMA, QRELS_SCHEMA
from pipelines.storage import StorageOptions
from pipelines.verify import open_run, verify
from qrcore.contracts.answerer import ReadAnswer
from qrcore.errors import ConfigError
from qrcore.records import DETECTION_QUERY, Document
from tests.pipelines.reranking import Recorder
from tests.shards import MODEL, candidates, row, write_shard

IDS = [f"q{number}" for number in range(12)]
BAD = {**row("bad", candidates=[]), "answers": ["x"]}


def shards(folder: Path) -> tuple[str, str]:
    rows = [{**row(name, candidates=candidates(9, number)), "answers": ["salt"]} for number, name in enumerate(IDS)]
    write_shard(
        folder / "in" / "1.parquet", [*rows, BAD], INPUT_SCHEMA.append(pa.field("answers", pa.list_(pa.string())))
    )
    judged = [{"query_id": name, "doc_id": f"d{number % 9}", "relevance": 1} for number, name in enumerate(IDS)]
    return str(folder / "in"), str(write_shard(folder / "qrels.parquet", judged, QRELS_SCHEMA))


def found(source: str, qrels: str, output: Path) -> str:
    """The file of a head set, found as the page of answer says."""
    config = validate(
        DetectConfig,
        {
            "input": {"uris": [source]},
            "output": {"uri": str(output)},
            "qrels": qrels,
            "model": {"id": MODEL},
            "methods": {"method": "share", "top": 3},
            "reading": {"query_span": "query"},
            "actors": {"count": 1},
        },
    )
    run = detect(config, Recorder()).found
    return str(Path(run.run_uri) / next(path for path in run.manifest.side_files if path.endswith("headset.json")))


def config_of(source: str, output: Path, **changes: Any) -> AnswerConfig:
    base = {
        "input": {"uri": source},
        "output": {"uri": str(output)},
        "actors": {"count": 1},
        "method": "cafe",
        "model": {"id": MODEL, "max_new_tokens": 3},
        "cafe": {"coarse_top": 2, "fine_top": 1},
    }
    return validate(AnswerConfig, merge(base, changes))


def run(source: str, output: Path, **changes: Any) -> RunResult:
    return answer.run(pipeline_settings(config_of(source, output, **changes)), Recorder())


@pytest.mark.usefixtures("local_ray")
def test_heads_of_both_stages_are_found_and_used(tmp_path: Path) -> None:
    source, qrels = shards(tmp_path)
    coarse = found(source, qrels, tmp_path / "coarse")
    first = run(source, tmp_path / "filtered", cafe={"coarse_heads": coarse}, keep_documents=True, baselines=[])
    kept = list(manifest_rows(first.run_uri))
    assert (
        pq.read_schema(tmp_path / "in" / "1.parquet").field("candidates").type == INPUT_SCHEMA.field("candidates").type
    )
    assert [[one["doc_id"] for one in entry["candidates"]] for entry in kept[:-1]] == [
        entry["documents"] for entry in kept[:-1]
    ]
    fine = found(first.run_uri, qrels, tmp_path / "fine")
    result = run(source, tmp_path / "out", cafe={"coarse_heads": coarse, "fine_heads": fine}, qrels=qrels)
    out = list(manifest_rows(result.run_uri))
    assert [one["query_id"] for one in out] == [*IDS, "bad"] and out[-1]["error"]["code"] == "no_candidates"
    for one, filtered in zip(out[:-1], kept[:-1], strict=True):
        names = [other["name"] for other in one["baselines"]]
        assert names == ["full", "filter", "random_order", "oracle"]
        assert one["documents"] == filtered["documents"] and set(one["steered"]) <= set(one["documents"])
        assert len(one["documents"]) < 9 and len(one["baselines"][0]["documents"]) == 9
        assert one["baselines"][1]["answer"] == filtered["answer"]
    # The same as in this process.
    answerer = open_answerer(AnswererSettings(MODEL, max_new_tokens=3))
    options = CafeOptions(coarse, fine, settings=(("coarse_top", 2), ("fine_top", 1)))
    reader = open_reader(answerer, options, 3)
    documents = [Document(one["doc_id"], one["text"], one["title"]) for one in candidates(9, 0)]
    expected = reader.read(row("q0")["query"], documents, ("cafe",))["cafe"]
    assert isinstance(expected, ReadAnswer)
    assert out[0]["answer"] == expected.answer.text
    assert out[0]["documents"] == [documents[place].doc_id for place in expected.shown]
    # Queries that the heads were found on are in no measure.
    report = read_report(result, StorageOptions())
    seen = [one["query_id"] for one in out[:-1] if DETECTION_QUERY in one["flags"]]
    assert 0 < len(seen) < len(IDS) and report["result"]["detection_queries"] == len(seen)
    assert report["variants"][0]["measures"]["sub_em"]["n"] == len(IDS) - len(seen)
    assert report["variants"][1]["shown_recall"]["mean"] == 1.0
    assert report["provenance"]["method"]["settings"]["coarse_top"] == 2
    assert not list(verify(open_run(result.run_uri, StorageOptions()), with_input=True))


def test_what_is_not_used_makes_no_other_run(tmp_path: Path) -> None:
    """Settings of the method and of the judge enter the identity only where they are."""
    for changes in ({"cafe": {"delta": 1.0}}, {"judge": {"max_new_tokens": 3}}):
        used = {"judge": {"model": MODEL}} if "judge" in changes else {"method": "cafe"}
        unused = {"method": "greedy"}
        affecting = [
            pipeline_settings(config_of("in", tmp_path, **one)).run.affecting_output
            for one in (unused, merge(unused, changes), merge(unused, used), merge(merge(unused, used), changes))
        ]
        assert affecting[0] == affecting[1] and affecting[2] != affecting[3]


@pytest.mark.usefixtures("local_ray")
def test_heads_of_another_model_are_refused(tmp_path: Path) -> None:
    source, _ = shards(tmp_path)
    with pytest.raises(ConfigError, match="expected layers 0-"):
        run(source, tmp_path / "out", cafe={"coarse_heads": "99-0"})
