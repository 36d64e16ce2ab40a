"""Needle trials as an input shard: every trial is one row of the usual contract, which every job can read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa

from pipelines.identity import code_version
from pipelines.needle_columns import NEEDLE_FIELDS
from pipelines.schemas import INPUT_SCHEMA, QRELS_SCHEMA, SCHEMA_VERSION, SCHEMA_VERSION_KEY
from pipelines.storage import Storage, StorageOptions, absolute, join
from pipelines.texts import read_text_rows
from pipelines.work import parquet_bytes
from qrcore.errors import ConfigError, InputError
from qrcore.needles import NeedleSettings, NeedleTrial, needle_trials

#: Beside the trials, not among them: a folder of shards is read as a whole.
TRIALS_FILE: Final = "shards/needles.parquet"
QRELS_FILE: Final = "qrels.parquet"
NEEDLES_KEY: Final = b"qrbatch.needles"

TRIAL_ROWS_SCHEMA: Final = pa.schema(
    [*INPUT_SCHEMA, *NEEDLE_FIELDS], metadata={SCHEMA_VERSION_KEY: SCHEMA_VERSION.encode()}
)


@dataclass(frozen=True, slots=True)
class NeedleShardSettings:
    """Texts in, a folder out; ``model``: whose tokens lengths are counted in, ``prompt``: as in scoring."""

    texts: tuple[str, ...]
    output: str
    model: str
    revision: str | None
    prompt: str
    trials: NeedleSettings
    storage: StorageOptions


@dataclass(frozen=True, slots=True)
class NeedleShards:
    """What was written; ``already_there``: an earlier command had written the very same."""

    trials_uri: str
    qrels_uri: str
    trials: int
    shortest_tokens: int
    longest_tokens: int
    already_there: bool


def write_needle_shards(settings: NeedleShardSettings, stage: Callable[[str], None]) -> NeedleShards:
    """Build the trials and put ``shards/needles.parquet`` and ``qrels.parquet``.

    Raises :class:`InputError` for texts that are too short or no text, :class:`ConfigError` for lengths that the model
    or its prompt cannot hold and for an output that holds other trials.
    """
    from qrcore.models import load_tokenizer, open_model  # torch
    from qrcore.prompts import resolve_prompt
    from qrcore.tokens import PromptEncoder

    stage("reading texts")
    rows, digests = read_text_rows(settings.texts, ("text",), settings.storage)
    if not rows:
        raise InputError(f"texts {', '.join(settings.texts)}: expected rows with text, got none. Check the files.")
    source = open_model(settings.model, settings.revision)
    _check_lengths(settings.trials, source.max_tokens)
    tokenizer = load_tokenizer(source)
    prompt = resolve_prompt(settings.prompt, tokenizer, source.head_set.prompt if source.head_set else None)
    stage("hiding needles")
    trials = list(needle_trials([row["text"] for row in rows], PromptEncoder(tokenizer), prompt, settings.trials))
    made = {
        "model": {"id": settings.model, "revision": source.revision},
        "prompt": {"name": prompt.name, "sha256": prompt.hash},
        "trials": asdict(settings.trials),
        "texts": sorted(digests.values()),
        "code": code_version()["version"],
    }
    return _write(settings, trials, made)


def _check_lengths(trials: NeedleSettings, max_tokens: int) -> None:
    if max(trials.lengths) > max_tokens:
        raise ConfigError(
            f"lengths: expected at most {max_tokens} tokens for this model, got {max(trials.lengths)}. "
            "Use shorter ones, or a model with a longer context."
        )


def trial_id(trial: NeedleTrial) -> str:
    """The ``query_id`` of a trial: what it is made of."""
    return f"needle-{trial.needle + 1}-length-{trial.length}-depth-{trial.depth:g}-haystack-{trial.haystack}"


def trial_row(trial: NeedleTrial) -> dict[str, Any]:
    """A trial as a row of :data:`TRIAL_ROWS_SCHEMA`; the needle is the text of its characters."""
    candidates = [{"doc_id": document.doc_id, "text": document.text} for document in trial.documents]
    return {
        "query_id": trial_id(trial),
        "query": trial.question,
        "candidates": candidates,
        "needle_doc_id": trial.documents[trial.place - 1].doc_id,
        "needle_start": trial.characters.start,
        "needle_end": trial.characters.stop,
        "needle": trial.needle + 1,
        "length": trial.length,
        "depth": trial.depth,
    }


def _write(settings: NeedleShardSettings, trials: Sequence[NeedleTrial], made: dict[str, Any]) -> NeedleShards:
    rows = [trial_row(trial) for trial in trials]
    judged = [{"query_id": row["query_id"], "doc_id": row["needle_doc_id"], "relevance": 1} for row in rows]
    metadata = {NEEDLES_KEY: json.dumps(made)}
    storage, output = Storage(settings.output, settings.storage), absolute(settings.output)
    contents = {
        join(output, TRIALS_FILE): parquet_bytes(pa.Table.from_pylist(rows, schema=TRIAL_ROWS_SCHEMA), metadata),
        join(output, QRELS_FILE): parquet_bytes(pa.Table.from_pylist(judged, schema=QRELS_SCHEMA), metadata),
    }
    # Looked at together first: trials of one command beside judgements of another would fit nowhere.
    there = [uri for uri in contents if storage.exists(uri)]
    for uri in there:
        if storage.read(uri) != contents[uri]:
            raise ConfigError(f"output {uri}: expected a free place, found other trials. Choose another output.")
    for uri, data in contents.items():
        storage.create(uri, data)
    tokens = [len(trial.trial.prompt_ids) for trial in trials]
    return NeedleShards(
        trials_uri=join(output, TRIALS_FILE),
        qrels_uri=join(output, QRELS_FILE),
        trials=len(trials),
        shortest_tokens=min(tokens),
        longest_tokens=max(tokens),
        already_there=len(there) == len(contents),
    )
