"""The pass of a judge: a language model says of an answer, yes or no, whether it says what the gold answers say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from qrcore.answers import yes_or_no
from qrcore.contracts.answerer import Answer, Answerer, Question
from qrcore.rendering import TextTemplate

JUDGE_TEMPLATE: Final = (
    "A question, its right answer, and what somebody answered.\n\nQuestion: {{ query }}\n"
    "Right answer: {{ gold | join(' / ') }}\nAnswered: {{ answer }}\n\n"
    "Does that answer say what the right answer says? More words do not matter, a part of it is not enough. "
    "Say yes or no.\nVerdict:"
)


class ToJudge(NamedTuple):
    """An answer with what it is judged by."""

    query: str
    gold: Sequence[str]
    answer: str


class Judge:
    """Judges with one answerer. ``template``: of its user's turn, from ``query``, ``gold`` and ``answer``."""

    def __init__(self, answerer: Answerer, template: str = JUDGE_TEMPLATE) -> None:
        self._answerer = answerer
        self._template = TextTemplate(template, "judge.template")

    def verdicts(self, answers: Sequence[ToJudge]) -> list[bool | None]:
        """Yes or no to each in order; None where the judge says neither, or cannot be asked."""
        asked = [Question(one.query, text=self._template.render(one._asdict())) for one in answers]
        return [
            yes_or_no(said.text) if isinstance(said, Answer) else None for said in self._answerer.answer_many(asked)
        ]
