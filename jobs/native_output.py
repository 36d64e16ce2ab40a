"""Keep what native code writes to standard error away from the screen, and show it only when something broke.

Ray's C++ side logs warnings about its own internals there, past every Python logger.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from qrcore.errors import QRBatchError


@contextmanager
def native_stderr_held() -> Iterator[None]:
    """Hold file descriptor 2 back; Python's own ``sys.stderr`` still reaches the screen.

    When the block raises what nobody foresaw, what was held is printed: it may hold the reason. Errors of ours say
    theirs themselves.
    """
    sys.stderr.flush()
    screen = os.dup(2)
    shown, python_stderr = os.fdopen(os.dup(screen), "w", buffering=1), sys.stderr
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        sys.stderr = shown
        failed = True
        try:
            yield
            failed = False
        except (QRBatchError, KeyboardInterrupt, typer.Exit):
            failed = False
            raise
        finally:
            sys.stderr = python_stderr
            os.dup2(screen, 2)
            os.close(screen)
            shown.close()
            if failed:
                held.seek(0)
                os.write(2, held.read())
