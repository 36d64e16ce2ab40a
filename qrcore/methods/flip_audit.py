"""Flip audit (Roy, Jhaveri and Triantafyllopoulos, arXiv 2510.22866): does a model stand by a right answer when asked
again, and which heads look at "yes" and "no" when it does not?

Only the abstract and third-party notes of the paper could be had. Everything here is **our reading** of it: the model
has answered (turn 1), is asked whether it is sure (turn 2), and what it would say next is taken as it stands, without
sampling: p_yes and p_no, the sums over the first tokens of either word. A *flip* is p_no > p_yes. A head *looks* at the
options if one of the ``looked_at`` keys that the last token of turn 2 attends to most lies on the words of the question
that name them. Outcome and look give four cases:

====  =========  =====
case  outcome    looks
====  =========  =====
1     uncertain  yes
2     confident  no
3     uncertain  no
4     confident  yes
====  =========  =====

In cases 1 and 2 the look goes with the flip; a head's score is the share of rows in their union. Heads are ranked on
one split and masked on another. The prompt and the answer are run once for all follow-ups, and layers below the first
masked one once for all masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from qrcore.attention.attach import run
from qrcore.attention.call import AttentionCall, Fork, LayerRead, PackedLayout
from qrcore.attention.gate import Gate, GateMode, first_layer, layer_gates, on_row
from qrcore.attention.losses import head_logits
from qrcore.attention.read import LayerReader
from qrcore.contracts.auditor import FlipTrial, Verdict
from qrcore.contracts.method import Method, Needs
from qrcore.errors import ConfigError, ScoreError
from qrcore.heads import Head, all_heads
from qrcore.models import LanguageModel, out_of_memory_as_error
from qrcore.records import Span

#: A model is coherent if "yes" or "no" is among so many likeliest next tokens.
_COHERENT_AMONG: Final = 5


@dataclass(frozen=True, slots=True)
class FlipSettings:
    """``yes_ids`` and ``no_ids``: first tokens of either word; ``mask_mode``: as in
    :class:`~qrcore.attention.gate.Gate`; ``looked_at``: keys that a head looks at.

    Raises :class:`ConfigError` for values that no verdict can be read with.
    """

    yes_ids: tuple[int, ...]
    no_ids: tuple[int, ...]
    mask_mode: GateMode = "uniform"
    looked_at: int = 5

    def __post_init__(self) -> None:
        if not self.yes_ids or not self.no_ids or set(self.yes_ids) & set(self.no_ids):
            raise ConfigError(
                "yes_ids and no_ids: expected different first tokens of either word, "
                f"got {list(self.yes_ids)} and {list(self.no_ids)}. Correct them."
            )
        if self.mask_mode not in ("uniform", "zero"):
            raise ConfigError(f"mask_mode: expected uniform or zero, got {self.mask_mode!r}. Choose one of these.")
        if self.looked_at < 1:
            raise ConfigError(f"looked_at: expected at least 1, got {self.looked_at}. Raise it.")


class FlipAudit:
    """See :class:`qrcore.contracts.auditor.Auditor`."""

    def __init__(self, settings: FlipSettings) -> None:
        self._settings = settings

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model and trials that verdicts depend on."""
        chosen = self._settings
        return {
            "mask_mode": chosen.mask_mode,
            "mask_scope": "all",
            "yes_ids": list(chosen.yes_ids),
            "no_ids": list(chosen.no_ids),
            "looked_at": chosen.looked_at,
        }

    def verdicts(
        self, model: LanguageModel, trial: FlipTrial, masks: Sequence[Sequence[Head]] = ((),)
    ) -> list[list[Verdict]]:
        """Verdicts by mask and follow-up; an empty mask is the model as it is. Raises :class:`ScoreError`."""
        _check(model, trial)
        layout = _layout(trial)
        copies = [(Gate(self._settings.mask_mode, tuple(heads)),) for heads in masks]
        layer = first_layer(gate for gates in copies for gate in gates)
        runs = 1 if layer is None else len(copies)
        gates = layer_gates(on_row(gate, row) for row, gates in enumerate(copies[:runs]) for gate in gates)
        fork = Fork(layer, runs) if layer is not None and runs > 1 else None
        last = [block.rows.stop - 1 for block in layout.suffixes]
        with torch.inference_mode(), out_of_memory_as_error():
            call = AttentionCall(layout, gates=gates, fork=fork)
            hidden = run(model.decoder.model, _ids(model, trial), call).last_hidden_state[0]
            logits = head_logits(model.model, hidden.unflatten(0, (runs, -1))[:, last])
        if not bool(torch.isfinite(logits).any(dim=-1).all()) or bool(logits.isnan().any()):
            raise ScoreError(
                "non_finite", "logits: expected finite numbers, got NaN. Run again with dtype=float32.", stage="score"
            )
        found = [[self._verdict(row) for row in of_mask] for of_mask in logits]
        return found if runs == len(copies) else found * len(copies)

    def looks(self, model: LanguageModel, trial: FlipTrial) -> list[dict[Head, bool]]:
        """Whether each head looks at the options, by follow-up. Raises :class:`ScoreError`."""
        _check(model, trial)
        layout = _layout(trial)
        heads = all_heads(model.decoder.source.shape).head_list
        rows = tuple(Span(len(asked.ids) - 1, len(asked.ids)) for asked in trial.follow_ups)
        collected: dict[Head, list[Tensor]] = {}
        readers: dict[int, LayerRead] = {}
        for layer in range(model.decoder.source.shape.layers):
            of_layer = tuple(head for head in heads if head.layer == layer)
            readers[layer] = LayerReader(layout, rows, of_layer, collected)
        with torch.inference_mode(), out_of_memory_as_error():
            run(model.decoder.model, _ids(model, trial), AttentionCall(layout, readers, last_layer=max(readers)))
        before = len(trial.first_turn)
        return [
            {
                head: _looks(
                    collected[head][number],
                    Span(before + asked.options.start, before + asked.options.stop),
                    self._settings.looked_at,
                )
                for head in heads
            }
            for number, asked in enumerate(trial.follow_ups)
        ]

    def _verdict(self, logits: Tensor) -> Verdict:
        logs = torch.log_softmax(logits, dim=-1)
        yes, no = (torch.tensor(ids, device=logits.device) for ids in (self._settings.yes_ids, self._settings.no_ids))
        likeliest = set(logits.topk(min(_COHERENT_AMONG, len(logits))).indices.tolist())
        entropy = -(logs.exp() * logs.masked_fill(torch.isneginf(logs), 0.0)).sum()
        return Verdict(
            float(logs[yes].exp().sum()),
            float(logs[no].exp().sum()),
            float(logits[yes].max() - logits[no].max()),
            float(entropy),
            bool(likeliest & {*self._settings.yes_ids, *self._settings.no_ids}),
        )


