"""``qrbatch answer --demo``: facts hidden in this Python's documentation, answered by CAFE with the embedded model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jobs.answer import answer
from jobs.answer_config import AnswerConfig
from jobs.settings import Values, merge, validate

if TYPE_CHECKING:
    from pipelines.job import Observer, RunResult

_MODEL: Final = "embedded-gqa"
#: The paper's numbers of documents are for contexts of fifty and more; these prompts hold about ten.
_USUAL: Final[Values] = {
    "name": "answer-demo",
    "output": {"uri": "demo-answer"},
    "method": "cafe",
    "cafe": {"coarse_top": 2, "fine_top": 1},
    "model": {"id": _MODEL, "max_new_tokens": 40},
    "units": {"max_rows": 15},
}


def answer_demo(values: Values, observer: Observer) -> tuple[RunResult, AnswerConfig]:
    """Make the questions below the output and answer them; ``values`` are settings of the job.

    The model's own heads serve both stages; finding some for each is told on the job's page. Raises errors of
    :mod:`qrcore.errors`.
    """
    from pipelines.answers.demo import write_demo_questions

    values = merge(_USUAL, values)
    observer.stage("hiding facts in the documentation of this Python")
    made = write_demo_questions(values["output"]["uri"], values["model"]["id"])
    own = {"input": {"uri": made.shards}, "qrels": made.qrels, "answers": made.answers}
    heads = {"coarse_heads": made.heads, "fine_heads": made.heads}
    config = validate(AnswerConfig, merge(merge({"cafe": heads}, values), own))
    return answer(config, observer), config
