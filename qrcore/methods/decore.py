"""DeCoRe (arXiv 2410.18860): what a model says, less what it says without its retrieval heads.

Two streams read the same tokens in one batch, base and masked, over one prefill. The next token is the likeliest under
the paper's ``(1 + a) log p_base - a log p_masked``, where ``a`` is the entropy of p_base in nats: the less sure the
model is, the more it leans on what the heads bring. Options: a fixed ``a``, a cap on it, and the entropy as a share of
the largest one, ln(vocabulary). There is no plausibility cut, as in the published code. With ``a`` = 0 nothing is
masked and the answer is the plain greedy one, to the bit.

The masked stream alone gives what RHIO (arXiv 2501.13573) and RetMask (arXiv 2601.11020) use as unfaithful samples: see
:meth:`DeCoRe.negatives`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from qrcore.attention.gate import Gate, GateMode, GateScope
from qrcore.contracts.generator import Generated
from qrcore.contracts.method import Method, Needs
from qrcore.decode import Decoded, decode_greedy, decode_streams
from qrcore.errors import ConfigError, ScoreError
from qrcore.heads import Head
from qrcore.models import LanguageModel, out_of_memory_as_error


@dataclass(frozen=True, slots=True)
class DecoreSettings:
    """``heads``: the retrieval heads; ``mask_mode`` and ``mask_scope``: as in :class:`~qrcore.attention.gate.Gate`, the
    published code has *uniform* while decoding; ``alpha``: a fixed ``a``, None for the entropy; ``alpha_cap``: the
    largest ``a``; ``normalised``: the entropy as a share of ln(vocabulary).

    Raises :class:`ConfigError` for values that make no sense.
    """

    heads: tuple[Head, ...]
    mask_mode: GateMode = "uniform"
    mask_scope: GateScope = "decode"
    alpha: float | None = None
    alpha_cap: float | None = None
    normalised: bool = False
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if self.mask_mode not in ("uniform", "zero"):
            raise ConfigError(f"mask_mode: expected uniform or zero, got {self.mask_mode!r}. Choose one of these.")
        for name, value in (("alpha", self.alpha), ("alpha_cap", self.alpha_cap)):
            if value is not None and not 0 <= value < math.inf:
                raise ConfigError(f"{name}: expected a number from 0, got {value}. Correct it.")
        if self.alpha is not None and (self.alpha_cap is not None or self.normalised):
            raise ConfigError(
                "alpha: expected no cap and no normalising of a fixed alpha. Leave alpha out for entropy."
            )

    @property
    def gate(self) -> Gate:
        """What is done to the masked stream."""
        return Gate(self.mask_mode, self.heads, self.mask_scope)


def contrast(base: Tensor, masked: Tensor, alpha: Tensor) -> Tensor:
    """``(1 + a) log p_base - a log p_masked`` from logits ``[..., vocabulary]`` and ``a`` ``[...]``.

    Where ``a`` is 0 it is log p_base; a token that the base cannot say stays impossible, and one that only the masked
    stream cannot say is not pushed.
    """
    base, masked = (torch.log_softmax(logits, dim=-1) for logits in (base, masked))
    weight = alpha[..., None]
    pushed = (1 + weight) * base - weight * masked
    same = (weight == 0) | torch.isneginf(base) | torch.isneginf(masked)
    return torch.where(same, base, pushed)


def entropy(logits: Tensor) -> Tensor:
    """Of the distribution over the last axis, in nats, ``[...]``."""
    logs = torch.log_softmax(logits, dim=-1)
    return -(logs.exp() * logs.masked_fill(torch.isneginf(logs), 0.0)).sum(dim=-1)


def support(answer: Sequence[Hashable], context: Sequence[Hashable]) -> float:
    """The share of an answer's tokens that the context holds, with multiplicity, 0 to 1; 0 for an empty answer."""
    return (Counter(answer) & Counter(context)).total() / len(answer) if answer else 0.0


