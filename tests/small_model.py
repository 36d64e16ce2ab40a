"""A model that is at hand, and heads of it, for tests that need any."""

from __future__ import annotations

from pathlib import Path

MODEL = str(Path(__file__).parent / "data" / "golden" / "models" / "llama")
HEADS = "1-0,1-2,2-4"
