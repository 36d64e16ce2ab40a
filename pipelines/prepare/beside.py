"""Tables beside the input (corpus, run, queries, judgements): their files, and themselves in the object store."""

from __future__ import annotations

from typing import Any

import ray

from pipelines.cluster import LIGHT_TASK_CPUS, get
from pipelines.job import Observer
from pipelines.labels import load_qrels
from pipelines.prepare.settings import PrepareSettings
from pipelines.prepare.sources import list_sources
from pipelines.prepare.tables import index_corpus, load_corpus, load_queries, load_run
from pipelines.prepare.work import Beside
from pipelines.storage import FileInfo, Storage, absolute
from qrcore.errors import InputError


def files_beside(settings: PrepareSettings) -> list[FileInfo]:
    """The files of all tables beside the input. Raises :class:`InputError` for one that is not there."""
    found: list[FileInfo] = []
    for what in ("corpus", "queries"):
        uri = getattr(settings, what)
        try:
            found += list_sources([uri], settings.storage) if uri else []
        except InputError as error:
            raise InputError(f"{what}: {error}") from error
    for what in ("run", "qrels"):
        if uri := getattr(settings, what):
            storage, place = Storage(uri, settings.storage), absolute(uri)
            if not storage.exists(place):
                raise InputError(f"{what} {uri}: expected a file or a folder, found nothing. Check the URI.")
            found += storage.list_files(place) if storage.is_folder(place) else [storage.info(place)]
    return found


def load_beside(settings: PrepareSettings, observer: Observer) -> tuple[Beside, int]:
    """The tables beside the input in the object store, and how many source rows make about one shard."""
    corpus = run_table = bm25 = queries = None
    unit_rows = settings.unit_rows
    storage = settings.storage
    if settings.corpus:
        observer.stage("reading the corpus")
        corpus = task(load_corpus).remote([settings.corpus], _corpus_columns(settings), storage)
        mean = get(task(_mean_bytes).remote(corpus))
        unit_rows = min(unit_rows, max(1, settings.shard_bytes // (max(mean, 1) * (settings.depth or 100))))
        if settings.run:
            run_table = task(load_run).remote(settings.run, storage)
            get(task(_nothing).remote(run_table))
        else:
            observer.stage("indexing the corpus for BM25")
            bm25 = task(index_corpus).remote(corpus)
            get(task(_nothing).remote(bm25))
    if settings.queries:
        queries = task(load_queries).remote([settings.queries], settings.columns, storage)
        get(task(_nothing).remote(queries))
    gold = None
    if settings.qrels:
        gold = task(load_qrels).remote(settings.qrels, storage)
        get(task(_nothing).remote(gold))
    return Beside(corpus, run_table, bm25, queries, gold), unit_rows


def _corpus_columns(settings: PrepareSettings) -> dict[str, str]:
    """Only names of documents: those of queries may mean the same columns there."""
    names = {ours: theirs for ours, theirs in settings.columns.items() if ours in ("doc_id", "title", "text")}
    return names if settings.recipe != "beir" else {"doc_id": "_id", **names}


def task(function: Any) -> Any:
    """A function as a task that takes hardly any of a CPU."""
    return ray.remote(num_cpus=LIGHT_TASK_CPUS)(function)


def _mean_bytes(corpus: Any) -> int:
    return int(corpus.mean_bytes)


def _nothing(_table: Any) -> None:
    """Waits for a table, so that its errors are told before any work begins."""
