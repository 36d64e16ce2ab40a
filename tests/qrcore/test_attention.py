"""The packed kernel and the reading against one full mask and plain loops."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AttentionInterface

from qrcore.attention import attach, kernel, read
from qrcore.attention.call import AttentionCall, AttentionInputs, LayerRead, PackedLayout, Segment
from qrcore.attention.kernel import packed_attention, visible
from qrcore.attention.read import Suffix, read_attention
from qrcore.errors import ModelError
from qrcore.heads import Head
from qrcore.models import LoadedModel
from qrcore.records import Span
from tests.qrcore.families import FamilyModels
from tests.qrcore.golden import golden_scorer

HEADS, KV_HEADS, DIM = 4, 2, 8

segments = st.builds(Segment, st.integers(1, 9), st.lists(st.integers(1, 5), max_size=3).map(tuple))
layouts = st.builds(PackedLayout, st.lists(segments, min_size=1, max_size=3).map(tuple))
windows = st.none() | st.integers(1, 12)
softcaps = st.none() | st.just(1.5)


def inputs_for(layout: PackedLayout, window: int | None, softcap: float | None) -> AttentionInputs:
    draw = torch.Generator().manual_seed(layout.length)
    query = 2 * torch.randn(HEADS, layout.length, DIM, generator=draw, dtype=torch.float64)
    key, value = torch.randn(2, KV_HEADS, layout.length, DIM, generator=draw, dtype=torch.float64)
    rows = Span(0, layout.length)
    return AttentionInputs(rows, query, key, value, scaling=0.7, window=window, softcap=softcap, own_weights=key.clone)


def chunk_of(inputs: AttentionInputs, rows: Span) -> AttentionInputs:
    """What the attention function sees of ``rows`` when the tokens before them have run."""
    query, key, value = (
        inputs.query[:, rows.start : rows.stop],
        inputs.key[:, : rows.stop],
        inputs.value[:, : rows.stop],
    )
    return replace(inputs, rows=rows, query=query, key=key, value=value)


def naive_weights(inputs: AttentionInputs, layout: PackedLayout) -> list[list[list[float]]]:
    """``[head][row][key]`` over the packed sequence, one number at a time."""
    owner: list[tuple[int, int]] = []  # segment, and suffix of the segment (-1: documents)
    place: list[int] = []
    for number, segment in enumerate(layout.segments):
        owner += [(number, -1)] * segment.prefix_length
        place += range(segment.prefix_length)
        for suffix, length in enumerate(segment.suffix_lengths):
            owner += [(number, suffix)] * length
            place += range(segment.prefix_length, segment.prefix_length + length)
    weights = []
    for head in range(HEADS):
        keys = inputs.key[head * KV_HEADS // HEADS]
        weights.append([[0.0] * layout.length for _ in range(layout.length)])
        for row in range(layout.length):
            logits = {}
            for key in range(layout.length):
                mine = owner[key] in ((owner[row][0], -1), owner[row]) and place[key] <= place[row]
                if mine and (inputs.window is None or place[row] - place[key] < inputs.window):
                    logit = float(inputs.query[head, row] @ keys[key]) * inputs.scaling
                    cap = inputs.softcap
                    logits[key] = logit if cap is None else cap * math.tanh(logit / cap)
            total = sum(math.exp(logit) for logit in logits.values())
            for key, logit in logits.items():
                weights[head][row][key] = math.exp(logit) / total
    return weights


@settings(max_examples=60)
@given(
    layout=layouts,
    window=windows,
    softcap=softcaps,
    rows_at_once=st.integers(1, 6),
    chunk=st.integers(1, 40),
    fused=st.booleans(),
)
def test_packed_attention_equals_a_full_mask(
    layout: PackedLayout, window: int | None, softcap: float | None, rows_at_once: int, chunk: int, fused: bool
) -> None:
    inputs = inputs_for(layout, window, softcap)
    weights = torch.tensor(naive_weights(inputs, layout), dtype=torch.float64)
    expected = weights @ inputs.value.repeat_interleave(HEADS // KV_HEADS, dim=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "_ROWS_AT_ONCE", rows_at_once)
        if not fused:  # as on a GPU
            patch.setattr(kernel, "_gives_logsumexp", lambda query: False)
        parts = [packed_attention(chunk_of(inputs, rows), layout) for rows in layout.chunks(chunk)]
        # The soft-capped branch computes its weights in float32 whatever comes in.
        torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=0, atol=1e-6)


@settings(max_examples=60)
@given(
    layout=layouts,
    window=windows,
    softcap=softcaps,
    at_once=st.integers(1, 60),
    chunk=st.integers(1, 40),
    data=st.data(),
)
def test_reading_equals_the_mean_of_naive_rows(
    layout: PackedLayout, window: int | None, softcap: float | None, at_once: int, chunk: int, data: st.DataObject
) -> None:
    inputs = inputs_for(layout, window, softcap)
    rows = tuple(_some_rows(data, length) for segment in layout.segments for length in segment.suffix_lengths)
    heads = (Head(5, 3), Head(5, 0), Head(5, 2))
    collected: dict[Head, list[Tensor]] = {}
    reader = read.LayerReader(layout, rows, heads, collected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "LOGITS_AT_ONCE", at_once)
        for chunk_rows in layout.chunks(chunk):
            reader(5, chunk_of(inputs, chunk_rows))
    weights = naive_weights(inputs, layout)
    for head in heads:
        for suffix, chosen, means in zip(layout.suffixes, rows, collected[head], strict=True):
            keys = [*range(*suffix.before), *range(*suffix.rows)]
            picked = [weights[head.head][suffix.rows.start + r] for r in range(chosen.start, chosen.stop)]
            expected = [sum(row[key] for row in picked) / len(picked) for key in keys]
            assert means.tolist() == pytest.approx(expected, abs=1e-6)


@given(layout=layouts, chunk=st.integers(1, 40))
def test_chunks_cover_everything_and_cut_no_suffix(layout: PackedLayout, chunk: int) -> None:
    chunks = layout.chunks(chunk)
    assert [token for rows in chunks for token in range(*rows)] == list(range(layout.length))
    suffixes = [set(range(*block.rows)) for block in layout.suffixes]
    longest = max((len(suffix) for suffix in suffixes), default=1)
    assert all(rows.stop - rows.start < chunk + longest for rows in chunks)
    for rows in chunks:
        assert all(suffix <= set(range(*rows)) or suffix.isdisjoint(range(*rows)) for suffix in suffixes)


def _some_rows(data: st.DataObject, length: int) -> Span:
    start = data.draw(st.integers(0, length - 1))
    return Span(start, data.draw(st.integers(start + 1, length)))


def test_positions_of_each_suffix_follow_the_documents() -> None:
    layout = PackedLayout((Segment(3, (2, 4)), Segment(2, (1,))))
    assert layout.length == 12
    assert layout.spans == (Span(0, 9), Span(9, 12))
    assert [block.rows for block in layout.suffixes] == [Span(3, 5), Span(5, 9), Span(11, 12)]
    assert [block.before for block in layout.suffixes] == [Span(0, 3), Span(0, 3), Span(9, 11)]
    assert layout.position_ids(torch.device("cpu")).tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 6, 0, 1, 2]]


def test_visible_is_causal_and_counts_the_row_itself_into_the_window() -> None:
    seen = visible(torch.tensor([2, 3]), torch.arange(4), window=2)
    assert seen.tolist() == [[False, True, True, False], [False, False, True, True]]


def test_a_model_passes_gradients_through() -> None:
    inputs = inputs_for(PackedLayout.of_one(4, (2,)), None, None)
    query = inputs.query.requires_grad_()
    packed_attention(inputs, PackedLayout.of_one(4, (2,))).sum().backward()
    assert query.grad is not None and bool(query.grad.abs().sum() > 0)


def test_reading_is_the_same_in_chunks_and_in_any_order_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, suffixes = _small_pass()
    heads = [Head(2, 5), Head(0, 1), Head(2, 0), Head(1, 7)]
    whole = read_attention(model.model, ids, suffixes, heads)
    monkeypatch.setattr(read, "LOGITS_AT_ONCE", 100)
    monkeypatch.setattr(kernel, "_ROWS_AT_ONCE", 7)
    backwards = read_attention(model.model, ids, suffixes, heads[::-1])
    for one, other in zip(whole, backwards, strict=True):
        torch.testing.assert_close(one, other.flip(0), rtol=0, atol=1e-6)


def test_attention_adds_up_to_one_in_float32_in_any_dtype(family_models: FamilyModels) -> None:
    model = family_models.fresh_scorer("llama").model.model.bfloat16()
    for attention in read_attention(model, range(5, 60), _small_pass()[2], [Head(3, h) for h in range(8)]):
        assert attention.dtype == torch.float32
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(8), rtol=0, atol=1e-5)


def test_the_pass_ends_inside_the_deepest_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, suffixes = _small_pass()
    outputs: list[AttentionInputs] = []

    def counting(inputs: AttentionInputs, layout: PackedLayout) -> Tensor:
        outputs.append(inputs)
        return packed_attention(inputs, layout)

    monkeypatch.setattr(attach, "packed_attention", counting)
    read_attention(model.model, ids, suffixes, [Head(0, 0), Head(2, 0)])
    assert len(outputs) == 2, "layers 0 and 1; layer 2 gives only its queries and keys"


def test_the_wrong_number_of_tokens_is_refused() -> None:
    call = AttentionCall(PackedLayout.of_one(4, (2,)))
    with pytest.raises(ModelError, match="expected 6 tokens, got 5"):
        attach.run(golden_scorer("llama", "full").model.model, torch.arange(5), call)


def test_a_family_that_keeps_the_call_to_itself_is_refused() -> None:
    states = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ModelError, match="keyword arguments"):
        attach._attention_function(torch.nn.Module(), states, states, states, None)


def test_inputs_carry_the_layers_own_settings() -> None:
    seen: list[AttentionInputs] = []
    module = _AttentionLayer()
    states = torch.randn(1, 2, 3, 4)
    call = AttentionCall(PackedLayout.of_one(2, (1,)), reads={1: lambda layer, inputs: seen.append(inputs)})
    running = attach._PackedPass(call, PackedLayout.of_one(2, (1,)), rows=Span(0, 3))
    output, weights = attach._attention_function(
        module,
        states,
        states,
        states,
        None,
        scaling=0.3,
        sliding_window=7,
        softcap=2.0,
        attention_pass=running,
        dropout=0.0,
    )
    attach._attention_function(module, states, states, states, None, attention_pass=running)
    assert (seen[0].scaling, seen[0].window, seen[0].softcap) == (0.3, 7, 2.0)
    assert (seen[1].scaling, seen[1].window, seen[1].softcap) == (0.5, None, None)
    assert output.shape == (1, 3, 2, 4) and weights is None
    alone = packed_attention(replace(seen[0]), running.layout)
    torch.testing.assert_close(output[0].transpose(0, 1), alone)


@pytest.mark.parametrize("chunk_tokens", [20, 1000])
def test_gradients_flow_through_chunks(chunk_tokens: int) -> None:
    model = copy.deepcopy(golden_scorer("llama", "full").model.model)
    weight = model.layers[0].mlp.up_proj.weight.requires_grad_()
    layout = PackedLayout.of_one(50, (10,))
    sums: list[Tensor] = []
    readers: dict[int, LayerRead] = {2: lambda layer, inputs: sums.append(inputs.query.sin().sum())}
    call = AttentionCall(layout, readers, last_layer=2, chunk_tokens=chunk_tokens)
    attach.run(model, torch.arange(5, 65), call)
    sum(sums, torch.tensor(0.0)).backward()
    assert weight.grad is not None
    other = copy.deepcopy(golden_scorer("llama", "full").model.model)
    whole = other.layers[0].mlp.up_proj.weight.requires_grad_()
    once: list[Tensor] = []
    reads = {2: lambda layer, inputs: once.append(inputs.query.sin().sum())}
    attach.run(other, torch.arange(5, 65), AttentionCall(layout, reads, last_layer=2, chunk_tokens=10**6))
    once[0].backward()
    torch.testing.assert_close(weight.grad, whole.grad, rtol=1e-4, atol=1e-4)


def test_nothing_stays_registered() -> None:
    model, ids, suffixes = _small_pass()
    before = set(AttentionInterface._global_mapping)
    read_attention(model.model, ids, suffixes, [Head(0, 0)])
    assert set(AttentionInterface._global_mapping) == before


class _AttentionLayer(torch.nn.Module):
    layer_idx = 1


def _small_pass() -> tuple[LoadedModel, list[int], list[Suffix]]:
    suffixes = [Suffix(tuple(range(60, 75)), Span(2, 15)), Suffix(tuple(range(80, 86)), Span(0, 6))]
    return golden_scorer("llama", "full").model, list(range(5, 60)), suffixes
