"""Checks of one query and its candidates before any computing."""

from __future__ import annotations

from qrcore.errors import ScoreError
from qrcore.records import RankRequest


def check_request(request: RankRequest) -> None:
    """Raise :class:`ScoreError` (kind ``input``) for a request that no scorer can answer."""
    if not request.documents:
        raise _error(request, "no_candidates", "candidates: expected at least one document, got none. Add candidates.")
    seen: set[str] = set()
    for document in request.documents:
        if document.doc_id in seen:
            raise _error(
                request,
                "duplicate_doc_id",
                f"candidates: expected each doc_id once, got {document.doc_id!r} twice. Remove or rename one.",
            )
        seen.add(document.doc_id)
    for text in _texts(request):
        _check_encodable(request, text)


def _texts(request: RankRequest) -> list[str]:
    texts = [request.query]
    for document in request.documents:
        texts += [document.title or "", document.text]
    return texts


def _check_encodable(request: RankRequest, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _error(
            request,
            "invalid_text",
            f"text: expected valid Unicode, got a lone surrogate at character {error.start}. Re-decode the source.",
        ) from error


def _error(request: RankRequest, code: str, message: str) -> ScoreError:
    return ScoreError(code, message, stage="validate", query_id=request.query_id)
