"""Key-value trials as an input shard: a row is a trial, its candidates are the pairs, and any job can read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import pyarrow as pa

from pipelines.detection.copying import KEY_VALUE
from pipelines.identity import code_version, content_hash
from pipelines.needle_columns import PLACE_FIELDS
from pipelines.schemas import INPUT_SCHEMA, QRELS_SCHEMA, SCHEMA_VERSION, SCHEMA_VERSION_KEY
from pipelines.splits import Part, part_of
from pipelines.storage import Storage, StorageOptions, absolute, join
from pipelines.texts import read_text_rows
from pipelines.work import parquet_bytes
from qrcore.contracts.copy_detector import PairDetector, PairTrial
from qrcore.errors import InputError

TRIALS_FILE: Final = "shards/trials.parquet"
QRELS_FILE: Final = "qrels.parquet"
KEY_VALUE_KEY: Final = b"qrbatch.key_value"
PAIR_ROWS_SCHEMA: Final = pa.schema(
    [*INPUT_SCHEMA, *PLACE_FIELDS], metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()}
)


@dataclass(frozen=True, slots=True)
class KeyValueShardSettings:
    """Texts in, a folder of trials below ``output``; ``model``: whose tokens are counted; ``building``: what the method
    is built with; ``finding`` and ``proving``: trials of either part."""

    texts: tuple[str, ...]
    output: str
    model: str
    revision: str | None
    building: Mapping[str, Any]
    finding: int
    proving: int
    storage: StorageOptions


@dataclass(frozen=True, slots=True)
class KeyValueShards:
    """Where the trials are, and how many heads of the model are to be chosen."""

    trials_uri: str
    qrels_uri: str
    top: int


def write_key_value_shards(settings: KeyValueShardSettings, stage: Callable[[str], None]) -> KeyValueShards:
    """Make the trials, or find those that the same command has made before.

    Raises :class:`InputError` for texts with too few sentences, :class:`ConfigError` for a length that the model does
    not take or that holds too few pairs.
    """
    from qrcore.loading import load_method  # torch
    from qrcore.models import load_tokenizer, open_model, setup_sha256
    from qrcore.tokens import PromptEncoder

    stage("reading texts")
    rows, digests = read_text_rows(settings.texts, ("text",), settings.storage)
    if not rows:
        raise InputError(f"texts {', '.join(settings.texts)}: expected rows with text, got none. Check the files.")
    source = open_model(settings.model, settings.revision)
    method: PairDetector = load_method(KEY_VALUE).build(**settings.building)
    made = {
        "settings": dict(method.settings),
        "trials": [settings.finding, settings.proving],
        "setup": setup_sha256(source.path),
        "texts": sorted(digests.values()),
        "code": code_version()["version"],
    }
    folder = join(absolute(settings.output), f"key-value-{content_hash(made)[:12]}")
    shards = KeyValueShards(join(folder, TRIALS_FILE), join(folder, QRELS_FILE), method.top(source.shape))
    storage = Storage(settings.output, settings.storage)
    if storage.exists(shards.trials_uri) and storage.exists(shards.qrels_uri):
        return shards
    stage("hiding values behind keys")
    encoder = PromptEncoder(load_tokenizer(source))
    numbers = _numbers({"dev": settings.finding, "test": settings.proving})
    trials = method.trials([row["text"] for row in rows], encoder, source.max_tokens, numbers)
    _write(storage, shards, [pair_row(trial) for trial in trials], made)
    return shards


def trial_name(number: int) -> str:
    """The ``query_id`` of a trial, which decides its part."""
    return f"key-value-{number:06}"


def pair_row(trial: PairTrial) -> dict[str, Any]:
    """A trial as a row of :data:`PAIR_ROWS_SCHEMA`: the key is the title of a candidate and the value its text."""
    candidates = [
        {"doc_id": f"pair-{place}", "title": key, "text": value} for place, (key, value) in enumerate(trial.pairs)
    ]
    return {
        "query_id": trial_name(trial.number),
        "query": trial.key,
        "candidates": candidates,
        "needle_doc_id": f"pair-{trial.place}",
        "needle_start": 0,
        "needle_end": len(trial.pairs[trial.place][1]),
    }


def _numbers(wanted: Mapping[Part, int]) -> Iterator[int]:
    """The first numbers whose trials are of each part, as many as wanted."""
    left = dict(wanted)
    for number in count(1):
        if not any(left.values()):
            return
        part = part_of(trial_name(number))
        if left[part]:
            left[part] -= 1
            yield number


def _write(storage: Storage, shards: KeyValueShards, rows: list[dict[str, Any]], made: Mapping[str, Any]) -> None:
    judged = [{"query_id": row["query_id"], "doc_id": row["needle_doc_id"], "relevance": 1} for row in rows]
    metadata = {KEY_VALUE_KEY: json.dumps(made)}
    # Another command that makes the same trials writes the same bytes: whoever comes first is right.
    for uri, table in (
        (shards.qrels_uri, pa.Table.from_pylist(judged, schema=QRELS_SCHEMA)),
        (shards.trials_uri, pa.Table.from_pylist(rows, schema=PAIR_ROWS_SCHEMA)),
    ):
        storage.create(uri, parquet_bytes(table, metadata))
