"""The greedy loop gives what ``model.generate`` gives, row by row, in every family."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError
from qrcore.models import load_language_model, open_model
from qrcore.shipped import embedded_folder
from tests.qrcore.families import COMMON, MODELS
from tests.qrcore.golden import FOLDER

VOCABULARY = 120
LENGTHS = (70, 5, 44)  # beyond the sliding windows of these models, far below, and near


@cache
def _model(name: str) -> PreTrainedModel:
    kind, settings = MODELS[name]
    config = AutoConfig.for_model(kind, **{**COMMON, "vocab_size": VOCABULARY, **copy.deepcopy(settings)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data.normal_(std=weight.shape[-1] ** -0.5)
    model.generation_config = GenerationConfig()
    return model.eval()


def _prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(5, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]


def _generated(model: PreTrainedModel, prompt: list[int], count: int, ends: list[int] | None = None) -> list[int]:
    settings = GenerationConfig(max_new_tokens=count, do_sample=False, eos_token_id=ends, pad_token_id=0)
    ids = torch.tensor([prompt])
    anything: Any = model
    whole = anything.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    return [int(token) for token in whole[0, len(prompt) :]]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_rows_of_a_batch_are_what_generate_gives_alone(name: str) -> None:
    model = _model(name)
    found = decode_greedy(model, _prompts(), max_new_tokens=20)
    assert [list(one.ids) for one in found] == [_generated(model, prompt, 20) for prompt in _prompts()]
    assert not any(one.ended for one in found)


def test_an_end_token_ends_its_row_only() -> None:
    model = _model("llama")
    free = [_generated(model, prompt, 12) for prompt in _prompts()]
    ends = [free[0][3], free[2][5]]
    found = decode_greedy(model, _prompts(), 12, ends)
    for prompt, one in zip(_prompts(), found, strict=True):
        expected = _generated(model, prompt, 12, ends)
        assert list(one.ids) == [token for token in expected if token not in ends]
        assert one.ended == (expected[-1] in ends)
    assert found[0].ended and len(found[0].ids) <= 3


def test_decoding_stops_when_every_row_has_ended() -> None:
    model = _model("llama")
    first = _generated(model, _prompts()[0], 1)
    steps: list[int] = []

    def hook(step: int, logits: torch.Tensor) -> torch.Tensor:
        steps.append(step)
        return logits

    assert decode_greedy(model, _prompts()[:1], 50, first, hook)[0].ids == ()
    assert steps == [0]


def test_the_hook_decides_what_is_chosen_from() -> None:
    def only(step: int, logits: torch.Tensor) -> torch.Tensor:
        assert logits.shape == (3, VOCABULARY) and logits.dtype == torch.float32
        return torch.nn.functional.one_hot(torch.tensor([7 + step] * 3), VOCABULARY).float()

    found = decode_greedy(_model("llama"), _prompts(), 4, end_ids=(9,), hook=only)
    assert [(one.ids, one.ended) for one in found] == [((7, 8), True)] * 3


def test_order_and_neighbours_do_not_matter() -> None:
    model = _model("qwen3")
    forwards = decode_greedy(model, _prompts(), 15)
    assert decode_greedy(model, _prompts()[::-1], 15)[::-1] == forwards
    assert [decode_greedy(model, [prompt], 15)[0] for prompt in _prompts()] == forwards


def test_nothing_to_decode() -> None:
    assert decode_greedy(_model("llama"), [], 5) == []


@pytest.mark.parametrize(
    ("prompts", "count", "message"), [([[1], []], 5, "none in prompt 1"), ([[1]], 0, "at least 1, got 0")]
)
def test_what_cannot_be_decoded(prompts: list[list[int]], count: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode_greedy(_model("llama"), prompts, count)


def test_a_language_model_is_loaded_whole_and_shares_its_weights_with_the_decoder() -> None:
    source = open_model(str(FOLDER / "models" / "llama"))
    loaded = load_language_model(source, device="cpu")
    assert loaded.decoder.depth == source.shape.layers == len(loaded.decoder.model.layers)
    assert loaded.decoder.model is loaded.model.base_model
    assert loaded.model.lm_head.weight.shape[0] == source.shape.vocab_size
    prompt = loaded.decoder.tokenizer("The river")["input_ids"]
    assert list(decode_greedy(loaded.model, [prompt], 8)[0].ids) == _generated(loaded.model, prompt, 8)


def test_end_tokens_are_those_of_the_generation_settings() -> None:
    loaded = load_language_model(open_model(str(embedded_folder())), device="cpu")
    assert loaded.end_ids == (loaded.decoder.tokenizer.eos_token_id,)
