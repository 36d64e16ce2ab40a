"""How right an answer is: exact match, containment, token F1, and verdicts on claims. Pure functions of texts.

Texts are compared as SQuAD's evaluation does it (arXiv 1606.05250): lower case, without punctuation and articles.
``sub_em`` is the containment that long-context benchmarks count; pairs are CLIPPER's (arXiv 2502.14854).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

Verdict = Literal["TRUE", "FALSE"]

_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")
_VERDICT: Final = re.compile(r"\b(true|false)\b", re.IGNORECASE)
_YES_OR_NO: Final = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_MARK: Final = re.compile(r"^\s*\[\s*\d+\s*\]\s*")


class AnswerScores(NamedTuple):
    """Of the gold answer that fits best: equal, contained in the answer, and F1 of their words."""

    exact_match: float
    sub_em: float
    token_f1: float


def without_mark(answer: str) -> str:
    """The answer without the ``[i]`` that names a paragraph in front of it."""
    return _MARK.sub("", answer)


def normalised(text: str) -> str:
    """Lower case, without punctuation and English articles, one space between words."""
    kept = "".join(character for character in text.lower() if not unicodedata.category(character).startswith("P"))
    return " ".join(_ARTICLES.sub(" ", kept).split())


def score_answer(answer: str, gold: Sequence[str]) -> AnswerScores:
    """Each measure with the gold answer that is best for it; all zero without a gold answer.

    A gold answer of which nothing is left when it is normalised is found only in an answer of which nothing is left.
    """
    said = normalised(answer)
    wanted = [normalised(one) for one in gold]
    return AnswerScores(
        exact_match=max((float(said == one) for one in wanted), default=0.0),
        sub_em=max((float(_holds(said, one)) for one in wanted), default=0.0),
        token_f1=max((_f1(said.split(), one.split()) for one in wanted), default=0.0),
    )


def verdict(answer: str) -> Verdict | None:
    """TRUE or FALSE, whichever word the answer says last; None if it says neither."""
    found = _VERDICT.findall(answer)
    if not found:
        return None
    return "TRUE" if found[-1].lower() == "true" else "FALSE"


def yes_or_no(answer: str) -> bool | None:
    """What a judge says: whichever of the two words comes first; None if neither does."""
    found = _YES_OR_NO.search(answer)
    return None if found is None else found[1].lower() == "yes"


def pair_accuracy(pairs: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, float]:
    """By pair: 1 if each of its (answer, gold verdict) is right, and there are both a true and a false claim."""
    return {
        pair: float(
            {gold for _, gold in claims} == {"TRUE", "FALSE"} and all(verdict(said) == gold for said, gold in claims)
        )
        for pair, claims in pairs.items()
    }


def _holds(said: str, wanted: str) -> bool:
    return wanted in said if wanted else not said


def _f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    shared = (Counter(said) & Counter(wanted)).total()
    return 2 * shared / (len(said) + len(wanted))
