"""LongMemEval: a question to many past chat sessions; a piece is a round (what the user says and what is answered).

With ``granularity: coarse`` a piece is a session. A piece's title is its session's date; gold are the rounds that hold
a turn marked ``has_answer``, or, where no turn is marked, the sessions named as answers. Questions whose id ends in
``_abs`` ask for what was never said, and come without gold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.recipes.dialogue import turn_pieces
from pipelines.prepare.records import Piece, Prepared, invalid, list_of, struct_of, text_of

_TURNS_OF_A_ROUND = 2
_ABSTENTION = "_abs"


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """One row for each question."""
    sessions = list_of(row, "haystack_sessions")
    names, dates = list_of(row, "haystack_session_ids"), list_of(row, "haystack_dates")
    if not len(sessions) == len(names) == len(dates):
        raise invalid(
            f"haystack: expected as many sessions as ids and dates, got {len(sessions)}, {len(names)} and "
            f"{len(dates)}. Correct the row."
        )
    pieces: list[Piece] = []
    marked: dict[str, int] = {}
    of_answer_sessions: dict[str, int] = {}
    for place, (session, name, date) in enumerate(zip(sessions, names, dates, strict=True)):
        turns = [struct_of(turn, "turn") for turn in session]
        if not turns:
            continue
        together = len(turns) if tools.granularity == "coarse" else _TURNS_OF_A_ROUND
        # The same session can stand in a haystack twice: its place keeps the names apart.
        found = turn_pieces(f"{place}:{name}", turns, together, str(date))
        pieces += found
        for number, piece in enumerate(found):
            if any(turn.get("has_answer") for turn in turns[number * together : (number + 1) * together]):
                marked[piece.doc_id] = 1
            if name in (row.get("answer_session_ids") or ()):
                of_answer_sessions[piece.doc_id] = 1
    answer, query_id = row.get("answer"), text_of(row, "question_id")
    gold = {} if query_id.endswith(_ABSTENTION) else marked or of_answer_sessions
    yield Prepared(
        query_id,
        text_of(row, "question"),
        pieces,
        answers=None if answer is None else (str(answer),),
        date=text_of(row, "question_date", optional=True) or None,
        kind=text_of(row, "question_type", optional=True) or None,
        gold=gold or None,
        carried=row,
    )


RECIPE = Recipe(
    {
        "question_id, question, answer": "text",
        "question_type, question_date": "text, optional",
        "haystack_session_ids, haystack_dates": "lists of text",
        "haystack_sessions": "list of lists of turns with role, content, has_answer",
        "answer_session_ids": "list of text",
    },
    prepare,
)
