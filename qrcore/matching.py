"""Whether a head set was found for the very model that is to be read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from qrcore.errors import HeadSetError
from qrcore.heads import HeadSet
from qrcore.prompts import PromptFormat

if TYPE_CHECKING:
    from qrcore.models import ModelSource

#: Sets that claim nothing of a model: typed by hand, all heads, drawn by chance.
_OF_NO_MODEL = (None, "all", "random")


#: A prompt so many times longer than those that heads were found with is worth a warning.
LONGEST_TIMES: Final = 4

#: What to do about a recorded revision or weight hash that is not the model's; ``ignore`` does not even look.
OnMismatch = Literal["refuse", "warn", "ignore"]


def check_origin(heads: HeadSet, source: ModelSource, on_mismatch: OnMismatch = "refuse") -> tuple[str, ...]:
    """What a user should know of the match, one sentence each; the shape is checked elsewhere, and never forgiven.

    Raises :class:`HeadSetError` if a recorded revision or weight hash is not the model's and that is refused.
    """
    found = _differences(heads, source) if on_mismatch != "ignore" else []
    if found and on_mismatch == "refuse":
        raise HeadSetError(
            f"head set {heads.name!r} was found for another model: {'; '.join(found)}. Load that model, find heads for "
            "this one (qrbatch detect), or say that you mean it (--allow-model-mismatch)."
        )
    warnings = [f"head set {heads.name!r} was found for another model and is used all the same: {one}" for one in found]
    if not found and heads.method not in _OF_NO_MODEL and not (heads.revision or heads.weights_sha256):
        warnings.append(_unknown(heads, source))
    if heads.intervals and heads.intervals[0][0] <= 0.0 <= heads.intervals[0][1]:
        warnings.append(f"head set {heads.name!r}: the interval of its best head's score includes 0")
    return tuple(warnings)


def prompt_warnings(heads: HeadSet, prompt: PromptFormat) -> tuple[str, ...]:
    """What to know of a prompt that is not the one that the heads were found with: one sentence or none."""
    recorded = heads.prompt
    if recorded is None or recorded.hash == prompt.hash:
        return ()
    return (f"head set {heads.name!r} was found with prompt {recorded.name!r}, and prompts here are {prompt.name!r}",)


def query_digest(query_id: str | None, query: str) -> str:
    """A query as head sets remember it: 16 hexadecimal digits, which tell it again and do not tell its text.

    The text counts beside the id, because many collections number their queries from 1.
    """
    named = f"{query_id or ''}\0{query}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(named).hexdigest()[:16]


def length_warnings(
    head_set_id: str, detection_tokens: Mapping[str, int] | None, prompt_tokens: Sequence[int]
) -> tuple[str, ...]:
    """What to know of prompts that are much longer than those that the heads were found with: one sentence or none.

    ``detection_tokens``: quantiles such as ``{"p95": 1200}``, of which the highest counts; None: not recorded.
    ``prompt_tokens``: of every prompt that was scored.
    """
    if not detection_tokens:
        return ()
    name, known = max(detection_tokens.items(), key=lambda one: one[1])
    longer = sum(tokens > LONGEST_TIMES * known for tokens in prompt_tokens)
    if not longer:
        return ()
    return (
        f"head set {head_set_id}: {longer} of {len(prompt_tokens)} prompts have more than {LONGEST_TIMES} times the "
        f"tokens that its heads were found with ({name} of them {known}, the longest prompt here {max(prompt_tokens)})",
    )


def _differences(heads: HeadSet, source: ModelSource) -> list[str]:
    from qrcore.models import weights_sha256  # torch, which a report of a finished run does without

    found = []
    if heads.revision and source.revision and heads.revision != source.revision:
        found.append(f"revision {heads.revision[:12]}, and this is {source.revision[:12]}")
    if heads.weights_sha256 and (weights := weights_sha256(source.path)) != heads.weights_sha256:
        found.append(f"weights {heads.weights_sha256[:12]}, and these are {weights[:12]}")
    return found


def _unknown(heads: HeadSet, source: ModelSource) -> str:
    named = f"is named for {heads.model_id} and " if heads.model_id and heads.model_id != source.model_id else ""
    return (
        f"head set {heads.name!r} {named}records neither revision nor weights of its model: only the shape was compared"
    )
