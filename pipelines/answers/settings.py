"""What answering is told, and what loading its models told; light enough for the driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pipelines.job import RunSettings
from pipelines.schemas import Carry
from qrcore.contracts.answerer import AnswererIdentity, ReaderIdentity
from qrcore.errors import ConfigError

ContextKind = Literal["auto", "bundle", "full", "oracle"]

_CONTEXTS: Final = ("bundle", "full", "oracle")
#: The method that chooses its documents, by its name in :mod:`qrcore.methods`, and what it can be compared with.
CAFE: Final = "cafe"
FILTER: Final = "filter"
CAFE_BASELINES: Final = ("full", FILTER, "random_order", "oracle")


@dataclass(frozen=True, slots=True)
class AnswererSettings:
    """What builds an answerer in an actor: the arguments of :func:`qrcore.generation.load_answerer`, and threads."""

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    prompt: str = "auto"
    max_new_tokens: int = 64
    batch_tokens: int = 16_384
    threads: int = 1


@dataclass(frozen=True, slots=True)
class CafeOptions:
    """The head sets of both stages, each a list, a name or a file (coarse, None: the model's own; fine, None: no second
    stage), and the other fields of the method's settings."""

    coarse_heads: str | None = None
    fine_heads: str | None = None
    on_mismatch: Literal["refuse", "warn", "ignore"] = "refuse"
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def own(self) -> str:
        """The variant whose answers are the run's own."""
        return FILTER if self.fine_heads is None else CAFE


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """What builds a judge, and the template of its user's turn (None: the usual one)."""

    answerer: AnswererSettings
    template: str | None = None


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """That vLLM's processor answers: further arguments of its engine, and prompts that are handed to it at once."""

    arguments: tuple[tuple[str, Any], ...] = ()
    batch_rows: int = 64


@dataclass(frozen=True, slots=True)
class AnswerSettings:
    """Everything that answering is told. ``source``: the URI of a committed run of select, or of shards; ``context``:
    what is answered from; ``template``: of the user's turn, None: the model's own retrieval prompt; ``cafe``: the
    method, where it is that one; ``baselines``: further answers to the same rows, None: the method's; ``answers``: gold
    answers of rows that carry none; ``keep_documents``: write what the prompt held; ``examples``: show texts in the
    report; ``vllm``: that its processor answers."""

    run: RunSettings
    source: str
    context: ContextKind
    template: str | None
    answerer: AnswererSettings
    carry: Carry
    qrels: str | None = None
    cafe: CafeOptions | None = None
    baselines: tuple[str, ...] | None = None
    judge: JudgeSettings | None = None
    answers: str | None = None
    keep_documents: bool = False
    examples: bool = True
    vllm: EngineOptions | None = None


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What loading told: the answerer, the method that chooses documents and the judge, where there are any."""

    answerer: AnswererIdentity
    reader: ReaderIdentity | None = None
    judge: AnswererIdentity | None = None
    warnings: tuple[str, ...] = field(default=())


def variant_names(settings: AnswerSettings, *, bundles: bool) -> tuple[str, ...]:
    """The run's own variant and those it is compared with. ``bundles``: whether the source is a run of select.

    Raises :class:`ConfigError` for what cannot be answered from this source.
    """
    if settings.vllm is not None and (settings.cafe or settings.judge):
        raise ConfigError(
            "engine.kind: vllm can neither read attention (method cafe) nor judge, and was asked to. Choose "
            "transformers, or leave them out."
        )
    if settings.cafe is not None:
        return _cafe_names(settings, settings.cafe, bundles=bundles)
    own = resolved_context(settings.context, settings.qrels, bundles=bundles)
    names = _each_once(own, settings.baselines or (), _CONTEXTS)
    for name in names[1:]:
        resolved_context(name, settings.qrels, bundles=bundles)  # type: ignore[arg-type]
    return names


def resolved_context(context: ContextKind, qrels: str | None, *, bundles: bool) -> ContextKind:
    """What is answered from, where that is to be seen from the input. Raises :class:`ConfigError` for what is not
    there."""
    if context == "auto":
        return "bundle" if bundles else "full"
    if context == "bundle" and not bundles:
        raise ConfigError(
            "input.context: bundle needs a committed run of select, got shards. Give one, or choose full or oracle."
        )
    _check_oracle("input.context", (context,), qrels)
    return context


def _cafe_names(settings: AnswerSettings, cafe: CafeOptions, *, bundles: bool) -> tuple[str, ...]:
    if bundles or settings.context not in ("auto", "full"):
        raise ConfigError(
            "method: cafe chooses from whole contexts, got bundles or the oracle's. Give the shards, and input.context "
            "full."
        )
    if settings.template is not None:
        raise ConfigError(
            "method: cafe reads attention in the model's retrieval prompt, got a template. Set model.style to "
            "paragraphs, without a model.template."
        )
    possible = [name for name in CAFE_BASELINES if _can_be(name, cafe, settings)]
    wanted = possible if settings.baselines is None else settings.baselines
    names = _each_once(cafe.own, wanted, (CAFE, *CAFE_BASELINES))
    _check_oracle("baselines", names, settings.qrels)
    if cafe.fine_heads is None and {CAFE, "random_order"} & set(names):
        raise ConfigError(
            "baselines: cafe and random_order need heads of the second stage, got none. Give cafe.fine_heads."
        )
    return names


def _can_be(name: str, cafe: CafeOptions, settings: AnswerSettings) -> bool:
    if name == "oracle":
        return settings.qrels is not None
    return name != "random_order" or cafe.fine_heads is not None


def _each_once(own: str, others: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    for name in others:
        if name not in known:
            raise ConfigError(f"baselines: expected {', '.join(known)}; got {name!r}. Choose of these.")
    return tuple(dict.fromkeys((own, *others)))


def _check_oracle(setting: str, names: Sequence[str], qrels: str | None) -> None:
    if "oracle" in names and not qrels:
        raise ConfigError(f"{setting}: oracle needs judgements, got none. Give --qrels.")
