"""The script that makes a night's RayJob, against an HTTP server that answers as a cluster's API does."""

from __future__ import annotations

import datetime
import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.infra.manifests import KUBERNETES, built, of_kind, problems

_SPEC = importlib.util.spec_from_file_location("create_night", KUBERNETES / "base" / "create_night.py")
assert _SPEC is not None and _SPEC.loader is not None
create_night = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(create_night)

JOBS = "/apis/ray.io/v1/namespaces/batch/rayjobs"


class Api:
    """RayJobs by name; a new one ends as ``outcome`` says."""

    def __init__(self, template: dict[str, Any]) -> None:
        self.jobs = {template["metadata"]["name"]: template}
        self.order: list[str] = []
        self.tokens: set[str | None] = set()
        self.outcome = "SUCCEEDED"
        self.url = ""

    def create(self, job: dict[str, Any]) -> int:
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409
        self.order.append(name)
        self.jobs[name] = job | {"status": {"jobDeploymentStatus": "Complete", "jobStatus": self.outcome}}
        return 201


@pytest.fixture
def api() -> Iterator[Api]:
    (template,) = of_kind(built("gpu-spot-kueue"), "RayJob")
    state = Api(template)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, code: int, body: Any) -> None:
            state.tokens.add(self.headers["Authorization"])
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self) -> None:
            name = self.path.removeprefix(f"{JOBS}/")
            self._answer(200 if name in state.jobs else 404, state.jobs.get(name, {}))

        def do_POST(self) -> None:
            assert self.path == JOBS
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(state.create(job), {})

        def log_message(self, *_arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def cluster(api: Api) -> Any:
    return create_night.Cluster(api.url, "batch", "token", None)


def run(api: Api, *arguments: str, today: str = "2026-10-02") -> int:
    parsed = create_night.parse(["qrbatch-nightly", *arguments])
    dates = create_night.dates_of(parsed, datetime.date.fromisoformat(today))
    code = create_night.create_nights(cluster(api), "qrbatch-nightly", dates, wait=parsed.days_ago is None)
    return int(code)


def test_a_night_is_the_template_with_its_date(api: Api) -> None:
    assert run(api, "--days-ago", "1") == 0
    assert api.order == ["qrbatch-nightly-20261001"]
    template, night = api.jobs["qrbatch-nightly"], api.jobs["qrbatch-nightly-20261001"]
    assert "date=2026-10-01 " in night["spec"]["entrypoint"] and "{date}" not in night["spec"]["entrypoint"]
    assert night["spec"]["suspend"] is False
    assert night["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "batch"
    assert {**night["spec"], "entrypoint": 0, "suspend": 0} == {**template["spec"], "entrypoint": 0, "suspend": 0}
    assert template["spec"]["suspend"] is True
    assert api.tokens == {"Bearer token"}
    assert problems({key: night[key] for key in ("apiVersion", "kind", "metadata", "spec")}) == []


def test_the_same_night_is_made_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(api, "--days-ago", "1") == run(api, "--days-ago", "1") == 0
    assert len(api.order) == 1
    assert "is there already" in capsys.readouterr().out


def test_a_range_is_made_in_order_and_a_failed_night_is_told(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    dates = ("--from", "2026-02-27", "--until", "2026-03-01")
    assert run(api, *dates) == 0
    assert api.order == [f"qrbatch-nightly-{day}" for day in ("20260227", "20260228", "20260301")]
    api.outcome = "FAILED"
    assert run(api, "--from", "2026-02-26", "--until", "2026-02-27") == 1
    assert "20260226: FAILED" in capsys.readouterr().out


def test_mistakes_are_refused(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        [],
        ["--from", "2026-01-01"],
        ["--days-ago", "1", "--from", "2026-01-01", "--until", "2026-01-02"],
    ):
        with pytest.raises(SystemExit):
            create_night.parse(["qrbatch-nightly", *arguments])
    with pytest.raises(SystemExit, match="on or after"):
        run(api, "--from", "2026-01-02", "--until", "2026-01-01")
    api.jobs["qrbatch-nightly"]["spec"]["entrypoint"] = "qrbatch rerank"
    with pytest.raises(SystemExit, match=r"expected \{date\}"):
        run(api, "--days-ago", "1")
    capsys.readouterr()
