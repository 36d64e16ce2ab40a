"""Many objects by few tasks: order, what goes together, errors and references."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fan_out import _neighbours, fan_out
from qrcore.errors import InputError

MIB = 2**20


def _told(one: int, ending: str) -> tuple[str, int]:
    return f"{one}{ending}", os.getpid()


def _refuse(one: int) -> int:
    if one == 3:
        raise InputError("three: expected another number")
    return one


@pytest.mark.usefixtures("local_ray")
def test_results_come_in_order_from_few_tasks_with_what_is_shared() -> None:
    found = list(fan_out(_told, range(300), lambda _one: 1, ray.put("!")))
    assert [text for text, _ in found] == [f"{one}!" for one in range(300)]
    for start in range(0, 300, 64):
        assert len({process for _, process in found[start : start + 64]}) == 1


@pytest.mark.usefixtures("local_ray")
def test_what_a_task_raises_is_raised_after_the_tasks_before_it() -> None:
    results = fan_out(_refuse, range(6), lambda _one: 20 * MIB)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(InputError, match="three"):
        next(results)


@pytest.mark.usefixtures("local_ray")
def test_no_objects_are_no_task() -> None:
    assert list(fan_out(_refuse, [], lambda _one: 1)) == []


@given(sizes=st.lists(st.integers(0, 40 * MIB), max_size=200))
def test_neighbours_are_all_objects_once_within_number_and_bytes(sizes: Sequence[int]) -> None:
    groups = list(_neighbours(list(enumerate(sizes)), lambda one: one[1]))
    assert [one for group in groups for one in group] == list(enumerate(sizes))
    for group in groups:
        assert 1 <= len(group) <= 64
        assert len(group) == 1 or sum(size for _, size in group) <= 32 * MIB
    for group, following in pairwise(groups):
        assert len(group) == 64 or sum(size for _, size in group) + following[0][1] > 32 * MIB
