"""Every error that qrbatch raises on purpose.

::

    QRBatchError
    ├── ConfigError            a setting cannot be used
    │   ├── HeadSetError       a head set is unknown, malformed or does not fit the model
    │   ├── ModelError         a model cannot be loaded or read exactly
    │   └── PromptError        a prompt format cannot be built for this tokenizer
    ├── InputError             input data break the contract as a whole (a file, a schema)
    ├── StorageError           an object store or file system refused or lost something
    ├── TrainingError          a model did not learn what it was to learn
    ├── RunError               a run cannot go on
    │   ├── PlanConflictError  the stored plan and this command disagree
    │   ├── IncompleteRunError work is left; the same command resumes it
    │   ├── ErrorLimitError    more rows fail than the settings allow
    │   └── RunHeldError       another driver works on the run
    └── ScoreError             one row cannot be scored; becomes the row's ``error``

Each message says what was expected, what came, and what to do.
"""

from __future__ import annotations

from typing import Final, Literal

ErrorKind = Literal["input", "transient"]

#: What can be wrong with one row, and whether trying again may help.
ERROR_KINDS: Final[dict[str, ErrorKind]] = {
    "null_query_id": "input",
    "duplicate_query_id": "input",
    "null_query": "input",
    "empty_query": "input",
    "null_candidates": "input",
    "no_candidates": "input",
    "null_candidate": "input",
    "null_doc_id": "input",
    "duplicate_doc_id": "input",
    "null_text": "input",
    "invalid_text": "input",
    "invalid_rank": "input",
    "invalid_json": "input",
    "invalid_row": "input",
    "empty_document": "input",
    "missing_documents": "input",
    "not_ranked": "input",
    "no_bundle": "input",
    "other_documents": "input",
    "template_error": "input",
    "context_too_long": "input",
    "no_needle": "input",
    "no_passage": "input",
    "nothing_relevant": "input",
    "row_too_large": "input",
    "unreadable_input": "input",
    "sliding_window_exceeded": "input",
    "oom": "transient",
    "worker_died": "transient",
    "non_finite": "transient",
}


class QRBatchError(Exception):
    """Base of all errors of this project."""


class ConfigError(QRBatchError):
    """A setting cannot be used."""


class HeadSetError(ConfigError):
    """A head set is unknown, malformed or does not fit the model."""


class ModelError(ConfigError):
    """A model cannot be loaded, or its attention cannot be read exactly."""


class PromptError(ConfigError):
    """A prompt format cannot be built for this tokenizer."""


class InputError(QRBatchError):
    """Input data break the contract as a whole."""


class StorageError(QRBatchError):
    """An object store or file system refused or lost something."""


class TrainingError(QRBatchError):
    """A model did not learn what it was to learn; the same settings would end alike."""


class RunError(QRBatchError):
    """A run cannot go on."""


class PlanConflictError(RunError):
    """The stored plan and this command disagree."""


class IncompleteRunError(RunError):
    """Work is left; running the same command again resumes it."""


class ErrorLimitError(RunError):
    """More rows fail than the settings allow; nothing is committed."""


class RunHeldError(RunError):
    """Another driver works on the run."""


class ScoreError(QRBatchError):
    """One query and its candidates cannot be scored.

    Attributes: ``code`` (a key of :data:`ERROR_KINDS`), ``kind`` (``input``: permanent, ``transient``: may
    succeed when run again), ``stage`` (where it was noticed), ``query_id`` (if the request had one).
    """

    def __init__(self, code: str, message: str, *, stage: str, query_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.kind: ErrorKind = ERROR_KINDS[code]
        self.stage = stage
        self.query_id = query_id

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments need help to cross process borders.
        return _rebuild_score_error, (self.code, str(self), self.stage, self.query_id)


def _rebuild_score_error(code: str, message: str, stage: str, query_id: str | None) -> ScoreError:
    return ScoreError(code, message, stage=stage, query_id=query_id)
