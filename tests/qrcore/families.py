"""One tiny random model per decoder family, each with settings that change its attention visibly.

Prompts of these tests have about 200 tokens: beyond every sliding window and every original position limit here.
Head sizes differ from hidden size / heads wherever the family allows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from qrcore import Document, load_scorer
from qrcore.methods.qrhead import QRHeadScorer
from qrcore.prompts import EMBEDDED
from tests.qrcore import tiny
from tests.qrcore.reference import SlowReading, SlowScorer

LAYERS: Final = 4
_PEAK: Final = 2.0
HEADS: Final = 8
WINDOW: Final = 40
_SLIDING, _FULL = "sliding_attention", "full_attention"
_MIXED: Final = [_SLIDING, _FULL, _SLIDING, _FULL]

COMMON: Final[dict[str, Any]] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "pad_token_id": None,
    "eos_token_id": [1, 2, 3, 4],  # as long as the model is deep, and not a list over layers
}
_LLAMA3_ROPE: Final = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN: Final = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 64}
_DYNAMIC: Final = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 128}
_LONGROPE: Final = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.0, 1.0, 1.0],  # as long as the model is deep, and not a list over layers
    "long_factor": [1.0, 3.0, 9.0, 27.0],
}
_GEMMA3_ROPE: Final = {
    _FULL: {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    _SLIDING: {"rope_type": "default", "rope_theta": 100.0},
}

#: Name of the test model -> (model_type, settings). A family may appear with more than one kind of position coding.
MODELS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("llama", {"rope_parameters": _LLAMA3_ROPE}),
    "llama-dynamic": ("llama", {"rope_parameters": _DYNAMIC, "max_position_embeddings": 128}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}),
    "qwen3": (
        "qwen3",
        {"rope_parameters": _YARN, "use_sliding_window": True, "sliding_window": WINDOW, "layer_types": _MIXED},
    ),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "gemma2": (
        "gemma2",
        {
            "sliding_window": WINDOW,
            "layer_types": _MIXED,
            "attn_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 40,
        },
    ),
    "gemma3_text": (
        "gemma3_text",
        {
            "sliding_window": WINDOW,
            "layer_types": _MIXED,
            "rope_parameters": _GEMMA3_ROPE,
            "query_pre_attn_scalar": 40,
        },
    ),
    "phi3": (
        "phi3",
        # This family has no head size of its own.
        {
            "hidden_size": 128,
            "rope_parameters": _LONGROPE,
            "original_max_position_embeddings": 64,
            "sliding_window": WINDOW,
        },
    ),
    "olmo2": ("olmo2", {}),
    "smollm3": (
        "smollm3",
        {
            "no_rope_layers": [1, 0, 1, 0],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": _MIXED,
        },
    ),
    "granite": (
        "granite",
        {"attention_multiplier": 0.6, "embedding_multiplier": 3.0, "residual_multiplier": 0.4},
    ),
}

QUERY: Final = "Where does the river carry its water, and who collects nectar from flowers?"
NULL_QUERY: Final = "N/A"
#: As many tokens as one another: dynamic position coding depends on the length of the prompt.
EQUALLY_LONG: Final = ("Where does a river flow?", "N/AN/AN/A")
DOCUMENTS: Final = (
    Document("d1", "A river carries water from the mountains to the sea.", "Rivers"),
    Document("d2", "Bees collect nectar from flowers, and the café in Zürich opens at 7:30."),
    Document("d3", "def path_split(name): head, tail = name.rsplit('/', 1)", ""),
    Document("d4", "The capital of Japan is 東京; it has many rivers and few bees.", "Cities"),
)


def queries_of(name: str) -> tuple[str, str]:
    """The query and the null query that test model ``name`` is asked."""
    return EQUALLY_LONG if name == "llama-dynamic" else (QUERY, NULL_QUERY)


class FamilyModels:
    """Test models on disk, made and read when first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._scorers: dict[tuple[str, str], QRHeadScorer] = {}
        self._readings: dict[str, SlowReading] = {}

    def folder(self, name: str) -> Path:
        folder = self._root / name
        return folder if folder.is_dir() else save_model(name, folder)

    def scorer(self, name: str, heads: str = "all") -> QRHeadScorer:
        if (name, heads) not in self._scorers:
            self._scorers[name, heads] = self.fresh_scorer(name, heads)
        return self._scorers[name, heads]

    def fresh_scorer(self, name: str, heads: str = "all") -> QRHeadScorer:
        return load_scorer(
            str(self.folder(name)),
            heads=heads,
            prompt=EMBEDDED.name,
            null_query=queries_of(name)[1],
            allow_sliding_window=True,
        )

    def slow_reading(self, name: str) -> SlowReading:
        """The reference's reading of :data:`DOCUMENTS`."""
        if name not in self._readings:
            query, null_query = queries_of(name)
            self._readings[name] = SlowScorer(str(self.folder(name))).read(EMBEDDED, query, null_query, DOCUMENTS)
        return self._readings[name]


def config_of(name: str) -> PreTrainedConfig:
    model_type, settings = MODELS[name]
    tokenizer = tiny.byte_level(tricky=False)
    settings = {**COMMON, "vocab_size": tokenizer.get_vocab_size(), **settings}
    return AutoConfig.for_model(model_type, bos_token_id=tokenizer.token_to_id(tiny.BOS), **settings)


def save_model(name: str, folder: Path, *, max_shard_size: str = "1GB") -> Path:
    """Write model and tokenizer of test model ``name`` to ``folder``."""
    torch.manual_seed(7)
    model = AutoModel.from_config(config_of(name)).float().eval()
    _draw_weights(model)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    tiny.save_tokenizer(folder, tiny.byte_level(tricky=False), adds_bos=True)
    return folder


def _draw_weights(model: PreTrainedModel) -> None:
    """Random weights that keep activations near one and make attention peaked: large queries and keys."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                _draw_norm(model, name, parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=_gain(name) * parameter.shape[1] ** -0.5)
            else:
                nn.init.normal_(parameter, std=0.2)


def _draw_norm(model: PreTrainedModel, name: str, weight: nn.Parameter) -> None:
    gain = _PEAK if name.endswith(("q_norm.weight", "k_norm.weight")) else 1.0  # undoes that of the projections
    offset = 1.0 if model.config.model_type.startswith("gemma") else 0.0  # Gemma multiplies by one plus the weight
    nn.init.normal_(weight, mean=gain - offset, std=0.2)


def _gain(name: str) -> float:
    return _PEAK if name.endswith(("q_proj.weight", "k_proj.weight", "qkv_proj.weight")) else 1.0
