"""Whether the chosen heads do the retrieving: the model's own answers with them masked, and with other heads masked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from pipelines.measures import paired_bootstrap
from pipelines.training.findings import CausalCheck, Interval, MaskedHeads
from pipelines.training.judged import JudgedList, JudgedSet
from qrcore.causal import draw_controls
from qrcore.heads import Head, all_heads, parse_head
from qrcore.models import load_tokenizer, open_model
from qrcore.prompts import EMBEDDED
from qrcore.tokens import PromptEncoder
from qrcore.training.probing import load_probed_model, masking_gate, next_token_log_probabilities
from qrcore.training.retrieval import MAX_DOCUMENTS


@dataclass(frozen=True, slots=True)
class _Question:
    """The tokens up to the index of the document that answers, and the indices that would be right."""

    ids: tuple[int, ...]
    right: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Outcome:
    """Of each question, whether the best guess was right, and the log-probability of a right index."""

    heads: tuple[Head, ...]
    hits: npt.NDArray[np.float64]
    log_probabilities: npt.NDArray[np.float64]

    def summary(self) -> MaskedHeads:
        return MaskedHeads(tuple(map(str, self.heads)), float(self.hits.mean()), float(self.log_probabilities.mean()))


def causal_check(
    folder: str,
    sets: Sequence[JudgedSet],
    chosen: Sequence[str],
    *,
    controls: int = 20,
    max_queries: int = 60,
    seed: int = 0,
    device: str = "cpu",
) -> CausalCheck | None:
    """Mask the ``chosen`` heads (``layer-head``) while the model names the document that answers a dev query.

    Teacher-forced: the prompt is given, and ``[`` where it is a token of its own; the next token should tell the place
    of a relevant document. A masked head attends alike to all tokens. Controls are random sets of equally many other
    heads of the same or later layers: earlier ones feed the chosen heads. At most ``max_queries``, evenly from the
    lists; lists beyond the model's limit or with more documents than it knows indices are passed over. None if there
    is no such query, or too few other heads for one control set.
    """
    source = open_model(folder)
    masked = tuple(parse_head(head) for head in chosen)
    control_sets = draw_controls(masked, all_heads(source.shape).head_list, controls, seed)
    questions = list(islice(_questions(sets, load_tokenizer(source), source.max_tokens), max_queries))
    if not control_sets or not questions:
        return None
    model = load_probed_model(source.path, device)
    intact, own, *others = (
        _ask(model, questions, heads, masking_gate(source.shape, heads)) for heads in ((), masked, *control_sets)
    )
    log_probability = own.log_probabilities.mean()
    return CausalCheck(
        queries=len(questions),
        intact=intact.summary(),
        chosen=own.summary(),
        controls=tuple(other.summary() for other in others),
        percentile=float(np.mean([other.log_probabilities.mean() > log_probability for other in others])),
        drop=_drop(own, others, seed),
    )


def _questions(sets: Sequence[JudgedSet], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Iterator[_Question]:
    encoder = PromptEncoder(tokenizer)
    for entry in chain.from_iterable(zip_longest(*(_spread(judged.part("dev")) for judged in sets))):
        if entry is not None and len(entry.documents) <= MAX_DOCUMENTS:
            question = _question(entry, encoder, tokenizer)
            if len(question.ids) <= max_tokens:
                yield question


def _spread(lists: Sequence[JudgedList]) -> list[JudgedList]:
    # Neighbours in a collection often share a text; the first ones should not stand for all.
    return sorted(lists, key=lambda entry: hashlib.sha256(f"{entry.query_id} spread".encode()).digest())


def _question(entry: JudgedList, encoder: PromptEncoder, tokenizer: PreTrainedTokenizerBase) -> _Question:
    prompt = encoder.encode(EMBEDDED, entry.query, entry.documents).ids
    marks = [tokenizer.encode(f"[{place}]", add_special_tokens=False) for place in entry.relevant_places]
    given = marks[0][:-2]  # nothing where a mark is one token, the bracket where it is three
    return _Question((*prompt, *given), tuple(mark[len(given)] for mark in marks))


def _ask(model: LlamaForCausalLM, questions: Sequence[_Question], heads: tuple[Head, ...], gate: Tensor) -> _Outcome:
    answers = [next_token_log_probabilities(model, question.ids, gate) for question in questions]
    pairs = list(zip(questions, answers, strict=True))
    hits = [int(answer.argmax()) in question.right for question, answer in pairs]
    right = [float(answer[list(question.right)].logsumexp(dim=0)) for question, answer in pairs]
    return _Outcome(heads, np.array(hits, dtype=np.float64), np.array(right))


def _drop(own: _Outcome, others: Sequence[_Outcome], seed: int) -> Interval:
    # What intact heads get right cancels: both losses are taken from the same number, query by query.
    controls = np.mean([other.hits for other in others], axis=0)
    other, chosen = (dict(zip(map(str, range(len(hits))), hits.tolist(), strict=True)) for hits in (controls, own.hits))
    found = paired_bootstrap(other, chosen, seed)
    return Interval(found.mean, found.low, found.high)
