"""Parts of a decoder layer that see one token at a time, compiled: norms and MLP, each instead of its own ``forward``.

Attention stays as it is: what a token sees is decided by the packed layout, outside of the model's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch._inductor import config as inductor_config
from transformers import PreTrainedModel

from qrcore.attention.forwards import wrapped_forward
from qrcore.errors import ConfigError

#: The only part of a layer whose tokens see one another, in every supported family.
_ATTENTION: Final = "self_attn"
_TRIAL_TOKENS: Final = 3  # one token would be compiled for one token alone


class CompiledParts:
    """The compiled parts of one model, which is the same as before outside of :meth:`in_place`.

    Compiles at once, in seconds, for any number of tokens. Raises :class:`ConfigError` where torch cannot compile.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        layers: Any = model.base_model.layers
        parts = [part for layer in layers for name, part in layer.named_children() if name != _ATTENTION]
        self._compiled = [(part, torch.compile(part.forward, dynamic=True)) for part in parts]
        trial = torch.zeros(1, _TRIAL_TOKENS, model.config.hidden_size, dtype=model.dtype, device=model.device)
        try:
            # A pool of processes that compile would outlive its use in every worker.
            with inductor_config.patch(compile_threads=1), torch.inference_mode(), self.in_place():
                for part in parts:
                    part(trial)
        except RuntimeError as error:
            raise ConfigError(
                f"engine.compile: expected a machine on which torch can compile, with a C++ compiler for a CPU and "
                f"Triton for a GPU; {_told(error)}. Install it, or set engine.compile to false."
            ) from error

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Calls of the parts go to what was compiled, inside the context."""
        with ExitStack() as stack:
            for part, compiled in self._compiled:
                stack.enter_context(wrapped_forward(part, partial(_instead, compiled)))
            yield


def _instead(compiled: Callable[..., Tensor], _forward: Callable[..., Tensor], *inputs: Any, **settings: Any) -> Tensor:
    return compiled(*inputs, **settings)


def _told(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
