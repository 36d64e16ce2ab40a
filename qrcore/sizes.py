"""How much memory a cut model takes, from the headers of its weights; nothing is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from safetensors import safe_open

from qrcore.models import ModelSource

_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class ModelSize:
    """``weight_bytes`` of the layers below ``depth`` and what surrounds them; ``token_bytes`` of activations that one
    token of a prompt needs while one layer is computed, in the same precision."""

    weight_bytes: int
    token_bytes: int


def model_size(source: ModelSource, depth: int, *, bytes_per_value: int) -> ModelSize | None:
    """The size of a model cut to ``depth`` layers at ``bytes_per_value``; None where its weights are not at hand."""
    files = sorted(Path(source.path).glob("*.safetensors"))
    if not files:
        return None
    values = sum(_values(file, depth) for file in files)
    config = source.config.get_text_config()
    hidden, inner = config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size)
    # Residual stream, its normed copy, query, key, value, attention's output; then both halves of the feed-forward.
    return ModelSize(values * bytes_per_value, (6 * hidden + 2 * inner) * bytes_per_value)


def _values(file: Path, depth: int) -> int:
    total = 0
    with safe_open(str(file), framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a mapping
            layer = _LAYER.search(name)
            if (layer and int(layer[1]) >= depth) or "lm_head" in name:
                continue
            size = 1
            for length in weights.get_slice(name).get_shape():
                size *= length
            total += size
    return total
