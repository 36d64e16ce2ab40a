"""In which precision layers run: bfloat16 where the hardware multiplies it, float32 elsewhere."""

from __future__ import annotations

import torch


def layer_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs and on CPUs with instructions for it; float32 on others, where bfloat16 is several times slower.

    Weights trained in the two differ by rounding only.
    """
    if device.type == "cpu":
        has: dict[str, object] = dict(torch.cpu.get_capabilities())
        fast = bool(has.get("amx_bf16") or has.get("avx512_bf16"))
    else:
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32


def layer_autocast(device: torch.device) -> torch.autocast:
    """Within it, layers run in :func:`layer_dtype`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=layer_dtype(device) == torch.bfloat16)
