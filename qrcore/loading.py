"""The front door: a scorer from a model, a head set and a few settings; any method by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from qrcore import methods
from qrcore.contracts.method import Method
from qrcore.encoding import QuerySpan, RequestEncoder
from qrcore.engine import EngineSettings
from qrcore.errors import ConfigError
from qrcore.heads import Head, HeadSet, resolve_heads, unique_heads
from qrcore.matching import OnMismatch, check_origin, prompt_warnings
from qrcore.methods.qrhead import QRHeadScorer, QRHeadSettings, request_encoder
from qrcore.models import load_language_model, load_model, load_tokenizer, open_model
from qrcore.prompts import resolve_prompt
from qrcore.records import Order
from qrcore.selfcheck import check_reading
from qrcore.tokens import SpecialTokens


def load_scorer(
    model: str,
    revision: str | None = None,
    heads: str | HeadSet | Sequence[Head] | None = None,
    prompt: str = "auto",
    dtype: str = "auto",
    device: str = "auto",
    null_query: str = "N/A",
    calibration_weight: float = 1.0,
    query_span: QuerySpan = "official",
    order: Order = "as_given",
    document_special_tokens: SpecialTokens = "text",
    allow_sliding_window: bool = False,
    on_mismatch: OnMismatch = "refuse",
    depth: Literal["heads", "full"] = "heads",
    engine: EngineSettings | None = None,
    order_seed: int = 0,
) -> QRHeadScorer:
    """Load a scorer; the model keeps only the layers that the head set needs (``depth="heads"``), or all of them and
    its language-model head, for methods that generate or look at what the model says (``depth="full"``).

    ``model``: a folder, a hub id, ``embedded`` or ``embedded-gqa``. ``heads``: None (the set shipped with the model),
    ``"3-1,4-0"``, ``"all"``, a :class:`HeadSet`, the name of a published set or a JSON file. ``prompt``: ``auto``,
    ``chat`` or a name of :data:`qrcore.prompts.FORMATS`. ``order``: how the documents stand in the prompt, ``shuffled``
    by ``order_seed`` and the request.
    ``on_mismatch``: what to do about a head set that was found for another revision or other weights; the scorer's
    ``warnings`` tell of it. ``engine``: how the machine is used; none of it changes scores but by rounding. Raises
    :class:`ConfigError` or a subclass for anything that cannot be used, and refuses a model whose attention is not read
    exactly.
    """
    _check_choice("query_span", query_span, ("official", "query"))
    _check_choice("order", order, ("as_given", "reversed", "shuffled"))
    _check_choice("on_mismatch", on_mismatch, ("refuse", "warn", "ignore"))
    _check_choice("document_special_tokens", document_special_tokens, ("text", "parse"))
    if not null_query.strip():
        raise ConfigError("null_query: expected text such as 'N/A', got only white space. Fill it in.")
    _check_choice("depth", depth, ("heads", "full"))
    source = open_model(model, revision)
    head_set = resolve_heads(heads, source.head_set, source.shape)
    warnings = check_origin(head_set, source, on_mismatch)
    language_model = load_language_model(source, dtype=dtype, device=device) if depth == "full" else None
    loaded = (
        language_model.decoder if language_model else load_model(source, head_set.depth, dtype=dtype, device=device)
    )
    check_reading(loaded, unique_heads(head_set.head_list))
    chosen = resolve_prompt(prompt, loaded.tokenizer, head_set.prompt)
    settings = QRHeadSettings(
        prompt=chosen,
        null_query=null_query,
        calibration_weight=calibration_weight,
        query_span=query_span,
        order=order,
        document_special_tokens=document_special_tokens,
        allow_sliding_window=allow_sliding_window,
        order_seed=order_seed,
    )
    warnings = (*warnings, *prompt_warnings(head_set, chosen))
    return QRHeadScorer(loaded, head_set, settings, warnings, engine, language_model)


def load_encoder(
    model: str,
    revision: str | None = None,
    heads: str | HeadSet | Sequence[Head] | None = None,
    prompt: str = "auto",
    null_query: str = "N/A",
    query_span: QuerySpan = "official",
    order: Order = "as_given",
    document_special_tokens: SpecialTokens = "text",
    allow_sliding_window: bool = False,
    order_seed: int = 0,
) -> RequestEncoder:
    """What encodes requests for the scorer that :func:`load_scorer` loads with the same settings, without its weights:
    for workers that tokenise ahead of it. Raises :class:`ConfigError`."""
    source = open_model(model, revision)
    head_set = resolve_heads(heads, source.head_set, source.shape)
    tokenizer = load_tokenizer(source)
    settings = QRHeadSettings(
        prompt=resolve_prompt(prompt, tokenizer, head_set.prompt),
        null_query=null_query,
        query_span=query_span,
        order=order,
        document_special_tokens=document_special_tokens,
        allow_sliding_window=allow_sliding_window,
        order_seed=order_seed,
    )
    return request_encoder(tokenizer, source, head_set, settings, source.max_tokens)


def load_method(name: str) -> Method:
    """What the method ``name`` says of itself. Raises :class:`ConfigError` for an unknown one."""
    return methods.load(name)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: expected one of {', '.join(allowed)}; got {value!r}. Choose one of these.")
