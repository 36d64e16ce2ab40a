"""A slow second opinion: plain prompts, two full eager passes, whole attention matrices, Python loops.

Shares nothing with the code under test but the fields of a prompt format.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from qrcore.prompts import PromptFormat
from qrcore.records import Document


@dataclass(frozen=True)
class SlowReading:
    """``query`` and ``null``: ``[layer, head, token]`` over the shared prefix, averaged over the asking rows;
    ``spans``: each document's tokens as (first, last + 1); ``peak``: the largest single attention weight."""

    query: Tensor
    null: Tensor
    spans: list[tuple[int, int]]
    peak: float
    prompt_tokens: int


class SlowScorer:
    """Reads one model folder with transformers alone; every pass runs on a fresh copy of the model.

    ``rows``: average over everything from the instruction on (``official``) or over the query's tokens (``query``).
    """

    def __init__(self, folder: str, rows: str = "official") -> None:
        self._rows = rows
        self._model: PreTrainedModel = AutoModel.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        ).eval()
        self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)

    def read(self, prompt: PromptFormat, query: str, null_query: str, documents: Sequence[Document]) -> SlowReading:
        ids, spans, asked, shared = self._tokens(prompt, query, documents)
        null_ids, _, null_asked, null_shared = self._tokens(prompt, null_query, documents)
        assert shared == null_shared and ids[:shared] == null_ids[:shared]
        rows, peak = self._mean_rows(ids, asked)
        null_rows, _ = self._mean_rows(null_ids, null_asked)
        return SlowReading(rows[:, :, :shared], null_rows[:, :, :shared], spans, peak, len(ids))

    def _tokens(
        self, prompt: PromptFormat, query: str, documents: Sequence[Document]
    ) -> tuple[list[int], list[tuple[int, int]], tuple[int, int], int]:
        """Token ids, each document's tokens, the tokens that are read from, and where the instruction begins."""
        text = prompt.prefix + prompt.opening
        blocks = []
        for number, document in enumerate(documents, start=1):
            text += prompt.separator
            block = f"[{number}] " + (document.title + "\n" if document.title is not None else "") + document.text
            blocks.append((len(text), len(text) + len(block)))
            text += block
        text += prompt.separator
        asking = len(text)
        text += prompt.instruction + prompt.separator + prompt.query_label
        written = (len(text), len(text) + len(query)) if self._rows == "query" else None
        text += query + prompt.suffix
        encoded = self._tokenizer(text, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        spans = [_covering(offsets, start, stop) for start, stop in blocks]
        rows = _covering(offsets, *(written or (asking, len(text))))
        return encoded["input_ids"], spans, rows, _covering(offsets, asking, len(text))[0]

    def _mean_rows(self, ids: list[int], rows: tuple[int, int]) -> tuple[Tensor, float]:
        with torch.no_grad():
            output = copy.deepcopy(self._model)(torch.tensor([ids]), output_attentions=True, use_cache=False)
        layers = []
        for attention in output.attentions:
            heads = []
            for matrix in attention[0]:
                total = torch.zeros(len(ids), dtype=torch.float64)
                for row in range(*rows):
                    total += matrix[row]
                heads.append(total / (rows[1] - rows[0]))
            layers.append(torch.stack(heads))
        peak = max(float(attention[0, :, rows[0] :].max()) for attention in output.attentions)
        return torch.stack(layers), peak


def _covering(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> tuple[int, int]:
    covering = [i for i, (left, right) in enumerate(offsets) if left < stop and right > start]
    return covering[0], covering[-1] + 1


def slow_scores_per_head(reading: SlowReading) -> tuple[Tensor, Tensor]:
    """``[doc, layer, head]``, each head calibrated and filtered on its own, and the margins of :func:`slow_pool`."""
    layers, heads, _ = reading.query.shape
    scores = torch.zeros(len(reading.spans), layers, heads, dtype=torch.float64)
    margins = torch.zeros_like(scores)
    for d, (start, stop) in enumerate(reading.spans):
        for layer in range(layers):
            for head in range(heads):
                query, null = reading.query[layer, head].tolist(), reading.null[layer, head].tolist()
                tokens = [query[token] - null[token] for token in range(start, stop)]
                scores[d, layer, head], margins[d, layer, head] = slow_pool(tokens)
    return scores, margins


def slow_scores(reading: SlowReading, heads: Sequence[tuple[int, int]]) -> tuple[list[float], list[float]]:
    """Scores with the filter after the sum over ``heads``, and how far each document's cut is from any token."""
    scores, margins = [], []
    for start, stop in reading.spans:
        tokens = []
        for token in range(start, stop):
            tokens.append(sum(float(reading.query[h][token]) - float(reading.null[h][token]) for h in heads))
        score, margin = slow_pool(tokens)
        scores.append(score)
        margins.append(margin)
    return scores, margins


def slow_pool(tokens: Sequence[float]) -> tuple[float, float]:
    """The sum of the tokens above mean - 2 std, and the distance between that cut and the nearest token."""
    if len(tokens) < 2 or not any(tokens):  # beyond a window all tokens are 0: kept or dropped, they add up to 0
        return sum(tokens), float("inf")
    cut = statistics.fmean(tokens) - 2 * statistics.stdev(tokens)
    kept = 0.0
    for token in tokens:
        if token > cut:
            kept += token
    return kept, min(abs(token - cut) for token in tokens)
