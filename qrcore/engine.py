"""How a scorer uses its machine: settings that change speed and memory, and scores by rounding at most."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from torch.nn.attention import SDPBackend, sdpa_kernel

from qrcore.attention.call import CHUNK_TOKENS
from qrcore.errors import ConfigError

AttentionKernel = Literal["auto", "flash", "cudnn", "efficient", "math"]

_BACKENDS: Final = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """``pack_tokens``: up to how many tokens of short prompts share a forward pass, and how many tokens of queries
    share their documents; 0: every request alone, so that neighbours do not even change the rounding.
    ``chunk_tokens``: how many tokens go through a layer at once. ``memory_bytes``: what weights and a pass may take
    together; requests that are predicted to take more are refused before they start. ``attention_kernel``: of a GPU;
    ``auto`` lets torch choose. ``compile``: norms and MLPs are compiled when a scorer is made, which needs a C++
    compiler (on a GPU, Triton) and takes half a minute. Off by default, since it gains little on a CPU: matrix products
    and attention, which stay as they are, are nine tenths of a pass, and with 110 M parameters and 2k tokens it takes
    .90 and .97 of the CPU time without (medians of 3 and of 4 paired rounds). Not measured on a GPU.

    Raises :class:`ConfigError` for values that make no sense.
    """

    pack_tokens: int = 4096
    chunk_tokens: int = CHUNK_TOKENS
    memory_bytes: int | None = None
    attention_kernel: AttentionKernel = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.pack_tokens < 0:
            raise ConfigError(f"pack_tokens: expected 0 (no packing) or more, got {self.pack_tokens}. Correct it.")
        if self.chunk_tokens < 1:
            raise ConfigError(f"chunk_tokens: expected at least 1, got {self.chunk_tokens}. Correct it.")
        if self.attention_kernel not in ("auto", *_BACKENDS):
            known = ", ".join(("auto", *_BACKENDS))
            raise ConfigError(f"attention_kernel: expected one of {known}; got {self.attention_kernel!r}. Choose one.")


@contextmanager
def chosen_kernel(settings: EngineSettings) -> Iterator[None]:
    """Attention runs with the kernel of ``settings`` inside the context."""
    if settings.attention_kernel == "auto":
        yield
        return
    # What a kernel cannot do (a mask, another dtype) still has to be done.
    with sdpa_kernel([_BACKENDS[settings.attention_kernel], SDPBackend.MATH], set_priority=True):
        yield
