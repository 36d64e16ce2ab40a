"""Which shards of a checkpoint hold the weights below a cut, so that the others are never opened."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_INDEX: Final = "model.safetensors.index.json"
_LAYER: Final = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@contextmanager
def kept_shards(folder: str, depth: int) -> Iterator[str]:
    """A folder that shows only the shards with weights outside the layers or in the first ``depth`` of them.

    The loader opens every shard that an index names, so it gets a shorter index and links to those files. A checkpoint
    in one file is shown as it is: of a single file the loader reads only the tensors that it needs.
    """
    index = Path(folder) / _INDEX
    if not index.is_file():
        yield folder
        return
    content = json.loads(index.read_text(encoding="utf-8"))
    kept = {name: shard for name, shard in content["weight_map"].items() if _is_kept(name, depth)}
    with TemporaryDirectory(prefix="qrbatch-shards-") as shown:
        for shard in set(kept.values()):
            (Path(shown) / shard).symlink_to((Path(folder) / shard).resolve())
        (Path(shown) / _INDEX).write_text(json.dumps({**content, "weight_map": kept}), encoding="utf-8")
        yield shown


def _is_kept(weight: str, depth: int) -> bool:
    layer = _LAYER.search(weight)
    return layer is None or int(layer[1]) < depth
