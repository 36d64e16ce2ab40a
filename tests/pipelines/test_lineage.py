"""OpenLineage events over a real HTTP server and as files: what they say, what they never say, and who may be dead."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs.config import RerankConfig
from jobs.detect_config import DetectConfig
from jobs.prepare import PrepareConfig
from jobs.rerank import pipeline_settings
from jobs.select import SelectConfig
from jobs.settings import Section, flatten, validate
from pipelines.commit import CommittedObject, Manifest
from pipelines.lineage import TOKEN_VARIABLE, LineageRun, LineageSettings, Source, told
from pipelines.storage import StorageOptions
from qrcore.errors import ConfigError, IncompleteRunError, InputError
from tests.services import SECRET
from tests.shards import row, write_shard
from tests.stubs import Quiet, run_stub, stub_settings

RUN = LineageRun(
    job="rerank",
    name="nightly",
    run_id="nightly-0123456789ab",
    driver=uuid.uuid4().hex,
    inputs=("s3://bucket/shards", "/data/more"),
    sources=(Source("s3://bucket/shards/1.parquet", 10, 3), Source("s3://bucket/shards/2.parquet", 20, 4)),
    output="s3://bucket/runs/nightly-0123456789ab",
    columns={"query_id": "string"},
)


def manifest() -> Manifest:
    stored = CommittedObject(path="data/u.parquet", unit_id="u", size=99, sha256="", rows=7, scored=6, failed=1)
    return Manifest(
        run_id=RUN.run_id, job="rerank", name="nightly", driver=RUN.driver, committed_at="2026-11-25T00:00:00+00:00",
        config_hash="c", input_hash="i", rows=7, scored=6, failed=1, skipped_files=(), objects=(stored,), side_files=(),
        provenance={},
    )  # fmt: skip


@dataclass
class Endpoint:
    """A lineage service that keeps what it is told, answers with ``code``, and takes ``pause_s`` for it."""

    code: int = 201
    pause_s: float = 0.0
    location: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    service = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            service.events.append(json.loads(body))
            service.headers.append(dict(self.headers))
            time.sleep(service.pause_s)
            self.send_response(service.code)
            if service.location:
                self.send_header("Location", service.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_port}/api/v1/lineage"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield service
    server.shutdown()
    server.server_close()
    thread.join()


def tell(uri: str, error: BaseException | None = None, **more: Any) -> list[str]:
    """Tell of a run that ends well or with an error; the warnings."""
    warnings: list[str] = []
    with told(RUN, LineageSettings(uri, **more), StorageOptions(), warnings.append) as end:
        if error is not None:
            raise error
        end(manifest())
    return warnings


def test_start_and_commit_are_told_with_what_went_in_and_came_out(endpoint: Endpoint) -> None:
    assert tell(endpoint.url, namespace="night") == []
    start, end = endpoint.events
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == end["run"]["runId"] == str(uuid.UUID(RUN.driver))
    for event in (start, end):
        assert event["job"]["namespace"] == "night"
        assert event["job"]["name"] == "nightly"
        assert event["job"]["facets"]["jobType"]["jobType"] == "RERANK"
        assert event["schemaURL"].endswith("OpenLineage.json#/$defs/RunEvent")
        assert event["producer"].startswith("urn:qrbatch:")
        assert [(one["namespace"], one["name"]) for one in event["inputs"]] == [
            ("s3://bucket", "shards"), ("file", "/data/more"),
        ]  # fmt: skip
        counted = event["inputs"][0]["inputFacets"]["inputStatistics"]
        assert (counted["rowCount"], counted["size"], counted["fileCount"]) == (7, 30, 2)
        assert "inputStatistics" not in event["inputs"][1].get("inputFacets", {})
        (output,) = event["outputs"]
        assert (output["namespace"], output["name"]) == ("s3://bucket", "runs/nightly-0123456789ab")
        assert output["facets"]["schema"]["fields"][0]["name"] == "query_id"
        assert event["run"]["facets"]["processing_engine"]["name"] == "Ray Data"
        assert event["run"]["facets"]["qrbatch"]["run_id"] == RUN.run_id
    assert "outputStatistics" not in start["outputs"][0].get("outputFacets", {})
    written = end["outputs"][0]["outputFacets"]["outputStatistics"]
    assert (written["rowCount"], written["size"], written["fileCount"]) == (7, 99, 1)
    assert (end["run"]["facets"]["qrbatch"]["scored"], end["run"]["facets"]["qrbatch"]["failed"]) == (6, 1)


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (InputError("in.parquet: expected a column"), "FAIL", "InputError: in.parquet: expected a column"),
        (IncompleteRunError("a worker was lost"), "ABORT", "IncompleteRunError: a worker was lost"),
        (KeyboardInterrupt(), "ABORT", "KeyboardInterrupt"),
        (RuntimeError(f"password={SECRET}"), "FAIL", "RuntimeError"),
    ],
)
def test_a_run_that_ends_otherwise_is_told_of_in_our_own_words(
    endpoint: Endpoint, error: BaseException, state: str, words: str
) -> None:
    with pytest.raises(type(error)):
        tell(endpoint.url, error)
    assert [event["eventType"] for event in endpoint.events] == ["START", state]
    assert endpoint.events[1]["run"]["facets"]["errorMessage"]["message"] == words
    assert SECRET not in json.dumps(endpoint.events)


def test_the_token_goes_into_a_header_and_nowhere_else(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(endpoint.url)
    assert "Authorization" not in endpoint.headers[0]
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET)
    tell(endpoint.url)
    assert endpoint.headers[-1]["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in json.dumps(endpoint.events)


def test_a_token_does_not_follow_a_redirect(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET)
    endpoint.code, endpoint.location = 302, endpoint.url + "/elsewhere"
    (warning,) = tell(endpoint.url)
    assert len(endpoint.events) == 1
    assert "302" in warning
    assert SECRET not in warning


@pytest.mark.parametrize("code", [401, 500])
def test_an_endpoint_that_refuses_is_named_once_and_the_run_goes_on(endpoint: Endpoint, code: int) -> None:
    endpoint.code = code
    (warning,) = tell(endpoint.url)
    assert endpoint.url in warning
    assert str(code) in warning
    assert "going on without telling it" in warning
    assert len(endpoint.events) == 1


def test_a_dead_endpoint_costs_a_warning_and_a_slow_one_no_more_than_its_time(endpoint: Endpoint) -> None:
    (warning,) = tell("http://127.0.0.1:9/lineage")
    assert "http://127.0.0.1:9/lineage" in warning
    endpoint.pause_s = 5.0
    started = time.monotonic()
    (warning,) = tell(endpoint.url, timeout_s=0.2)
    assert time.monotonic() - started < 4
    assert "0.2 s" in warning
    with pytest.raises(InputError):  # an error is not replaced by that of the endpoint
        tell("http://127.0.0.1:9/lineage", InputError("x"))


def test_events_become_files_where_a_folder_is_named(tmp_path: Path) -> None:
    assert tell(str(tmp_path / "events")) == []
    events = {path.name: json.loads(path.read_text()) for path in (tmp_path / "events").iterdir()}
    assert {name: event["eventType"] for name, event in events.items()} == {
        f"{RUN.run_id}-{RUN.driver}-start.json": "START",
        f"{RUN.run_id}-{RUN.driver}-complete.json": "COMPLETE",
    }
    (tmp_path / "file").write_text("")
    (warning,) = tell(str(tmp_path / "file" / "events"))
    assert "going on" in warning


def test_nobody_is_told_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with told(RUN, LineageSettings(), StorageOptions(), pytest.fail) as end:
        end(manifest())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [RerankConfig, DetectConfig, SelectConfig, PrepareConfig])
def test_every_job_with_a_run_takes_the_setting_and_no_password(kind: type[Section]) -> None:
    given: dict[str, Any] = {"recipe": "shards", "qrels": "q"}
    values = {name: value for name, value in given.items() if name in kind.model_fields}
    values |= {"input": {"uri": "in"} if kind is SelectConfig else {"uris": ["in"]}, "output": {"uri": "out"}}
    config = validate(kind, {**values, "lineage": {"uri": "${MARQUEZ}/api"}}, {"MARQUEZ": "http://marquez:5000"})
    assert flatten(config)["lineage.uri"] == "http://marquez:5000/api"
    assert not [name for name in flatten(config, only_affecting_output=True) if name.startswith("lineage")]
    with pytest.raises(ConfigError, match="without user and password") as caught:
        validate(kind, {**values, "lineage": {"uri": f"http://me:{SECRET}@marquez"}})
    assert SECRET not in str(caught.value)


def test_a_run_is_told_of_from_its_configuration_on(tmp_path: Path, endpoint: Endpoint, local_ray: None) -> None:
    write_shard(tmp_path / "in" / "1.parquet", [row("a"), row("b", query="oom")])
    settings = stub_settings(str(tmp_path / "in"), str(tmp_path / "out"), lineage={"uri": endpoint.url})
    result = run_stub(settings)
    start, end = endpoint.events
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert end["inputs"][0]["name"] == str(tmp_path / "in")
    assert end["inputs"][0]["inputFacets"]["inputStatistics"]["rowCount"] == 2
    assert end["outputs"][0]["name"] == result.run_uri
    assert end["run"]["facets"]["qrbatch"]["failed"] == 1
    assert SECRET not in json.dumps(endpoint.events)  # Ray's workers have it in their environment
    assert run_stub(settings).already_committed
    assert len(endpoint.events) == 2
    observer = Quiet()
    dead = replace(settings, name="dead", lineage=LineageSettings("http://127.0.0.1:9/"))
    assert run_stub(dead, observer=observer).manifest.rows == 2
    assert len([line for line in observer.stages if line.startswith("lineage.uri")]) == 1


def test_settings_reach_the_pipeline() -> None:
    config = validate(RerankConfig, {"input": {"uris": ["in"]}, "output": {"uri": "out"}, "lineage": {"uri": "events"}})
    assert pipeline_settings(config).run.lineage == LineageSettings("events", "qrbatch", 5.0)
