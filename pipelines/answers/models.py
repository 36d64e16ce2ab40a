"""The models of answering, loaded in this process: the answerer, the method that chooses documents, the judge."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipelines.answers.judging import JUDGE_TEMPLATE, Judge
from pipelines.answers.settings import CAFE, AnswererSettings, AnswerFacts, AnswerSettings, CafeOptions, JudgeSettings
from qrcore.contracts.answerer import AnswererIdentity
from qrcore.generation import GreedyAnswerer, load_answerer
from qrcore.models import open_model, setup_sha256, use_threads, weights_sha256
from qrcore.questions import load_question_encoder
from qrcore.readers import MethodReader, ReadingMethod, method_reader
from qrcore.rendering import TextTemplate


def open_answerer(settings: AnswererSettings) -> GreedyAnswerer:
    """The answerer of these settings."""
    use_threads(settings.threads)
    arguments: dict[str, Any] = asdict(settings)
    del arguments["threads"]
    return load_answerer(**arguments)


def open_reader(answerer: GreedyAnswerer, cafe: CafeOptions, max_new_tokens: int) -> MethodReader:
    """CAFE over the model of ``answerer``."""
    heads = {"coarse_heads": cafe.coarse_heads}
    if cafe.fine_heads is not None:
        heads["fine_heads"] = cafe.fine_heads
    settings = {**dict(cafe.settings), "max_new_tokens": max_new_tokens}
    return method_reader(answerer, ReadingMethod(CAFE, heads, settings, cafe.on_mismatch))


def open_judge(settings: JudgeSettings, answerer: GreedyAnswerer, of: AnswererSettings) -> tuple[Judge, GreedyAnswerer]:
    """A judge, which shares the weights of ``answerer`` (loaded with the settings ``of``) where it is that model."""
    mine = settings.answerer
    shared = (mine.model, mine.revision, mine.dtype, mine.device) == (of.model, of.revision, of.dtype, of.device)
    model = answerer.with_limit(mine.max_new_tokens) if shared else open_answerer(mine)
    return Judge(model, settings.template or JUDGE_TEMPLATE), model


def probe(settings: AnswerSettings) -> AnswerFacts:
    """Load models and templates as a worker would; refuses what cannot work."""
    if settings.template is not None:
        TextTemplate(settings.template, "answer.template")
    if settings.vllm:
        return AnswerFacts(_without_weights(settings.answerer))
    answerer = open_answerer(settings.answerer)
    limit = settings.answerer.max_new_tokens
    reader = open_reader(answerer, settings.cafe, limit).reader_identity if settings.cafe else None
    judge = open_judge(settings.judge, answerer, settings.answerer)[1].identity if settings.judge else None
    return AnswerFacts(answerer.identity, reader, judge, reader.warnings if reader else ())


def _without_weights(settings: AnswererSettings) -> AnswererIdentity:
    """What is known of a model that another engine loads."""
    source = open_model(settings.model, settings.revision)
    encoder = load_question_encoder(settings.model, source.revision, settings.prompt, settings.max_new_tokens)
    return AnswererIdentity(
        revision=source.revision,
        weights_sha256=weights_sha256(source.path),
        setup_sha256=setup_sha256(source.path),
        prompt_sha256=encoder.retrieval.hash,
        dtype=settings.dtype,
        device="vllm",
        max_tokens=source.max_tokens,
    )
