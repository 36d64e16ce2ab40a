"""What is watched while something runs: this process, and whatever below it calls itself one of Ray's."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time

from tests.benchmarks.processes import MIB, Watched, own, private, watched

_CHILD = "import time; held = bytearray(b'x' * 80_000_000); print('held', flush=True); time.sleep(60)"


def test_workers_are_found_by_their_name_with_what_they_hold_alone() -> None:
    with watched() as found:
        children = [
            subprocess.Popen([name, "-c", _CHILD], executable=sys.executable, stdout=subprocess.PIPE)
            for name in ("ray::Scorer", "other")
        ]
        try:
            for child in children:
                assert child.stdout is not None and child.stdout.readline() == b"held\n"
            time.sleep(1.0)
        finally:
            for child in children:
                child.kill()
                child.communicate()
    assert "other" not in found.workers
    assert 80_000_000 < found.workers["ray::Scorer"] < 300 * MIB
    assert found.largest_worker == max(found.workers.values())
    assert found.seconds >= 1.0 and len(found.driver) >= 2
    assert private(children[0].pid) == 0


def test_what_is_written_of_a_long_run_fits_a_page() -> None:
    driver = [(place * 0.25, (100 + place % 7) * MIB) for place in range(1000)]
    found = Watched(250.0, driver, {"ray::A": 5 * MIB})
    assert found.driver_growth == 6 * MIB
    record = found.record()
    assert record["driver_peak_mib"] == 106 and len(record["driver_mib"]) <= 50
    assert record["worker_peak_mib"] == {"ray::A": 5}


def test_what_lies_in_shared_memory_is_not_a_processes_own() -> None:
    before = own(os.getpid())
    assert before > 10 * MIB
    with mmap.mmap(-1, 64 * MIB) as shared:
        shared[:] = b"x" * len(shared)
        assert own(os.getpid()) - before < 32 * MIB
    held = bytearray(b"x" * (64 * MIB))
    assert own(os.getpid()) - before > len(held) - 32 * MIB
