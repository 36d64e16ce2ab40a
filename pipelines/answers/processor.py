"""Answering with the processor of ``ray.data.llm`` (vLLM): units become prompts, prompts answers, answers units again.

Units travel as they do otherwise, and are read, written and resumed as they are; only the stage between is another.
Each prompt is a row of its own there, so that vLLM batches over units; one actor gathers the rows of a unit and writes
it when the last one is there. Rows that kill an engine are not found out one by one: such a run ends, and resumes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

from ray.data import ActorPoolStrategy, Dataset

from pipelines.answering import AnswerSettings as StageSettings
from pipelines.answering import AnswerUnit, UnitWorker
from pipelines.answers.settings import AnswererSettings, EngineOptions
from pipelines.cluster import LIGHT_TASK_CPUS
from pipelines.plan import Unit
from pipelines.units import unit_rows
from pipelines.work import PoolSettings
from qrcore.contracts.answerer import Answer, AnswererIdentity, Question
from qrcore.errors import ConfigError, ScoreError
from qrcore.questions import QuestionEncoder, load_question_encoder

#: From rows with ``tokenized_prompt`` and ``sampling_params`` to the same with ``generated_text``,
#: ``num_generated_tokens``; other columns stay.
Processor = Callable[[Dataset], Dataset]

#: Makes a worker that asks a given answerer.
WorkerOf = Callable[["StandIn"], UnitWorker]


def check_installed() -> None:
    """Raises :class:`ConfigError` where vLLM is not."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "engine.kind: vllm needs vLLM, which is not installed. Install it on a machine with a GPU (pip install "
            "'qrbatch[vllm]'), or answer with engine.kind transformers."
        )


def processor_config(options: EngineOptions, answerer: AnswererSettings, pool: PoolSettings, longest: int) -> Any:
    """The configuration of the processor; prompts come in tokens, so that its own template and tokenizer are off.
    ``longest``: tokens of a prompt and its answer."""
    from ray.data.llm import vLLMEngineProcessorConfig

    engine: dict[str, Any] = {"dtype": answerer.dtype, "max_model_len": longest, "revision": answerer.revision}
    return vLLMEngineProcessorConfig(
        model_source=answerer.model,
        engine_kwargs={**engine, **dict(options.arguments)},
        concurrency=pool.actors,
        batch_size=options.batch_rows,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )


def llm_processor(config: Any) -> Processor:
    """The processor of a configuration."""
    from ray.data.llm import build_processor

    built: Processor = build_processor(config)
    return built


class StandIn(Protocol):
    """What stands in an answerer's place, in either of the two stages around the processor."""

    @property
    def identity(self) -> AnswererIdentity: ...

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]: ...


@dataclass(slots=True)
class Asked:
    """Takes down what is asked, and answers nothing: prompts by key, and why a question has none."""

    encoder: QuestionEncoder
    prompts: dict[str, tuple[int, ...]] = field(default_factory=dict)
    errors: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def identity(self) -> AnswererIdentity:
        raise RuntimeError("what takes questions down has no model; this is a defect")

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]:
        """Take down; the answers are placeholders."""
        for question in questions:
            try:
                self.prompts[key_of(question)] = self.encoder.encode(question)
            except ScoreError as error:
                self.errors[key_of(question)] = (error.code, str(error))
        return [Answer("", 0, 0, ended=False) for _ in questions]


@dataclass(slots=True)
class Replayed:
    """Answers with what the processor said, by key."""

    answers: dict[str, Answer] = field(default_factory=dict)
    errors: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def identity(self) -> AnswererIdentity:
        raise RuntimeError("what repeats answers has no model; this is a defect")

    def answer_many(self, questions: Sequence[Question]) -> list[Answer | ScoreError]:
        """The answer to each, or why it was not asked."""
        return [self._answer(key_of(question)) for question in questions]

    def _answer(self, key: str) -> Answer | ScoreError:
        if key in self.errors:
            code, message = self.errors[key]
            return ScoreError(code, message, stage="tokenise")
        return self.answers[key]


