"""A headless Chromium driven over its own pipe (the DevTools protocol): no driver program, no port, no dependency.

Where there is none, tests skip; with ``QRBATCH_REQUIRE_CHROMIUM=1``, as in ``.ci/run`` wherever it could be installed,
they fail.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 60.0
CHROMIUM = shutil.which("chromium")
REQUIRED = os.environ.get("QRBATCH_REQUIRE_CHROMIUM") == "1"
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and not REQUIRED, reason="no chromium on PATH: apt-get install chromium"
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
Message = dict[str, Any]


@dataclass(slots=True)
class Browser:
    """One page of one browser; `requests` are the URLs it asked for since the last `open`."""

    commands: int
    answers: int
    session: str = ""
    requests: list[str] = field(default_factory=list)
    _sent: int = 0
    _buffer: bytes = b""

    def call(self, method: str, **params: Any) -> Message:
        """Send one command and return its result; raises RuntimeError for the browser's own errors."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        os.write(
            self.commands, json.dumps(message | ({"sessionId": self.session} if self.session else {})).encode() + b"\0"
        )
        answer = self._until(lambda one: one.get("id") == message["id"])
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def open(self, page: Path, width: int, scheme: str) -> None:
        """Load a local page at `width` CSS pixels in a colour scheme and wait until everything is loaded."""
        self.requests.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.as_uri())
        self._until(lambda one: one.get("method") == "Page.loadEventFired")

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """Write the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _until(self, wanted: Callable[[Message], bool]) -> Message:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            message = self._next(deadline)
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if wanted(message):
                return message

    def _next(self, deadline: float) -> Message:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.answers, 1 << 20) if ready else b""
            if not chunk:
                raise RuntimeError(f"expected an answer from the browser within {TIMEOUT_S} s, got none")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    assert CHROMIUM is not None, "QRBATCH_REQUIRE_CHROMIUM=1: expected a chromium on PATH, found none"
    with launch(CHROMIUM, tmp_path_factory.mktemp("profile")) as running:
        yield running


@contextlib.contextmanager
def launch(program: str, profile: Path) -> Iterator[Browser]:
    """Start the browser with an empty profile, attach to one page, end the process that was started."""
    child_in, ours_out = _high_pipe()
    ours_in, child_out = _high_pipe()
    # The protocol is spoken on descriptors 3 and 4 of the browser.
    actions = [(os.POSIX_SPAWN_DUP2, child_in, 3), (os.POSIX_SPAWN_DUP2, child_out, 4)]
    log = os.open(profile / "stderr.txt", os.O_WRONLY | os.O_CREAT)
    actions += [(os.POSIX_SPAWN_DUP2, log, 2)]
    argv = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = os.posix_spawn(program, argv, dict(os.environ), file_actions=actions, setpgroup=0)
    for descriptor in (child_in, child_out, log):
        os.close(descriptor)
    try:
        yield _attached(Browser(ours_out, ours_in))
    finally:
        # The browser's helpers are in the process group that was made for it.
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(ours_out)
        os.close(ours_in)


def _attached(browser: Browser) -> Browser:
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser.call("Page.enable")
    browser.call("Network.enable")
    return browser


def _high_pipe() -> tuple[int, int]:
    """A pipe whose descriptors are above those that the browser reserves."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