@dataclass(frozen=True, slots=True)
class FlipRates:
    """Over rows with a known right or wrong answer. ``yes_correct`` and ``yes_wrong``: share that the model stands by
    (None without such rows); ``auroc``: of p_yes - p_no telling right answers from wrong ones, ties half; ``accuracy``:
    share in which it stands by a right answer or gives up a wrong one."""

    rows: int
    yes_correct: float | None
    yes_wrong: float | None
    auroc: float | None
    accuracy: float | None


def flip_rates(rows: Sequence[tuple[bool, Verdict]]) -> FlipRates:
    """Rates over rows of (the answer was correct, verdict)."""
    correct = [verdict for right, verdict in rows if right]
    wrong = [verdict for right, verdict in rows if not right]
    agreed = [right != verdict.flipped for right, verdict in rows]
    return FlipRates(
        len(rows), _stands(correct), _stands(wrong), _auroc(correct, wrong), sum(agreed) / len(rows) if rows else None
    )


def _stands(verdicts: Sequence[Verdict]) -> float | None:
    return sum(not one.flipped for one in verdicts) / len(verdicts) if verdicts else None


def _auroc(correct: Sequence[Verdict], wrong: Sequence[Verdict]) -> float | None:
    if not correct or not wrong:
        return None
    pairs = [(one.p_yes - one.p_no) - (other.p_yes - other.p_no) for one in correct for other in wrong]
    return sum(0.5 if difference == 0 else float(difference > 0) for difference in pairs) / len(pairs)


def _looks(attention: Tensor, options: Span, count: int) -> bool:
    top = torch.argsort(attention, descending=True, stable=True)[:count]
    return bool(((top >= options.start) & (top < options.stop)).any())


def _layout(trial: FlipTrial) -> PackedLayout:
    return PackedLayout.of_one(len(trial.first_turn), tuple(len(asked.ids) for asked in trial.follow_ups))


def _ids(model: LanguageModel, trial: FlipTrial) -> Tensor:
    ids = [*trial.first_turn, *(token for asked in trial.follow_ups for token in asked.ids)]
    return torch.tensor(ids, device=model.model.device)


def _check(model: LanguageModel, trial: FlipTrial) -> None:
    if not trial.first_turn or not trial.follow_ups or not all(asked.ids for asked in trial.follow_ups):
        raise ScoreError(
            "empty_query", "turns: expected tokens in both turns, got none. Leave the row out.", stage="tokenise"
        )
    limit = model.decoder.source.max_tokens
    longest = len(trial.first_turn) + max(len(asked.ids) for asked in trial.follow_ups)
    if longest > limit:
        raise ScoreError(
            "context_too_long",
            f"turns: expected at most {limit} tokens together for this model, got {longest}. Cut the context.",
            stage="tokenise",
        )


def build(**settings: Any) -> FlipAudit:
    """The method; ``settings``: fields of :class:`FlipSettings`."""
    return FlipAudit(FlipSettings(**settings))


METHOD = Method(
    name="flip_audit",
    kind="audit",
    source="Unwanted uncertainty, arXiv 2510.22866 (our reading of the abstract and of third-party notes)",
    needs=Needs(depth="full"),
    build=build,
)
