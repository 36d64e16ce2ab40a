"""Each plausible slip in the arithmetic must be caught by the golden numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
import torch
from torch import Tensor

from qrcore import Document, scoring
from qrcore.attention import attach, kernel, read
from qrcore.attention.call import AttentionInputs, PackedLayout
from qrcore.encoding import RequestEncoder
from qrcore.methods import qrhead
from qrcore.methods.qrhead import QRHeadScorer
from qrcore.records import Span
from qrcore.tokens import PromptEncoder
from tests.qrcore.golden import FAMILIES, HEAD_SETS, TOLERANCE, golden_cases, golden_scorer

Patch = Callable[[pytest.MonkeyPatch], None]
CASES: Final = ("basic_two", "no_titles", "whitespace")


def _std_with_n(patch: pytest.MonkeyPatch) -> None:
    def pool(tokens: Tensor) -> Tensor:
        cut = tokens.mean(dim=-1, keepdim=True) - 2 * tokens.std(dim=-1, keepdim=True, correction=0)
        return (tokens * (tokens > cut)).sum(dim=-1)

    patch.setattr(scoring, "_sum_without_outliers", pool)


def _mean_over_tokens(patch: pytest.MonkeyPatch) -> None:
    pool = scoring._sum_without_outliers
    patch.setattr(scoring, "_sum_without_outliers", lambda tokens: pool(tokens) / tokens.shape[-1])


def _no_filter(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scoring, "_sum_without_outliers", lambda tokens: tokens.sum(dim=-1))


def _filter_before_summing_heads(patch: pytest.MonkeyPatch) -> None:
    def score(self: QRHeadScorer, query: str, docs: Sequence[Document]) -> list[float]:
        per_head = self.score_heads(query, docs)
        total = torch.stack([per_head[:, head.layer, head.head] for head in self.heads.head_list]).sum(dim=0)
        return [float(value) for value in total]

    patch.setattr(QRHeadScorer, "score", score)


def _no_calibration(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(qrhead, "calibrate", lambda query, null, weight: query)


def _document_spans_moved(start: int, stop: int) -> Patch:
    encode = PromptEncoder.encode

    def moved(self: PromptEncoder, *arguments: Any) -> Any:
        encoded = encode(self, *arguments)
        spans = tuple(Span(span.start + start, span.stop + stop) for span in encoded.document_spans)
        return replace(encoded, document_spans=spans)

    return lambda patch: patch.setattr(PromptEncoder, "encode", moved)


def _asking_rows_start_late(patch: pytest.MonkeyPatch) -> None:
    rows = RequestEncoder._rows

    def late(self: RequestEncoder, prompt: Any) -> Span:
        whole = rows(self, prompt)
        return Span(whole.start + 1, whole.stop)

    patch.setattr(RequestEncoder, "_rows", late)


def _missing_bos(patch: pytest.MonkeyPatch) -> None:
    encode = PromptEncoder.encode

    def without_bos(self: PromptEncoder, *arguments: Any) -> Any:
        patch.setattr(self, "_adds_bos", False)
        return encode(self, *arguments)

    patch.setattr(PromptEncoder, "encode", without_bos)


def _rows_of_the_query_alone(patch: pytest.MonkeyPatch) -> None:
    def narrowed(self: RequestEncoder, prompt: Any) -> Span:
        start = prompt.asking_span.start
        return Span(prompt.query_span.start - start, prompt.query_span.stop - start)

    patch.setattr(RequestEncoder, "_rows", narrowed)


def _next_kv_head_in_reading(patch: pytest.MonkeyPatch) -> None:
    read_group = read.LayerReader._read_group

    def shifted(self: Any, inputs: AttentionInputs, kv_head: int, *others: Any) -> Tensor:
        return read_group(self, inputs, (kv_head + 1) % inputs.key.shape[0], *others)

    patch.setattr(read.LayerReader, "_read_group", shifted)


def _tiled_kv_heads_in_output(patch: pytest.MonkeyPatch) -> None:
    by_group = kernel._by_group

    def tiled(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        times = (query.shape[0] // key.shape[0], 1, 1)
        return by_group(query, key.repeat(times), value.repeat(times))

    patch.setattr(kernel, "_by_group", tiled)


def _no_scale_in_reading(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(read, "attention_logits", lambda query, key, scaling, softcap: query @ key.transpose(-1, -2))


def _no_scale_in_output(patch: pytest.MonkeyPatch) -> None:
    packed = kernel.packed_attention
    patch.setattr(attach, "packed_attention", lambda inputs, layout: packed(replace(inputs, scaling=1.0), layout))


def _everything_visible(*modules: Any) -> Patch:
    def see_all(rows: Tensor, keys: Tensor, window: int | None) -> Tensor:
        return torch.ones(len(rows), len(keys), dtype=torch.bool)

    def patch_modules(patch: pytest.MonkeyPatch) -> None:
        for module in modules:
            patch.setattr(module, "visible", see_all)

    return patch_modules


def _no_causal_mask_in_output(patch: pytest.MonkeyPatch) -> None:
    flash = kernel._flash
    patch.setattr(kernel, "_flash", lambda inputs, rows, keys, causal: flash(inputs, rows, keys, causal=False))


def _positions_never_restart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PackedLayout, "position_ids", lambda self, device: torch.arange(self.length, device=device)[None])


def _suffixes_see_each_other(patch: pytest.MonkeyPatch) -> None:
    def causal(inputs: AttentionInputs, layout: PackedLayout) -> Tensor:
        return kernel.packed_attention(inputs, PackedLayout.of_one(layout.length))

    patch.setattr(attach, "packed_attention", causal)


MUTATIONS: Final[dict[str, Patch]] = {
    "std_with_n": _std_with_n,
    "no_filter": _no_filter,
    "filter_before_summing_heads": _filter_before_summing_heads,
    "mean_instead_of_sum_over_tokens": _mean_over_tokens,
    "document_starts_one_late": _document_spans_moved(1, 0),
    "document_starts_one_early": _document_spans_moved(-1, 0),
    "document_ends_one_early": _document_spans_moved(0, -1),
    "document_ends_one_late": _document_spans_moved(0, 1),
    "asking_rows_start_one_late": _asking_rows_start_late,
    "missing_bos": _missing_bos,
    "wrong_kv_group_in_reading": _next_kv_head_in_reading,
    "wrong_kv_group_in_output": _tiled_kv_heads_in_output,
    "no_softmax_scale_in_reading": _no_scale_in_reading,
    "no_softmax_scale_in_output": _no_scale_in_output,
    "no_calibration": _no_calibration,
    "query_span_is_only_the_query": _rows_of_the_query_alone,
    "no_causal_mask_in_suffix_when_reading": _everything_visible(read),
    "no_causal_mask_in_suffix_output": _no_causal_mask_in_output,
    "null_positions_do_not_restart": _positions_never_restart,
    "suffixes_see_each_other": _suffixes_see_each_other,
}
#: Qwen2 has no BOS that could be missing.
CELLS: Final = [(f, m) for f in FAMILIES for m in MUTATIONS if (f, m) != ("qwen2", "missing_bos")]


@pytest.mark.parametrize("family", FAMILIES)
def test_unchanged_code_passes(family: str) -> None:
    assert golden_deviation(family) <= TOLERANCE


@pytest.mark.parametrize(("family", "mutation"), CELLS)
def test_mutation_is_caught(family: str, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for head_set in HEAD_SETS:
        golden_scorer(family, head_set)  # loading checks itself: load before anything is changed
    MUTATIONS[mutation](monkeypatch)
    assert golden_deviation(family) > 10 * TOLERANCE


def golden_deviation(family: str) -> float:
    """The largest difference of any document score from the golden numbers, over :data:`CASES`."""
    worst = 0.0
    for head_set in HEAD_SETS:
        scorer = golden_scorer(family, head_set)
        for case in (golden_cases(family)[case_id] for case_id in CASES):
            scores = scorer.score(case.query, case.documents)
            expected = [case.scores[head_set][document.doc_id] for document in case.documents]
            worst = max(worst, *(abs(a - b) for a, b in zip(scores, expected, strict=True)))
    return worst
