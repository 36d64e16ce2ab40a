"""Scenarios: what goes wrong, how often; and the judge, who compares what came out with an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
import s3fs

from pipelines.commit import manifest_rows
from pipelines.storage import StorageOptions
from pipelines.verify import open_run, verify
from tests.chaos.points import DRIVER_POINTS, arm, kills
from tests.faults import Faults, faulty_network
from tests.shards import row, write_shard

ROOT = Path(__file__).parent.parent.parent
_MOST_COMMANDS = 20
_DRIVER_TIMEOUT_S = 400
#: Faults of a network on a bad day: 20 % of all requests meet one.
BAD_DAY = {
    "slow_down": 0.04,
    "server_error": 0.03,
    "reset": 0.03,
    "dropped_reply": 0.03,
    "slow_body": 0.02,
    "truncated_body": 0.03,
    "conflict": 0.02,
    "precondition": 0.02,
}


@dataclass(frozen=True)
class Scenario:
    """``point``: where ``kills`` processes die, one after the other; ``rates``: faults of the network before the store;
    ``broken``: how the protocol is broken on purpose; ``paused``: two drivers wait before the manifest and go on
    together."""

    name: str
    point: str = ""
    kills: int = 0
    rates: dict[str, float] = field(default_factory=dict)
    broken: str = ""
    paused: bool = False
    real: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came of a scenario. ``commands``: how often the same command was run; ``exit_codes``: of the commands that
    were not killed; ``wrong``: what verify and the judge found."""

    scenario: str
    kills: int
    faults: int
    commands: int
    exit_codes: tuple[int, ...]
    rows_in: int
    rows_out: int
    error_rows: int
    lost: int
    doubled: int
    changed: int
    wrong: tuple[str, ...]
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether the run ended as an undisturbed one does."""
        codes = {0, 4, -9}
        fine = self.lost == self.doubled == self.changed == 0 and not self.wrong and set(self.exit_codes) <= codes
        return fine and self.rows_in == self.rows_out


@dataclass(frozen=True)
class Ground:
    """Where scenarios are played: an S3 API, an input in it, and what an undisturbed run makes of it."""

    folder: Path
    server: str
    bucket: str
    inputs: str
    rows: int
    expected: dict[bool, list[dict[str, Any]]]


@contextmanager
def ground(folder: Path, server: str, *, real: bool, stub: bool, rows: int = 24) -> Iterator[Ground]:
    """Make the input and the undisturbed runs. Ray must be running, and the environment name the S3 API."""
    s3, bucket = s3fs.S3FileSystem(skip_instance_cache=True), f"chaos-{os.getpid()}-{time.time_ns() % 10**6}"
    s3.mkdir(bucket)
    # One row in eight is bad, so that error rows are compared, too.
    half = rows // 2
    listed = [row(f"q{i}", **({"query": None} if i % 8 == 3 else {})) for i in range(rows)]
    for number, part in enumerate((listed[:half], listed[half:])):
        path = write_shard(folder / f"{number}.parquet", part)
        s3.put_file(str(path), f"{bucket}/in/{number}.parquet")
    made = Ground(folder, server, bucket, f"s3://{bucket}/in", rows, {})
    for kind in [True] * real + [False] * stub:
        scenario = Scenario("undisturbed", real=kind)
        output = f"s3://{bucket}/undisturbed-{'real' if kind else 'stub'}"
        driver = _start(made, scenario, output, server, again=False)
        said, _ = driver.communicate(timeout=_DRIVER_TIMEOUT_S)
        if driver.returncode != 0:
            raise RuntimeError(f"the undisturbed run failed:\n{said}")
        made.expected[kind] = list(manifest_rows(_committed(said)))
    yield made


def _committed(said: str) -> str:
    return said.rsplit("committed ", 1)[1].split()[0]


def _start(
    ground: Ground, scenario: Scenario, output: str, endpoint: str, *, again: bool, join: bool = False
) -> subprocess.Popen[str]:
    points = ground.folder / f"points-{output.rsplit('/', 1)[1]}"
    points.mkdir(exist_ok=True)
    storage = {"endpoint_url": endpoint, "retries": 8, "path_style": True}
    changes = {"units": {"max_rows": 2}, "storage": storage, "join": join}
    spec = {
        "inputs": ground.inputs,
        "output": output,
        "points": str(points),
        "point": scenario.point,
        "kills": scenario.kills,
        "again": again,
        "broken": scenario.broken,
        "real": scenario.real,
        "changes": {**changes, "cluster": {"address": ray.get_runtime_context().gcs_address}},
    }
    path = points / f"spec-{time.time_ns()}.json"
    path.write_text(json.dumps(spec))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.driver", str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def play(ground: Ground, scenario: Scenario) -> Outcome:
    """Run the same command until it commits, while things go wrong; then judge."""
    started = time.monotonic()
    slug = scenario.name.replace(" ", "-").replace("/", "-").lower()
    output = f"s3://{ground.bucket}/{slug}-{scenario.seed}"
    points = str(ground.folder / f"points-{output.rsplit('/', 1)[1]}")
    faults = Faults(scenario.rates, seed=scenario.seed, longest_row=4)
    codes: list[int] = []
    said: list[str] = []
    with faulty_network(ground.server, faults) as endpoint:
        if scenario.paused:
            codes, said = _play_paused(ground, scenario, output, endpoint, points)
        else:
            Path(points).mkdir(exist_ok=True)
            for _ in range(_MOST_COMMANDS):
                if scenario.point and kills(points, scenario.point) < scenario.kills:
                    arm(points, scenario.point)
                again = scenario.point not in DRIVER_POINTS
                driver = _start(ground, scenario, output, endpoint, again=again)
                said.append(driver.communicate(timeout=_DRIVER_TIMEOUT_S)[0])
                codes.append(driver.returncode)
                if codes[-1] in (0, 1, 2):
                    break
    killed = kills(points, scenario.point) if scenario.point else 0
    return _judge(ground, scenario, output, codes, said, killed, faults, time.monotonic() - started)


def _play_paused(
    ground: Ground, scenario: Scenario, output: str, endpoint: str, points: str
) -> tuple[list[int], list[str]]:
    Path(points).mkdir(exist_ok=True)
    wait = Path(points, "before manifest.wait")
    wait.touch()
    drivers = [_start(ground, scenario, output, endpoint, again=False, join=True) for _ in range(2)]
    until = time.monotonic() + _DRIVER_TIMEOUT_S
    while len(list(Path(points).glob("before manifest.*.waiting"))) < 2 and time.monotonic() < until:
        if any(driver.poll() is not None for driver in drivers):
            break
        time.sleep(0.1)
    wait.unlink()
    said = [driver.communicate(timeout=_DRIVER_TIMEOUT_S)[0] for driver in drivers]
    return [driver.returncode for driver in drivers], said


def _judge(
    ground: Ground,
    scenario: Scenario,
    output: str,
    codes: list[int],
    said: list[str],
    killed: int,
    faults: Faults,
    seconds: float,
) -> Outcome:
    expected = ground.expected[scenario.real]
    wrong: list[str] = []
    found: list[dict[str, Any]] = []
    runs = [text for text in said if "committed s3://" in text]
    if not runs:
        wrong.append("never committed: " + said[-1].strip().splitlines()[-1] if said and said[-1].strip() else "silent")
    else:
        uri = _committed(runs[-1])
        try:
            wrong += [f"{p.code} {p.where}: {p.what}" for p in verify(open_run(uri, StorageOptions()), with_input=True)]
            found = list(manifest_rows(uri))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a run is a finding here
            wrong.append(f"{type(error).__name__}: {error}")
        committers = {text.rsplit(" by ", 1)[1].split()[0] for text in runs}
        if scenario.paused and len(committers) != 1:
            wrong.append(f"{len(committers)} drivers believe that they committed")
    if any(number > 1 for path, number in faults.accepted.items() if "_manifest.json" in path):
        wrong.append("a manifest was put where one stood")
    if not scenario.point and any(code not in (0,) for code in codes):
        wrong.append(f"exit codes {codes} without a kill")
    times = Counter(_source(row) for row in found)
    by_source = {_source(row): row for row in found}
    return Outcome(
        scenario=scenario.name,
        kills=killed,
        faults=sum(faults.met.values()),
        commands=len(codes),
        exit_codes=tuple(codes),
        rows_in=ground.rows,
        rows_out=len(found),
        error_rows=sum(row["error"] is not None for row in found),
        lost=sum(not times[_source(row)] for row in expected),
        doubled=sum(number > 1 for number in times.values()),
        changed=sum(by_source.get(_source(row), row) != row for row in expected),
        wrong=tuple(wrong),
        seconds=seconds,
    )


def _source(row: dict[str, Any]) -> tuple[str, int]:
    return row["source"]["uri"], row["source"]["row"]


def as_record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain values."""
    return {**asdict(outcome), "whole": outcome.whole}
