"""Ray's own noise on file descriptor 2: only where nobody foresaw what went wrong."""

from __future__ import annotations

import os

import pytest
import typer

from jobs.native_output import native_stderr_held
from qrcore.errors import InputError


@pytest.mark.parametrize(
    ("error", "kept"),
    [(InputError("x"), False), (KeyboardInterrupt(), False), (typer.Exit(3), False), (RuntimeError("x"), True)],
)
def test_noise_is_shown_for_unforeseen_errors_only(
    error: BaseException, kept: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)), native_stderr_held():
        os.write(2, b"native noise")
        raise error
    assert ("native noise" in capfd.readouterr().err) is kept


def test_noise_of_a_good_run_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with native_stderr_held():
        os.write(2, b"native noise")
    assert "native noise" not in capfd.readouterr().err
