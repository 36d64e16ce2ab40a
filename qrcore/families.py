"""Decoder families whose attention is read exactly, and why others are refused."""

from __future__ import annotations

from typing import Final

from transformers import PreTrainedConfig

from qrcore.errors import ModelError

#: ``model_type`` values with a parity test against full attention matrices.
SUPPORTED: Final = frozenset(
    {"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3", "granite"}
)

_REASONS: Final[dict[str, str]] = {
    "gpt_oss": "its attention has sinks, so a head's weights over the tokens do not add up to one",
    "bloom": "it uses ALiBi biases, which the attention interface does not pass on",
    "mpt": "it uses ALiBi biases, which the attention interface does not pass on",
    "falcon": "its attention does not go through the attention interface",
    "deepseek_v2": "its latent attention (MLA) has no plain keys per head",
    "deepseek_v3": "its latent attention (MLA) has no plain keys per head",
    "minicpm3": "its latent attention (MLA) has no plain keys per head",
    "qwen3_next": "some of its layers use linear attention, which has no attention weights",
    "mamba": "it has no attention",
    "mamba2": "it has no attention",
    "jamba": "some of its layers have no attention",
    "gemma3": "it is the multimodal wrapper; save and load its text model (gemma3_text)",
}

#: Why heads of a family cannot be gated: what a gate promises would not come out.
_BREAK_GATES: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("gpt_oss", "granite_swa", "granitemoe_swa", "mimo_v2_flash", "flint", "deepseek_v4"),
        "its attention has sinks, which take weight beside the tokens: a query scaled by 0 is not uniform",
    ),
    **dict.fromkeys(
        ("qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text", "laguna", "step3p7"),
        "its attention has output gates, which scale what a head says after the softmax",
    ),
    **dict.fromkeys(("bloom", "mpt", "falcon"), "it uses ALiBi biases, which stay when a query is scaled by 0"),
    **dict.fromkeys(
        ("kimi_linear", "minimax", "bailing_hybrid", "olmo_hybrid", "rwkv", "recurrent_gemma"),
        "some of its layers use linear attention, which has no heads to gate",
    ),
    **dict.fromkeys(
        ("mamba", "mamba2", "jamba", "bamba", "zamba", "zamba2", "falcon_h1", "nemotron_h", "granitemoehybrid"),
        "it has layers without attention, which have no heads to gate",
    ),
}


def check_gated(config: PreTrainedConfig) -> None:
    """Raise :class:`ModelError`, by name, for a family in which gates do not do what they say."""
    family = config.get_text_config().model_type
    reason = _BREAK_GATES.get(family)
    if reason is None and family not in SUPPORTED:
        reason = "gates have not been tested against its own code"
    if reason is not None:
        raise ModelError(
            f"gates in model family {family!r} are not supported: {reason}. Use one of {', '.join(sorted(SUPPORTED))}."
        )


def check_supported(config: PreTrainedConfig) -> None:
    """Raise :class:`ModelError`, by name, for a family or a setting outside the tested list."""
    family = config.model_type
    if family not in SUPPORTED:
        reason = _REASONS.get(family, "its attention has not been tested against full attention matrices here")
        raise ModelError(
            f"model family {family!r} is not supported: {reason}. Use one of {', '.join(sorted(SUPPORTED))}."
        )
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"model family {family!r} with quantized weights is not supported: its scores have not been checked here. "
            "Use the checkpoint in bfloat16, float16 or float32."
        )
    if getattr(config, "use_bidirectional_attention", None):
        raise ModelError(
            f"model family {family!r} with use_bidirectional_attention is not supported: scores assume that a token "
            "sees only what stands before it. Use a decoder checkpoint."
        )
