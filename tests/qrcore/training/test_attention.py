"""Training attention: exact softmax attention, forward and backward, with heads that can be closed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from qrcore.training.attention import training_attention
from qrcore.training.samples import visibility
from tests.qrcore.training.tiny import Layer

_SCALING = 0.3


@dataclass(frozen=True, slots=True)
class _Inputs:
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    bias: torch.Tensor

    @property
    def learned(self) -> tuple[torch.Tensor, ...]:
        return self.query, self.key, self.value

    def attend(self, layer: int = 1, **more: torch.Tensor) -> torch.Tensor:
        """Ours, ``[sample, token, head, size]``."""
        output, weights = training_attention(Layer(layer), *self.learned, self.bias, _SCALING, **more)  # type: ignore[arg-type]
        assert weights is None
        return output


@pytest.fixture
def inputs() -> _Inputs:
    """More than two slices of queries; two samples of four heads on two key heads; three blocks."""
    torch.manual_seed(0)
    query = torch.randn(2, 4, 600, 8, requires_grad=True)
    key, value = (torch.randn(2, 2, 600, 8, requires_grad=True) for _ in range(2))
    blocks = torch.cat((torch.zeros(2, 500), torch.ones(2, 60), torch.full((2, 40), 2.0)), dim=1)
    bias = torch.zeros(2, 1, 600, 600).masked_fill(~visibility(blocks), float("-inf"))
    return _Inputs(query, key, value, bias)


def test_training_attention_equals_full_attention_forward_and_backward(inputs: _Inputs) -> None:
    ours = inputs.attend()
    full = scaled_dot_product_attention(*inputs.learned, inputs.bias, scale=_SCALING, enable_gqa=True)
    upstream = torch.randn(2, 4, 600, 8)
    torch.testing.assert_close(ours, full.transpose(1, 2), atol=1e-5, rtol=1e-4)
    gradients = torch.autograd.grad(ours.transpose(1, 2), inputs.learned, upstream)
    expected = torch.autograd.grad(full, inputs.learned, upstream)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_gate_of_ones_changes_no_bit(inputs: _Inputs) -> None:
    plain, gated = inputs.attend(), inputs.attend(gate=torch.ones(3, 4))
    assert torch.equal(plain, gated)
    for one, other in zip(*(torch.autograd.grad(y.sum(), inputs.learned) for y in (plain, gated)), strict=True):
        assert torch.equal(one, other)


def test_a_closed_head_attends_to_all_that_it_sees_alike_and_others_are_left_alone(inputs: _Inputs) -> None:
    gate = torch.ones(3, 4)
    gate[1, 2] = 0.0
    plain, closed = inputs.attend(), inputs.attend(gate=gate)
    others = [0, 1, 3]
    assert torch.equal(plain[:, :, others], closed[:, :, others])
    visible = (inputs.bias[:, 0] == 0).float()
    uniform = visible / visible.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(closed[:, :, 2], uniform @ inputs.value[:, 1], atol=1e-5, rtol=1e-4)
    assert (plain[:, 10:, 2] - closed[:, 10:, 2]).abs().mean() > 0.03, "it mattered"


def test_a_gate_closes_heads_of_its_own_layer_only(inputs: _Inputs) -> None:
    gate = torch.ones(3, 4)
    gate[1] = 0.0
    for layer in (0, 2):
        assert torch.equal(inputs.attend(layer), inputs.attend(layer, gate=gate))


def test_tokens_that_are_padding_neither_give_nor_take() -> None:
    """A shorter sample beside a longer one comes out as it does alone."""
    torch.manual_seed(1)
    query, key, value = (torch.randn(1, 2, 300, 8) for _ in range(3))
    blocks = torch.zeros(1, 300)
    blocks[:, 280:] = -1
    bias = torch.zeros(1, 1, 300, 300).masked_fill(~visibility(blocks), float("-inf"))
    padded = _Inputs(query, key, value, bias).attend()
    alone = _Inputs(*(t[:, :, :280] for t in (query, key, value)), bias[..., :280, :280]).attend()
    torch.testing.assert_close(padded[:, :280], alone)
    assert torch.isfinite(padded).all()
