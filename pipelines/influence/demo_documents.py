"""Documents for a demonstration: documentation of this Python's standard library, plain and copying from itself."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from pipelines.contracts import DOCUMENT_SCHEMA
from pipelines.influence.separation import pair_rows
from pipelines.python_docs import collect_documents
from pipelines.storage import Storage, absolute, join
from pipelines.work import parquet_bytes

DOMAIN: Final = "python documentation"
_FILE: Final = "documents/pairs.parquet"
#: Shorter texts would make documents of a sentence or two.
_FEWEST_WORDS: Final = 40


def write_demo_documents(output: str, pairs: int) -> str:
    """Put ``pairs`` of documents below ``output`` and return their URI; see :func:`pair_rows`.

    Raises :class:`qrcore.errors.InputError` if this Python's documentation cannot be read.
    """
    texts = [one.text for one in collect_documents() if len(one.text.split()) >= _FEWEST_WORDS]
    # Neighbours by name document the same module: a pair is of one matter, and pairs are of many.
    step = max(2, len(texts) // pairs)
    halves = [text for start in range(0, len(texts) - 1, step) for text in texts[start : start + 2]]
    table = pa.Table.from_pylist(list(pair_rows(halves[: 2 * pairs], DOMAIN)), schema=DOCUMENT_SCHEMA)
    uri = join(absolute(output), _FILE)
    storage, data = Storage(uri), parquet_bytes(table, {})
    # A file that is written again is another input, and its run another run.
    if not storage.exists(uri) or storage.read(uri) != data:
        storage.replace(uri, data)
    return uri
