"""Configurations: sources merged, mistakes named with the nearest name, and what enters a run's identity."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from jobs.config import EngineConfig, RerankConfig
from jobs.detect_config import DetectConfig
from jobs.needles import NeedlesConfig
from jobs.settings import field_names, flatten, merge, nest, parse_assignments, read_config_file, validate
from pipelines.scorers import EngineOptions
from qrcore.engine import EngineSettings
from qrcore.errors import ConfigError

GOOD: dict[str, Any] = {"input": {"uris": ["in"]}, "output": {"uri": "out"}}


def test_sources_are_merged_section_by_section() -> None:
    assert merge({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 9}, "c": 4}) == {"a": {"x": 1, "y": 9}, "b": 3, "c": 4}
    assert nest("a.b.c", 1) == {"a": {"b": {"c": 1}}}


def test_assignments_are_yaml() -> None:
    parsed = parse_assignments(["actors.count=4", "scoring.null_query=N/A", "input.carry=[a, b]", "actors.cpus=0.5"])
    assert parsed == {
        "actors": {"count": 4, "cpus": 0.5},
        "scoring": {"null_query": "N/A"},
        "input": {"carry": ["a", "b"]},
    }
    with pytest.raises(ConfigError, match=r"section\.field=value"):
        parse_assignments(["actors.count"])
    for broken in ("input.uris=[x", "name=2024-13-45"):
        with pytest.raises(ConfigError, match="expected a YAML value"):
            parse_assignments([broken])


def test_missing_values_are_named_with_the_flag_that_gives_them() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(RerankConfig, {})
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["input.uris", "output.uri"]
    assert ["--input" in lines[0], "--output" in lines[1]] == [True, True]


@pytest.mark.parametrize("carry", [3, ["a", 3], {"a": 1}])
def test_a_field_of_several_types_has_one_message(carry: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(RerankConfig, merge(GOOD, {"input": {"carry": carry}}))
    (line,) = str(caught.value).splitlines()[1:]
    assert line.strip() == f"input.carry: expected all, none or a list of names, got {carry!r}. Correct the value."


@pytest.mark.parametrize("name", ["", "Not Good", "a/b", "x" * 65, "line\n", "é"])
def test_names_that_cannot_be_folders_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name: expected 1 to 64 characters"):
        validate(RerankConfig, merge(GOOD, {"name": name}))
    assert validate(RerankConfig, merge(GOOD, {"name": "a-Z._9".lower() + "x" * 58})).name


def test_an_unknown_key_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"scoring\.null_querry.*did you mean 'scoring\.null_query'"):
        validate(RerankConfig, merge(GOOD, {"scoring": {"null_querry": "x"}}))


def test_every_mistake_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(RerankConfig, {"output": {"uri": "out"}, "actors": {"count": 0}, "model": {"dtype": "float8"}})
    message = str(caught.value)
    assert "input.uris: expected a value, got none. Give it with --input" in message
    assert "actors.count" in message
    assert "model.dtype" in message


def test_config_files(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("actors:\n  count: 3\n")
    assert read_config_file(str(tmp_path / "good.yaml")) == {"actors": {"count": 3}}
    (tmp_path / "empty.yaml").write_text("")
    assert read_config_file(str(tmp_path / "empty.yaml")) == {}
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "bytes.yaml").write_bytes(b"\x7fELF\xff\x00")
    for name, message in (
        ("bytes", "UTF-8"),
        ("list", "got a list"),
        ("bad", "expected YAML"),
        ("missing", "readable file"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_config_file(str(tmp_path / f"{name}.yaml"))


def _fields(kind: type[BaseModel]) -> list[tuple[str, Any]]:
    found = []
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += [(f"{name}.{below}", entry) for below, entry in _fields(field.annotation)]
        else:
            found.append((name, field))
    return found


@pytest.mark.parametrize("kind", [RerankConfig, DetectConfig, NeedlesConfig])
def test_every_field_is_described_and_marked(kind: type[BaseModel]) -> None:
    fields = _fields(kind)
    assert len(fields) > 10
    for name, field in fields:
        assert field.description, name
        assert isinstance(field.json_schema_extra["affects_output"], bool), name
    assert {name for name, _ in fields} <= set(field_names(kind))


def test_settings_of_the_engine_are_the_same_three_times() -> None:
    """For people, for processes without torch, and for the engine: names and defaults."""
    told, carried, used = EngineConfig().model_dump(), asdict(EngineOptions()), asdict(EngineSettings())
    assert told == carried == used


def test_only_what_decides_the_output_enters_the_identity() -> None:
    config = validate(RerankConfig, merge(GOOD, {"actors": {"count": 7}, "scoring": {"null_query": "nothing"}}))
    affecting = flatten(config, only_affecting_output=True)
    assert affecting["scoring.null_query"] == "nothing"
    others = ("actors", "cluster", "storage", "output", "units", "name", "report", "join")
    assert [key for key in affecting if key.startswith(others)] == ["units.max_row_bytes"]  # decides what is an error
    assert flatten(config)["actors.count"] == 7
