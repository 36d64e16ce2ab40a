"""Ranges of a stream hold what a JSON parser finds in it, however the stream is cut into chunks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prepare.json_ranges import element_ranges, line_ranges

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=4), below, max_size=3),
    max_leaves=12,
)


def chunks(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(
    elements=st.lists(VALUES, max_size=5), size=st.integers(1, 9), indent=st.sampled_from([None, 1]), end=st.booleans()
)
def test_elements_of_an_array(elements: list[Any], size: int, indent: int | None, end: bool) -> None:
    data = ("\n " + json.dumps(elements, indent=indent, ensure_ascii=end) + ("\n" if end else "")).encode()
    found = [json.loads(data[start:stop]) for start, stop in element_ranges(chunks(data, size))]
    assert found == elements


@given(value=st.dictionaries(st.text(max_size=4), VALUES, max_size=3), size=st.integers(1, 9))
def test_an_object_is_its_own_only_element(value: dict[str, Any], size: int) -> None:
    data = f" {json.dumps(value)}\n".encode()
    assert [json.loads(data[start:stop]) for start, stop in element_ranges(chunks(data, size))] == [value]


@given(
    values=st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), min_size=1, max_size=4),
    between=st.sampled_from(["\n", "", ",\n", " \r\n\n"]),
    size=st.integers(1, 9),
)
def test_objects_one_after_the_other(values: list[dict[str, Any]], between: str, size: int) -> None:
    """As collections come under the ending ``.json``; a part of such a file is read in brackets, see sources."""
    data = between.join(map(json.dumps, values)).encode()
    for whole, moved in ((data, 0), (b"[" + data + b"]", 1)):
        found = [data[start - moved : stop - moved] for start, stop in element_ranges(chunks(whole, size))]
        assert [json.loads(one) for one in found] == values


@pytest.mark.parametrize("rest", [b"x", b' "b', b'{"b": [1, {'])
def test_what_follows_an_object_and_is_none_is_an_element(rest: bytes) -> None:
    data = b'{"a": 1}\n' + rest
    assert [data[start:stop] for start, stop in element_ranges([data])] == [b'{"a": 1}', rest.strip()]


@given(lines=st.lists(st.text(alphabet="ab \t\r", max_size=4), max_size=6), size=st.integers(1, 5), end=st.booleans())
def test_lines_that_hold_something(lines: list[str], size: int, end: bool) -> None:
    data = "\n".join(lines).encode() + (b"\n" if end else b"")
    found = [data[start:stop].decode() for start, stop in line_ranges(chunks(data, size))]
    assert found == [line for line in data.decode().split("\n") if line.strip()]


@pytest.mark.parametrize("data", [b'[{"a": 1}, ', b'["x', b"[", b"[1] 2", b"[1][2]"])
def test_what_is_not_one_array_is_noticed(data: bytes) -> None:
    with pytest.raises(ValueError, match="the array ends"):
        list(element_ranges([data]))