def key_of(question: Question) -> str:
    """A question as its own name: 32 hexadecimal digits."""
    told = [question.query, question.text, [[one.title, one.text] for one in question.documents]]
    return hashlib.sha256(json.dumps(told).encode("utf-8", "surrogatepass")).hexdigest()[:32]


class AskUnit:
    """From a unit to its prompts, each a row; the first of them carries the unit."""

    def __init__(self, worker: WorkerOf, answerer: AnswererSettings) -> None:
        self._encoder = load_question_encoder(
            answerer.model, answerer.revision, answerer.prompt, answerer.max_new_tokens
        )
        self._worker = worker
        self._sampling = {"temperature": 0.0, "max_tokens": answerer.max_new_tokens}

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        unit = Unit.model_validate_json(row["unit"])
        asked = Asked(self._encoder)
        rows = unit_rows(row, unit)
        failed = {int(place) for place in json.loads(row["failed"])}
        worker = self._worker(asked)
        for place in range(len(rows.table)):
            if place not in failed:  # what cannot be read is not asked
                worker.answer(rows.part(place, place + 1))
        # A unit that asks nothing still has to come out at the other end.
        prompts = asked.prompts or {"": (self._encoder.some_token,)}
        carried = json.dumps({name: row[name] for name in ("uri", "failed", "seconds", "read_at")})
        for number, (key, ids) in enumerate(prompts.items()):
            yield {
                "unit": row["unit"],
                "key": key,
                "of": len(prompts),
                "prompt_tokens": len(ids),
                "table": b"" if number else row["table"],
                "carried": "" if number else carried,
                "errors": "" if number else json.dumps(asked.errors),
                "tokenized_prompt": list(ids),
                "sampling_params": self._sampling,
            }


@dataclass(slots=True)
class _Gathered:
    answers: dict[str, Answer] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)


class GatherUnits:
    """From answered prompts to units, as :class:`pipelines.answering.AnswerUnit` leaves them. One actor sees all rows,
    and holds those of units that are not whole yet."""

    def __init__(self, worker: WorkerOf, stage: StageSettings, max_new_tokens: int) -> None:
        self._replayed = Replayed()
        self._max_new_tokens = max_new_tokens
        self._answering = AnswerUnit(partial(worker, self._replayed), stage)
        self._units: dict[str, _Gathered] = {}

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        gathered = self._units.setdefault(row["unit"], _Gathered())
        tokens = int(row["num_generated_tokens"])
        gathered.answers[row["key"]] = Answer(
            str(row["generated_text"]).strip(), int(row["prompt_tokens"]), tokens, tokens < self._max_new_tokens
        )
        if row["carried"]:
            gathered.first = row
        if len(gathered.answers) == row["of"]:
            del self._units[row["unit"]]
            yield self._whole(gathered)

    def _whole(self, gathered: _Gathered) -> dict[str, Any]:
        first = gathered.first
        self._replayed.answers = gathered.answers
        self._replayed.errors = {key: (code, message) for key, (code, message) in json.loads(first["errors"]).items()}
        return self._answering({"unit": first["unit"], "table": first["table"], **json.loads(first["carried"])})


def processed(
    units: Dataset, stage: StageSettings, worker: WorkerOf, answerer: AnswererSettings, processor: Processor
) -> Dataset:
    """The stage between reading and writing units: asked, answered by ``processor``, gathered."""
    asked = units.flat_map(
        cast("Any", AskUnit),
        fn_constructor_kwargs={"worker": worker, "answerer": answerer},
        compute=ActorPoolStrategy(size=1),
        num_cpus=LIGHT_TASK_CPUS,
    )
    return processor(asked).flat_map(
        cast("Any", GatherUnits),
        fn_constructor_kwargs={"worker": worker, "stage": stage, "max_new_tokens": answerer.max_new_tokens},
        compute=ActorPoolStrategy(size=1),
        num_cpus=LIGHT_TASK_CPUS,
    )