class DeCoRe:
    """See :class:`qrcore.contracts.generator.Contraster`; figures: ``mean_alpha``, ``steps``, and ``tokens_changed``,
    steps at which the base alone would have said another token."""

    def __init__(self, settings: DecoreSettings) -> None:
        self._settings = settings

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model and prompts that answers depend on."""
        chosen = self._settings
        return {
            **chosen.gate.record,
            "alpha": chosen.alpha,
            "alpha_cap": chosen.alpha_cap,
            "normalised": chosen.normalised,
            "max_new_tokens": chosen.max_new_tokens,
        }

    def answers(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[Generated | ScoreError]:
        """The contrasted answer to each prompt in order, or why there is none."""
        return self._where_possible(model, prompts, self._contrasted)

    def plain(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[Generated | ScoreError]:
        """What the model says as it is."""
        return self._where_possible(model, prompts, self._greedy)

    def negatives(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[Generated | ScoreError]:
        """What the model says with its heads masked; figures: ``steps`` and ``support``, the share of the answer's
        tokens that the prompt holds."""
        return self._where_possible(model, prompts, self._masked)

    def _where_possible(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], generate: _Generate
    ) -> list[Generated | ScoreError]:
        """What ``generate`` gives for the prompts that can be answered, and for the others why they cannot."""
        problems = [_problem(model, prompt, self._settings.max_new_tokens) for prompt in prompts]
        usable = [prompt for prompt, problem in zip(prompts, problems, strict=True) if problem is None]
        with out_of_memory_as_error():
            found = iter(generate(model, usable))
        return [problem or next(found) for problem in problems]

    def _greedy(
        self, model: LanguageModel, prompts: Sequence[Sequence[int]], gates: Sequence[Sequence[Gate]] = ()
    ) -> list[Generated | ScoreError]:
        watched = _Watched()

        def hook(step: int, logits: Tensor) -> Tensor:
            watched.note(step, logits[None])
            return logits

        decoded = decode_greedy(model.model, prompts, self._settings.max_new_tokens, model.end_ids, hook, gates)
        return [_answer(one, steps) for one, steps in zip(decoded, watched.rows, strict=True)]

    def _masked(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[Generated | ScoreError]:
        answers = self._greedy(model, prompts, [(self._settings.gate,)] * len(prompts))
        return [
            one
            if isinstance(one, ScoreError)
            else replace(one, figures={"steps": one.figures["steps"], "support": support(one.ids, prompt)})
            for one, prompt in zip(answers, prompts, strict=True)
        ]

    def _contrasted(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[Generated | ScoreError]:
        if self._settings.alpha == 0 or not self._settings.heads:
            return self._greedy(model, prompts)
        watched = _Watched()

        def hook(step: int, logits: Tensor) -> Tensor:
            base, masked = logits
            alpha = self._alpha(base)
            chosen = contrast(base, masked, alpha)
            watched.note(step, logits, alpha, chosen.argmax(dim=-1) != base.argmax(dim=-1))
            return chosen

        nothing: list[tuple[Gate, ...]] = [()] * len(prompts)
        masked = [(self._settings.gate,)] * len(prompts)
        decoded = decode_streams(
            model.model, prompts, self._settings.max_new_tokens, [nothing, masked], hook, model.end_ids
        )
        return [_answer(one, steps) for one, steps in zip(decoded, watched.rows, strict=True)]

    def _alpha(self, base: Tensor) -> Tensor:
        if self._settings.alpha is not None:
            return torch.full(base.shape[:-1], self._settings.alpha, device=base.device)
        alpha = entropy(base)
        if self._settings.normalised:
            alpha = alpha / math.log(base.shape[-1])
        return alpha if self._settings.alpha_cap is None else alpha.clamp(max=self._settings.alpha_cap)


class _Generate(Protocol):
    def __call__(self, model: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[Generated | ScoreError]: ...


class _Step(NamedTuple):
    """``a``, whether it changed the token, and whether every stream's logits were those of a distribution."""

    alpha: float
    changed: bool
    sound: bool


class _Watched:
    """Every step of every row; rows come in one batch or in several."""

    def __init__(self) -> None:
        self.rows: list[list[_Step]] = []
        self._first = 0

    def note(self, step: int, logits: Tensor, alpha: Tensor | None = None, changed: Tensor | None = None) -> None:
        """``logits``: ``[stream, row, vocabulary]``; without ``alpha`` nothing was contrasted."""
        # NaN is below nothing and above nothing; a token may be impossible, all of them may not.
        sound = ((logits < math.inf).all(dim=-1) & (logits > -math.inf).any(dim=-1)).all(dim=0).tolist()
        alphas = [0.0] * len(sound) if alpha is None else alpha.tolist()
        others = [False] * len(sound) if changed is None else changed.tolist()
        if step == 0:
            self._first = len(self.rows)
            self.rows += [[] for _ in sound]
        for row, told in enumerate(zip(alphas, others, sound, strict=True), start=self._first):
            self.rows[row].append(_Step(*told))


def _answer(decoded: Decoded, steps: Sequence[_Step]) -> Generated | ScoreError:
    """Steps behind a row's own end belong to its neighbours and do not count."""
    steps = steps[: len(decoded.ids) + decoded.ended]
    if not all(one.sound for one in steps):
        return ScoreError(
            "non_finite",
            "logits: expected finite numbers, got NaN or infinity. Run again with dtype=float32.",
            stage="score",
        )
    figures = {
        "mean_alpha": sum(one.alpha for one in steps) / len(steps),
        "tokens_changed": float(sum(one.changed for one in steps)),
        "steps": float(len(steps)),
    }
    return Generated(decoded.ids, decoded.ended, figures)


def _problem(model: LanguageModel, prompt: Sequence[int], max_new_tokens: int) -> ScoreError | None:
    limit = model.decoder.source.max_tokens
    if not prompt:
        return ScoreError(
            "empty_query", "prompt: expected at least one token, got none. Leave it out.", stage="tokenise"
        )
    if len(prompt) + max_new_tokens > limit:
        return ScoreError(
            "context_too_long",
            f"prompt: expected at most {limit} tokens with {max_new_tokens} new ones for this model, got "
            f"{len(prompt) + max_new_tokens}. Cut the prompt or generate less.",
            stage="tokenise",
        )
    return None


def build(heads: Sequence[Head], **settings: Any) -> DeCoRe:
    """The method for these heads; ``settings``: fields of :class:`DecoreSettings`."""
    return DeCoRe(DecoreSettings(tuple(heads), **settings))


METHOD = Method(
    name="decore",
    kind="generator",
    source="DeCoRe, arXiv 2410.18860; negatives as in RHIO, arXiv 2501.13573",
    needs=Needs(depth="full"),
    build=build,
)
