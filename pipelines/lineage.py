"""Tell a lineage service of runs: OpenLineage events at start and end, over HTTP or as files.

Events say what was read and written, never with what settings: no configuration, text or credential is in them. Who
cannot be told is told of once and left alone; a run never waits for long or fails for it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pipelines.commit import Manifest
from pipelines.storage import Storage, StorageOptions, absolute, join
from qrcore.errors import ConfigError, IncompleteRunError, QRBatchError, StorageError

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent, RunState

#: Where the tools of OpenLineage look for the token of an endpoint.
TOKEN_VARIABLE: Final = "OPENLINEAGE_API_KEY"


@dataclass(frozen=True, slots=True)
class LineageSettings:
    """``uri``: an HTTP endpoint or a folder for files, None: nobody is told; ``namespace`` of the jobs in events."""

    uri: str | None = None
    namespace: str = "qrbatch"
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Source:
    """An input file; ``rows``: None where they were not counted."""

    uri: str
    size: int
    rows: int | None


@dataclass(frozen=True, slots=True)
class LineageRun:
    """What events tell of one driver's run. ``inputs``: files and folders as they were asked for, ``sources`` the files
    found in them; ``columns`` of the output: name to type."""

    job: str
    name: str
    run_id: str
    driver: str
    inputs: tuple[str, ...]
    sources: tuple[Source, ...]
    output: str
    columns: Mapping[str, str]


@contextmanager
def told(
    run: LineageRun, settings: LineageSettings, storage: StorageOptions, warn: Callable[[str], None]
) -> Iterator[Callable[[Manifest], None]]:
    """Tell of the start and of the end of the work in this block, which calls the yielded function with its manifest.

    A block that ends otherwise is told of as aborted, if the same command resumes it, else as failed.
    """
    if settings.uri is None:
        yield lambda manifest: None
        return
    from openlineage.client.event_v2 import RunState  # slow to import, and few runs need it

    events = _Events(run, settings, _sender(settings, storage), warn)
    events.tell(RunState.START)
    try:
        yield lambda manifest: events.tell(RunState.COMPLETE, manifest=manifest)
    except BaseException as error:
        resumable = isinstance(error, (IncompleteRunError, StorageError)) or not isinstance(error, Exception)
        events.tell(RunState.ABORT if resumable else RunState.FAIL, error=error)
        raise


class _Events:
    def __init__(
        self,
        run: LineageRun,
        settings: LineageSettings,
        send: Callable[[str, str], None],
        warn: Callable[[str], None],
    ) -> None:
        self._run, self._settings, self._send, self._warn = run, settings, send, warn
        self._given_up = False

    def tell(self, state: RunState, manifest: Manifest | None = None, error: BaseException | None = None) -> None:
        """Send one event, unless an earlier one could not be sent."""
        from openlineage.client.serde import Serde

        if self._given_up:
            return
        event = _event(self._run, self._settings.namespace, state, manifest, error)
        name = f"{self._run.run_id}-{self._run.driver}-{state.value.lower()}.json"
        try:
            self._send(name, Serde.to_json(event))
        except (OSError, HTTPException, StorageError, ConfigError) as problem:
            self._given_up = True
            self._warn(
                f"lineage.uri {self._settings.uri}: expected it to take an event within "
                f"{self._settings.timeout_s:g} s, it did not ({problem}); going on without telling it"
            )


def _sender(settings: LineageSettings, storage: StorageOptions) -> Callable[[str, str], None]:
    uri = str(settings.uri)
    if uri.startswith(("http://", "https://")):
        return lambda _, event: _post(uri, event, settings.timeout_s)
    return lambda name, event: Storage(uri, storage).replace(join(absolute(uri), name), event.encode())


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Refuse: the token would go where it was not sent."""


def _post(url: str, event: str, timeout_s: float) -> None:
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get(TOKEN_VARIABLE):
        headers["Authorization"] = f"Bearer {token}"
    request = Request(url, event.encode(), headers, method="POST")
    build_opener(_NoRedirects).open(request, timeout=timeout_s).close()


def _event(
    run: LineageRun, namespace: str, state: RunState, manifest: Manifest | None, error: BaseException | None
) -> RunEvent:
    from openlineage.client.event_v2 import Job, Run, RunEvent
    from openlineage.client.facet_v2 import error_message_run, job_type_job, processing_engine_run
    from openlineage.client.generated.base import RunFacet

    producer = f"urn:qrbatch:{version('qrbatch')}"
    own = RunFacet(producer=producer).with_additional_properties(run_id=run.run_id, **_counts(manifest))
    facets: dict[str, RunFacet] = {
        "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
            version=version("ray"), name="Ray Data", openlineageAdapterVersion=version("qrbatch"), producer=producer
        ),
        "qrbatch": cast("RunFacet", own),
    }
    if error is not None:
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(_words(error), "python", producer=producer)
    kind = job_type_job.JobTypeJobFacet("BATCH", "QRBATCH", jobType=run.job.upper(), producer=producer)
    return RunEvent(
        eventType=state,
        eventTime=datetime.now(UTC).isoformat(timespec="milliseconds"),
        run=Run(str(uuid.UUID(run.driver)), facets),
        job=Job(namespace, run.name, {"jobType": kind}),
        inputs=[_input(uri, run.sources, producer) for uri in run.inputs],
        outputs=[_output(run, manifest, producer)],
        producer=producer,
    )


def _counts(manifest: Manifest | None) -> dict[str, int]:
    return {"scored": manifest.scored, "failed": manifest.failed} if manifest else {}


def _words(error: BaseException) -> str:
    # What others put into their messages is not known; ours repeat no credential.
    return f"{type(error).__name__}: {error}" if isinstance(error, QRBatchError) else type(error).__name__


def _input(uri: str, sources: Sequence[Source], producer: str) -> InputDataset:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import input_statistics_input_dataset

    inside = [source for source in sources if source.uri == uri or source.uri.startswith(f"{uri}/")]
    if not inside:
        return InputDataset(*_named(uri))
    rows = [source.rows for source in inside if source.rows is not None]
    counted = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
        rowCount=sum(rows) if len(rows) == len(inside) else None,
        size=sum(source.size for source in inside),
        fileCount=len(inside),
        producer=producer,
    )
    return InputDataset(*_named(uri), inputFacets={"inputStatistics": counted})


def _output(run: LineageRun, manifest: Manifest | None, producer: str) -> OutputDataset:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import output_statistics_output_dataset, schema_dataset
    from openlineage.client.generated.base import DatasetFacet

    columns = [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in run.columns.items()]
    facets: dict[str, DatasetFacet] = {}
    if columns:
        facets["schema"] = schema_dataset.SchemaDatasetFacet(columns, producer=producer)
    if manifest is None:
        return OutputDataset(*_named(run.output), facets=facets)
    counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=manifest.rows,
        size=sum(entry.size for entry in manifest.objects),
        fileCount=len(manifest.objects),
        producer=producer,
    )
    return OutputDataset(*_named(run.output), facets=facets, outputFacets={"outputStatistics": counted})


def _named(uri: str) -> tuple[str, str]:
    """Namespace and name of a data set: OpenLineage's names for buckets and for local files."""
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return f"s3://{bucket}", key
    return "file", uri
