"""What a process counts of its memory, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

_BEFORE = "from pipelines.process_memory import model_begins, model_bytes, peak_bytes\n"


def _told(code: str) -> list[int]:
    command = [sys.executable, "-c", _BEFORE + code]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [int(number) for number in output.split()]


def test_a_process_without_a_model_tells_of_none() -> None:
    assert _told("print(model_bytes())") == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a peak anew")
def test_growth_is_counted_from_the_model_on() -> None:
    grown, later, whole = _told(
        "other = b'x' * (300 << 20); del other; model_begins(); weights = b'x' * (100 << 20); print(model_bytes());"
        "more = b'x' * (50 << 20); del more; print(model_bytes(), peak_bytes())"
    )
    assert grown == pytest.approx(100 << 20, rel=0.05)
    assert later == pytest.approx(150 << 20, rel=0.05)
    assert later < whole
