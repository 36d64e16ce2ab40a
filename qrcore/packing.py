"""Which requests go through the model together: a pure function of the requests and one number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from qrcore.encoding import EncodedRequest


@dataclass(frozen=True, slots=True)
class Group:
    """Requests (their places in the list) over the same documents: one segment of a pass, with one null query."""

    places: tuple[int, ...]
    tokens: int


Pass = tuple[Group, ...]


def plan_passes(
    requests: Sequence[EncodedRequest], pack_tokens: int, prompt_class: Callable[[int], int] = lambda tokens: 0
) -> list[Pass]:
    """Passes over all ``requests``, each in exactly one group, in the order of each pass's first request.

    Requests with the same documents share a segment, as long as their queries have at most ``pack_tokens`` tokens
    together. Segments share a pass up to ``pack_tokens`` tokens; a longer one has a pass of its own. With 0 every
    request is alone: its scores then depend on no neighbour, not even by rounding. ``prompt_class``: requests whose
    lengths are of different classes do not share documents.
    """
    if pack_tokens == 0:
        return [(_group(requests, (place,)),) for place in range(len(requests))]
    passes: list[Pass] = []
    room = 0
    for group in _groups(requests, pack_tokens, prompt_class):
        if group.tokens <= room:
            passes[-1] += (group,)
        else:
            passes.append((group,))
            room = pack_tokens
        room -= group.tokens
    return passes


def _groups(
    requests: Sequence[EncodedRequest], pack_tokens: int, prompt_class: Callable[[int], int]
) -> Iterable[Group]:
    """In the order of each group's first request."""
    sharing: dict[tuple[bytes, bytes, int], list[int]] = defaultdict(list)
    for place, request in enumerate(requests):
        key = (request.prefix_ids.tobytes(), request.null_ids.tobytes(), prompt_class(request.longest_prompt))
        sharing[key].append(place)
    cut = [part for places in sharing.values() for part in _cut(requests, places, pack_tokens)]
    return (_group(requests, places) for places in sorted(cut))


def _cut(requests: Sequence[EncodedRequest], places: Sequence[int], pack_tokens: int) -> list[tuple[int, ...]]:
    """``places`` in parts whose queries have at most ``pack_tokens`` tokens together, one query at least."""
    parts: list[tuple[int, ...]] = []
    room = -1
    for place in places:
        tokens = len(requests[place].query_ids)
        if tokens <= room:
            parts[-1] += (place,)
        else:
            parts.append((place,))
            room = pack_tokens
        room -= tokens
    return parts


def _group(requests: Sequence[EncodedRequest], places: tuple[int, ...]) -> Group:
    first = requests[places[0]]
    queries = sum(len(requests[place].query_ids) for place in places)
    return Group(places, len(first.prefix_ids) + queries + len(first.null_ids))
