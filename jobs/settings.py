"""Building blocks of configurations: marked fields, merging of sources, and messages for mistakes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qrcore.errors import ConfigError

Values = dict[str, Any]
ConfigType = TypeVar("ConfigType", bound=BaseModel)


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def setting(default: Any, description: str, *, affects_output: bool, **limits: Any) -> Any:
    """A documented field. ``affects_output``: whether another value can change what a run writes, which makes it
    part of the run's identity."""
    return Field(default, description=description, json_schema_extra={"affects_output": affects_output}, **limits)


def read_config_file(path: str) -> Values:
    """A YAML file as nested values. Raises :class:`ConfigError`."""
    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {path}: expected a readable file; {error.strerror}. Check the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path}: expected YAML; {str(error).splitlines()[0]}. Correct the file.") from error
    if not isinstance(loaded or {}, dict):
        raise ConfigError(f"config {path}: expected keys and values, got a {type(loaded).__name__}. Correct the file.")
    return loaded or {}


def parse_assignments(assignments: Sequence[str]) -> Values:
    """``["a.b=c", …]`` as nested values; values are read as YAML. Raises :class:`ConfigError`."""
    values: Values = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(
                f"--set: expected section.field=value, got {assignment!r}. Write for example actors.count=4."
            )
        values = merge(values, nest(key.strip(), yaml.safe_load(text)))
    return values


def nest(dotted: str, value: Any) -> Values:
    """``nest("a.b", 1)`` is ``{"a": {"b": 1}}``."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return dict(value)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """``base`` with the values of ``over`` on top, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def validate(kind: type[ConfigType], values: Values) -> ConfigType:
    """``values`` as a configuration. Raises :class:`ConfigError` that lists every mistake and the nearest names."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(kind, entry["loc"], entry["type"], entry["msg"], entry["input"]) for entry in error.errors()]
        raise ConfigError("configuration:\n" + "\n".join(f"  {line}" for line in lines)) from error


def _explain(kind: type[BaseModel], place: tuple[int | str, ...], code: str, message: str, got: Any) -> str:
    dotted = ".".join(map(str, place))
    if code == "extra_forbidden":
        near = difflib.get_close_matches(dotted, field_names(kind), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(field_names(kind))}."
        return f"{dotted}: no such setting; {hint}"
    if code == "missing":
        return f"{dotted}: expected a value, got none. Give it in the file, with --set {dotted}=… or by its flag."
    return f"{dotted}: {message}, got {got!r}. Correct the value."


def field_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all fields, sections before their fields."""
    names = []
    for name, field in kind.model_fields.items():
        names.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += field_names(field.annotation, f"{prefix}{name}.")
    return names


def flatten(config: BaseModel, *, only_affecting_output: bool = False) -> Values:
    """Dotted key to value, in JSON types, optionally only what decides the output."""
    values: Values = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            below = flatten(value, only_affecting_output=only_affecting_output)
            values.update({f"{name}.{key}": entry for key, entry in below.items()})
            continue
        extra = field.json_schema_extra
        affects = isinstance(extra, dict) and extra.get("affects_output") is True
        if affects or not only_affecting_output:
            values[name] = list(value) if isinstance(value, tuple) else value
    return values
