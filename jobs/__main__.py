"""``python -m jobs`` is the same program as ``qrbatch``."""

from __future__ import annotations

from jobs.cli import main

if __name__ == "__main__":
    main()
