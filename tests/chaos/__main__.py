"""The long version: ``python -m tests.chaos --kills 5``; writes its table beside the other results."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipelines.cluster import ClusterSettings, ray_session
from tests.chaos.points import POINTS
from tests.chaos.scenarios import BAD_DAY, Outcome, Scenario, as_record, ground, play
from tests.services import s3_api, s3_credentials

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
#: Points that a run comes to once: each kill there needs a run of its own.
ONCE = ("after plan", "after manifest")


def scenarios(kills: int, seed: int) -> Iterator[Scenario]:
    """Everything that goes wrong in the recorded run."""
    light = {name: rate / 4 for name, rate in BAD_DAY.items()}
    for point in POINTS:
        runs = kills if point in ONCE else 1
        for number in range(runs):
            yield Scenario(f"killed {point}", point, 1 if point in ONCE else kills, light, seed=seed + number)
    for number in range(3):
        yield Scenario("network on a bad day", rates=BAD_DAY, seed=seed + number)
    yield Scenario("two drivers paused before the manifest", paused=True, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play all scenarios, write the table; exit code 1 if any run did not end whole."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    told = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_api() as server,
        s3_credentials(server),
        ray_session(ClusterSettings()),
        ground(Path(folder), server, real=True, stub=False) as made,
    ):
        for scenario in scenarios(told.kills, told.seed):
            outcomes.append(play(made, scenario))
            print(line(outcomes[-1]), flush=True)
            write(outcomes, told.output, told.kills, told.seed)
    return 0 if all(outcome.whole for outcome in outcomes) else 1


def line(outcome: Outcome) -> str:
    """One outcome on a line."""
    word = "whole" if outcome.whole else "NOT WHOLE " + "; ".join(outcome.wrong)
    return (
        f"{outcome.scenario:40} kills {outcome.kills} faults {outcome.faults:3} commands {outcome.commands} "
        f"rows {outcome.rows_out}/{outcome.rows_in} lost {outcome.lost} doubled {outcome.doubled} "
        f"changed {outcome.changed} {outcome.seconds:.0f} s  {word}"
    )


def write(outcomes: Sequence[Outcome], folder: Path, kills: int, seed: int) -> None:
    """The table by scenario, and every single outcome as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chaos.jsonl").write_text("".join(json.dumps(as_record(outcome)) + "\n" for outcome in outcomes))
    rows = []
    for name in dict.fromkeys(outcome.scenario for outcome in outcomes):
        group = [outcome for outcome in outcomes if outcome.scenario == name]
        cells = [
            name,
            len(group),
            *(sum(getattr(outcome, field) for outcome in group) for field in COUNTED),
            "yes" if all(outcome.whole for outcome in group) else "no",
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    head = ["scenario", "runs", "kills", "network faults", "commands", "rows in", "rows out", "error rows"]
    head += ["lost", "doubled", "changed", "whole"]
    text = [
        "# Chaos",
        "",
        f"`make chaos` on {datetime.now(UTC):%Y-%m-%d}, {kills} kills a point, seed {seed}: real scorer, real actors,",
        "an S3 API over HTTP behind a network that goes wrong. A kill counts only if the process was alive and at the",
        "point; whole: rows equal the undisturbed run's byte for byte, and `qrbatch verify` finds nothing.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *rows,
        "",
    ]
    (folder / "chaos.md").write_text("\n".join(text))


COUNTED = ("kills", "faults", "commands", "rows_in", "rows_out", "error_rows", "lost", "doubled", "changed")


if __name__ == "__main__":
    sys.exit(main())
