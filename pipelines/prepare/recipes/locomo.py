"""LoCoMo: one long conversation with many questions; a piece is a turn, with ``granularity: coarse`` a session.

Turns are named by their ``dia_id`` (``D3:11``), sessions ``D3``; titles hold who speaks and when. Questions of the
fifth category have no answer in the conversation and come without gold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.prepare.recipes import Recipe, Tools
from pipelines.prepare.recipes.dialogue import content, speaker
from pipelines.prepare.records import Piece, Prepared, list_of, struct_of, text_of

_TURN = re.compile(r"D(\d+):(\d+)")
_ADVERSARIAL = 5


def prepare(row: dict[str, Any], tools: Tools) -> Iterator[Prepared]:
    """One row for each question of the conversation."""
    name = text_of(row, "sample_id")
    coarse = tools.granularity == "coarse"
    conversation = struct_of(row.get("conversation"), "conversation")
    pieces = _sessions(name, conversation) if coarse else _turns(name, conversation)
    for number, entry in enumerate(list_of(row, "qa")):
        asked = struct_of(entry, "qa")
        category = asked.get("category")
        gold = {} if category == _ADVERSARIAL else _gold(name, asked.get("evidence") or [], coarse)
        answer = asked.get("answer", asked.get("adversarial_answer"))
        yield Prepared(
            f"{name}/q{number}",
            text_of(asked, "question"),
            pieces,
            answers=None if answer is None else (str(answer),),
            kind=None if category is None else f"category-{category}",
            group=name,
            # Evidence that names a turn which is not there (there is some) stays, so that the report can count it.
            gold=gold or None,
            carried=row,
        )


def _session_numbers(conversation: dict[str, Any]) -> list[int]:
    found = (re.fullmatch(r"session_(\d+)", key) for key in conversation)
    return sorted(int(match[1]) for match in found if match)


def _turns(name: str, conversation: dict[str, Any]) -> list[Piece]:
    pieces = []
    for number in _session_numbers(conversation):
        date = conversation.get(f"session_{number}_date_time")
        for entry in list_of(conversation, f"session_{number}"):
            turn = struct_of(entry, "turn")
            title = ", ".join(str(part) for part in (speaker(turn), date) if part)
            pieces.append(Piece(f"{name}/{text_of(turn, 'dia_id')}", _said(turn), title, source_id=f"{name}/D{number}"))
    return pieces


def _sessions(name: str, conversation: dict[str, Any]) -> list[Piece]:
    pieces = []
    for number in _session_numbers(conversation):
        turns = [struct_of(entry, "turn") for entry in list_of(conversation, f"session_{number}")]
        text = "".join(f"{speaker(turn)}: {_said(turn)}\n" for turn in turns)
        date = conversation.get(f"session_{number}_date_time")
        pieces.append(Piece(f"{name}/D{number}", text, None if date is None else str(date), source_id=name))
    return pieces


def _said(turn: dict[str, Any]) -> str:
    """What is said, and the caption of a picture that is shown with it."""
    caption = turn.get("blip_caption")
    return f"{content(turn)} [shares {caption}]" if caption else content(turn)


def _gold(name: str, evidence: list[Any], coarse: bool) -> dict[str, int]:
    # One entry sometimes names several turns: "D8:6; D9:17".
    found = [match for entry in evidence for match in _TURN.finditer(str(entry))]
    return {f"{name}/D{match[1]}" if coarse else f"{name}/D{match[1]}:{int(match[2])}": 1 for match in found}


RECIPE = Recipe(
    {
        "sample_id": "text",
        "conversation": "object with session_N (lists of turns with speaker, dia_id, text) and session_N_date_time",
        "qa": "list of objects with question, answer, evidence, category",
    },
    prepare,
)
