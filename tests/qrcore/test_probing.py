"""What a model says next: against stock transformers, and with heads masked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from qrcore.heads import Head
from qrcore.models import model_shape
from qrcore.training.attention import attach_training_attention
from qrcore.training.probing import (
    greedy_continuation,
    load_language_model,
    load_probed_model,
    masking_gate,
    next_token_log_probabilities,
)

IDS = (1, 17, 5, 30, 9, 22, 5, 11)
HEAD_SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Llama with grouped keys whose attention is sharp enough that masking shows."""
    config = LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=HEAD_SIZE, max_position_embeddings=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForCausalLM(config)
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=0.5 if "embed" in name else 0.4)
    path = tmp_path_factory.mktemp("probing") / "model"
    model.save_pretrained(path)
    return str(path)


@pytest.fixture
def probed(folder: str) -> LlamaForCausalLM:
    return load_probed_model(folder)


def stock(folder: str) -> LlamaForCausalLM:
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


@torch.no_grad()
def stock_log_probabilities(model: LlamaForCausalLM, ids: tuple[int, ...]) -> torch.Tensor:
    return torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], dim=-1)


def test_log_probabilities_are_the_models_own_up_to_bfloat16(probed: LlamaForCausalLM, folder: str) -> None:
    ours = next_token_log_probabilities(probed, IDS)
    assert ours.shape == (40,)
    assert ours.dtype == torch.float32
    assert float(ours.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    theirs = stock_log_probabilities(stock(folder), IDS)
    assert float((ours - theirs).abs().max()) < 0.1
    elsewhere = stock_log_probabilities(stock(folder), (*IDS[:3], 31, *IDS[4:]))
    assert float((ours - elsewhere).abs().max()) > 0.5, "one other token matters more than rounding"


def test_an_open_gate_changes_no_bit(probed: LlamaForCausalLM) -> None:
    shape = model_shape(probed.config)
    opened = next_token_log_probabilities(probed, IDS, masking_gate(shape, ()))
    assert torch.equal(opened, next_token_log_probabilities(probed, IDS))


def test_the_gate_closes_the_heads_that_are_named(probed: LlamaForCausalLM) -> None:
    gate = masking_gate(model_shape(probed.config), (Head(0, 3), Head(1, 1)))
    assert gate.tolist() == [[1, 1, 1, 0], [1, 0, 1, 1]]


@pytest.mark.parametrize("head", [Head(0, 1), Head(1, 0), Head(1, 3)], ids=str)
def test_a_closed_head_attends_to_all_tokens_alike(probed: LlamaForCausalLM, folder: str, head: Head) -> None:
    """Queries of nothing give every key the same score: the same as a model without that head's query weights."""
    gate = masking_gate(model_shape(probed.config), [head])
    closed = next_token_log_probabilities(probed, IDS, gate)
    assert float((closed - next_token_log_probabilities(probed, IDS)).abs().max()) > 0.2, "the head matters"
    cut = load_probed_model(folder)
    rows = slice(head.head * HEAD_SIZE, (head.head + 1) * HEAD_SIZE)
    cut.model.layers[head.layer].self_attn.q_proj.weight[rows] = 0.0
    assert torch.equal(closed, next_token_log_probabilities(cut, IDS))


def test_closing_the_copying_head_changes_what_is_named() -> None:
    """One layer, one head that looks at the token equal to the last one and writes what it finds there."""
    model = copying_model()
    shape = model_shape(model.config)
    ids = (4, 2, 3, 1, 2)
    assert int(next_token_log_probabilities(model, ids).argmax()) == 2 + 8, "found itself, written in capitals"
    closed = next_token_log_probabilities(model, ids, masking_gate(shape, [Head(0, 0)]))
    counts = closed[torch.tensor([9, 10, 11, 12])]
    assert int(counts.argmax()) == 1, "uniform attention: token 2 stands there twice, the others once"
    assert float(counts[0]) == pytest.approx(float(counts[2]), abs=0.02)
    assert float(counts[0]) == pytest.approx(float(counts[3]), abs=0.02)


def copying_model() -> LlamaForCausalLM:
    """Tokens 1 to 7 are unit vectors; what attention finds is written eight dimensions on, where tokens 8 to 15 are."""
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=16, pad_token_id=0, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e30},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.requires_grad_(False)
    layer = model.model.layers[0]
    model.model.embed_tokens.weight.copy_(torch.eye(16))
    shift = torch.eye(16).roll(8, dims=0)
    # Dimensions 0 and 8 turn with the position; the identity of tokens 1 to 7 lies in dimensions that hardly do.
    layer.self_attn.q_proj.weight.copy_(torch.eye(16) * 4)
    layer.self_attn.k_proj.weight.copy_(torch.eye(16) * 4)
    layer.self_attn.v_proj.weight.copy_(torch.eye(16))
    layer.self_attn.o_proj.weight.copy_(shift * 8)
    layer.mlp.down_proj.weight.zero_()
    attach_training_attention(model)
    return model


def test_the_future_is_not_seen(probed: LlamaForCausalLM) -> None:
    """With the last layer's own attention, a wrong mask would let the first token see the last."""
    with torch.inference_mode():
        seen = []
        probed.model.layers[0].register_forward_hook(lambda _, __, output: seen.append(output))
        next_token_log_probabilities(probed, IDS)
        next_token_log_probabilities(probed, (*IDS[:-1], 38))
    first, second = (out[0] if isinstance(out, tuple) else out for out in seen)
    assert torch.equal(first[..., :-1, :], second[..., :-1, :])
    assert not torch.equal(first[..., -1, :], second[..., -1, :])


@pytest.fixture
def argmaxes(folder: str) -> Iterator[list[int]]:
    """Twelve tokens, each the likeliest after all before it, by stock transformers without a cache."""
    model = stock(folder)
    ids = list(IDS)
    for _ in range(12):
        ids.append(int(stock_log_probabilities(model, tuple(ids)).argmax()))
    yield ids[len(IDS) :]


def test_greedy_continuation_takes_the_likeliest_token_each_time(folder: str, argmaxes: list[int]) -> None:
    model = load_language_model(folder)
    unused = next(token for token in range(40) if token not in argmaxes)
    assert greedy_continuation(model, IDS, 12, end_id=unused) == tuple(argmaxes)
    assert greedy_continuation(model, IDS, 5, end_id=unused) == tuple(argmaxes[:5])


def test_greedy_continuation_stops_at_the_end_and_leaves_it_out(folder: str, argmaxes: list[int]) -> None:
    end = argmaxes[3]
    stop = argmaxes.index(end)
    assert greedy_continuation(load_language_model(folder), IDS, 12, end_id=end) == tuple(argmaxes[:stop])


def test_loading_and_answering_print_nothing(folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    model = load_language_model(folder)
    greedy_continuation(model, IDS, 3, end_id=39)
    assert capfd.readouterr() == ("", "")
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not model.training


@pytest.mark.parametrize("shown", [True, False])
def test_loading_leaves_progress_bars_as_they_were(
    shown: bool, folder: str, tmp_path: Path, progress_bars: None
) -> None:
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    load_language_model(folder)
    assert logging.is_progress_bar_enabled() == shown
    with pytest.raises(OSError, match=r"config\.json|safetensors"):
        load_language_model(str(tmp_path))
    assert logging.is_progress_bar_enabled() == shown


@pytest.fixture
def progress_bars() -> Iterator[None]:
    """Whatever a test sets is set back."""
    shown = logging.is_progress_bar_enabled()
    yield
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
