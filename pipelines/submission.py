"""Send a command to a Ray cluster over its Jobs API, follow its log, and learn how it really ended."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from qrcore.errors import ConfigError, IncompleteRunError

#: Exit codes of a job that did its work; every other end is worth another attempt.
_DONE: Final = (0, 3)
_UNKNOWN_END: Final = 4
#: What a shell adds to the number of the signal that ended a process.
_SIGNALLED: Final = 128
_RECONNECT_S: Final = 2.0
#: What a cluster says that has just been started: its nodes take jobs when their agents have come up.
_NOT_YET: Final = "No available agent"
_TAKEN_WITHIN_S: Final = 60.0
_GIVE_UP_S: Final = 300.0
#: Ray lets these win over an address that was given.
_ADDRESS_VARIABLES: Final = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True, slots=True)
class Submission:
    """A command with the files that it reads. ``files`` travel into the working directory of the job's driver."""

    job: str
    name: str
    arguments: tuple[str, ...]
    files: Mapping[str, str]

    @property
    def entrypoint(self) -> str:
        """The command as one line for a shell."""
        return shlex.join(self.arguments)

    @property
    def identity(self) -> str:
        """The same for the same command and files: submitted twice, a job runs once on a cluster."""
        content = json.dumps([self.arguments, sorted(self.files.items())])
        return f"qrbatch-{self.job}-{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True)
class Submitted:
    """``submission_id`` on the cluster; ``found``: it ran or had run there already."""

    submission_id: str
    found: bool


def connect(address: str) -> JobSubmissionClient:
    """A client for the Jobs API at ``http://host:8265``. Raises :class:`ConfigError` if nobody answers there."""
    try:
        with _without_variables(_ADDRESS_VARIABLES):
            return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ConfigError(
            f"Ray address {address!r}: expected to be let in, the cluster asks for its token. "
            "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH."
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Ray address {address!r}: expected a dashboard that answers, such as http://host:8265; "
            f"{str(error).splitlines()[0]} Correct the address, or start the cluster with its dashboard."
        ) from error


@contextmanager
def _without_variables(names: Sequence[str]) -> Iterator[None]:
    held = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


def send(client: JobSubmissionClient, submission: Submission) -> Submitted:
    """Start the job, or find it: one that runs or did its work is not started again, one that failed is."""
    attempt = 1
    while True:
        submission_id = submission.identity if attempt == 1 else f"{submission.identity}-{attempt}"
        found = _details(client, submission_id)
        if found is None:
            _start(client, submission, submission_id)
            return Submitted(submission_id, found=False)
        if not found.status.is_terminal() or exit_code(found) in _DONE:
            return Submitted(submission_id, found=True)
        attempt += 1


def _details(client: JobSubmissionClient, submission_id: str) -> JobDetails | None:
    return next((one for one in client.list_jobs() if one.submission_id == submission_id), None)


def _start(client: JobSubmissionClient, submission: Submission, submission_id: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in submission.files.items():
            Path(folder, name).write_text(content, encoding="utf-8")
        environment = {"working_dir": folder} if submission.files else {}
        given_up_at = time.monotonic() + _TAKEN_WITHIN_S
        while True:
            try:
                client.submit_job(
                    entrypoint=submission.entrypoint,
                    submission_id=submission_id,
                    runtime_env=environment,
                    metadata={"qrbatch_job": submission.job, "qrbatch_name": submission.name},
                )
                return
            except RuntimeError as error:
                if _details(client, submission_id) is not None:  # somebody else was first with the same job
                    return
                reason = str(error).splitlines()[0]
                if _NOT_YET not in reason or time.monotonic() > given_up_at:
                    raise IncompleteRunError(
                        f"{submission_id}: expected the cluster to take the job; {reason} Submit it again."
                    ) from error
            time.sleep(_RECONNECT_S)


def follow(client: JobSubmissionClient, submission_id: str, write: Callable[[str], None]) -> int:
    """Pass the job's log on until it ends, through lost connections; its true exit code.

    Raises :class:`IncompleteRunError` if the cluster stays away.
    """
    log = _Log(write)
    lost_since: float | None = None
    while True:
        try:
            asyncio.run(log.follow(client, submission_id))
            details = client.get_job_info(submission_id)
            lost_since = None
        except (ConnectionError, RuntimeError, ClientError) as error:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > _GIVE_UP_S:
                raise IncompleteRunError(
                    f"{submission_id}: expected the cluster to answer, it has not for {_GIVE_UP_S:g} s ({error}). "
                    "The job may have gone on: submit it again to find out."
                ) from error
            time.sleep(_RECONNECT_S)
            continue
        if details.status.is_terminal():
            return exit_code(details)
        time.sleep(_RECONNECT_S)


class _Log:
    """A job's log, passed on once: a new connection tells it again from the beginning."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._written = 0

    async def follow(self, client: JobSubmissionClient, submission_id: str) -> None:
        place = 0
        async for text in client.tail_job_logs(submission_id):
            place += len(text)
            new = place - self._written
            if new > 0:
                self._write(text[-new:])
                self._written = place


def exit_code(details: JobDetails) -> int:
    """How a job ended, as the exit code of its own command.

    ``ray job submit`` says 0 of a job that was stopped and 1 of every failure. Here a job that was stopped, was killed
    by a signal, or left no code, is 4: the same command goes on.
    """
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code: Any = details.driver_exit_code
    if details.status == JobStatus.STOPPED or not isinstance(code, int) or not 0 < code < _SIGNALLED:
        return _UNKNOWN_END
    return code
