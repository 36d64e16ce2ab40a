"""Building blocks of configurations: marked fields, merging of sources, and messages for mistakes."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from qrcore.errors import ConfigError

Values = dict[str, Any]
ConfigType = TypeVar("ConfigType", bound=BaseModel)
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Section(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def setting(
    default: Any,
    description: str,
    *,
    affects_output: bool,
    flag: str = "",
    expected: str = "",
    uri: bool = False,
    **limits: Any,
) -> Any:
    """A documented field. ``affects_output``: whether another value can change what a run writes, which makes it
    part of the run's identity. ``flag``: its own option of the command line; ``expected``: what to say of a wrong
    value where pydantic's words would not help; ``uri``: an address, in which ``${NAME}`` stands for a variable of the
    environment."""
    facts: JsonDict = {"affects_output": affects_output, "flag": flag, "expected": expected, "uri": uri}
    return Field(default, description=description, json_schema_extra=facts, **limits)


def run_name(default: str, what: str = "Name of the run") -> Any:
    """The field ``name`` of a job with runs, which is a part of their folders' names."""
    return setting(
        default,
        f"{what}: a-z, 0-9, '.', '_', '-'.",
        affects_output=False,
        flag="--name",
        expected="1 to 64 characters of a-z, 0-9, '.', '_' and '-'",
        pattern=r"^[a-z0-9._-]{1,64}$",
    )


class _Loader(yaml.SafeLoader):
    """YAML 1.2 knows true and false only; in 1.1, which PyYAML reads, yes and no are the same, even as names."""


_BOOLEAN: Final = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != _BOOLEAN]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOLEAN, re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def parse_yaml(text: str) -> Any:
    """A YAML document as plain values, in which only true and false are booleans."""
    return yaml.load(text, Loader=_Loader)


def read_config_file(path: str) -> Values:
    """A YAML file as nested values. Raises :class:`ConfigError`."""
    try:
        loaded = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config {path}: expected a readable file; {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {path}: expected YAML in UTF-8, got other bytes. Give a text file.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
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
        values = merge(values, nest(key.strip(), _read_yaml(key.strip(), text)))
    return values


def _read_yaml(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(
            f"--set {key}: expected a YAML value, got {text!r}. Close its brackets and quotes, or put it in quotes."
        ) from error


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


def expand(kind: type[BaseModel], values: Values, environment: Mapping[str, str]) -> Values:
    """``values`` with ``${NAME}`` replaced in URIs and endpoints, and nowhere else: a query may hold such text.

    Raises :class:`ConfigError` for a variable that is not set.
    """
    for name, field in leaves(kind).items():
        found = lookup(values, name)
        if fact(field, "uri") and found is not None:
            values = merge(values, nest(name, _expanded(name, found, environment)))
    return values


def lookup(values: Mapping[str, Any], dotted: str) -> Any:
    """The value at a dotted name, None if there is none."""
    found: Any = values
    for part in dotted.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _expanded(name: str, value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_expanded(name, one, environment) for one in value]
    if not isinstance(value, str):
        return value

    def of(variable: re.Match[str]) -> str:
        if variable[1] not in environment:
            raise ConfigError(
                f"{name}: expected the environment to have {variable[1]}, which {value!r} names; it is not set. "
                f"Set {variable[1]}, or write the address out."
            )
        return environment[variable[1]]

    return _VARIABLE.sub(of, value)


def validate(kind: type[ConfigType], values: Values, environment: Mapping[str, str] | None = None) -> ConfigType:
    """``values`` as a configuration, with variables of the environment in its addresses; by default of this process.

    Raises :class:`ConfigError` that lists every mistake and the nearest names.
    """
    values = expand(kind, values, os.environ if environment is None else environment)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines: dict[str, str] = {}
        for entry in error.errors():
            for name, line in _explain(kind, entry["loc"], entry["type"], entry["msg"], entry["input"]).items():
                lines.setdefault(name, line)  # a wrong value of a field of several types is one error a type
        raise ConfigError("configuration:\n" + "\n".join(f"  {line}" for line in lines.values())) from error


def _explain(kind: type[BaseModel], place: tuple[int | str, ...], code: str, message: str, got: Any) -> Values:
    dotted = ".".join(map(str, place))
    known = leaves(kind)
    if code == "extra_forbidden":
        near = difflib.get_close_matches(dotted, field_names(kind), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(field_names(kind))}."
        return {dotted: f"{dotted}: no such setting; {hint}"}
    if code == "credentials":  # what came is not repeated
        return {dotted: f"{dotted}: {message}. Put credentials into the environment."}
    if code == "missing":
        below = {name: field for name, field in known.items() if f"{name}.".startswith(f"{dotted}.")}
        return {name: _missing(name, field) for name, field in below.items() if field.is_required()}
    for name, field in known.items():
        if f"{dotted}.".startswith(f"{name}.") and (expected := fact(field, "expected")):
            return {name: f"{name}: expected {expected}, got {got!r}. Correct the value."}
    return {dotted: f"{dotted}: {message}, got {got!r}. Correct the value."}


def _missing(name: str, field: FieldInfo) -> str:
    way = fact(field, "flag") or f"--set {name}=…"
    return f"{name}: expected a value, got none. Give it with {way} or in the file."


def fact(field: FieldInfo, name: str) -> Any:
    """What :func:`setting` was told of a field."""
    extra = field.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that stands in a field, None for a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def leaves(kind: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Fields that hold a value of their own, by dotted name."""
    found = {}
    for name, field in kind.model_fields.items():
        below = section_of(field)
        found.update(leaves(below, f"{prefix}{name}.") if below else {prefix + name: field})
    return found


def field_names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all fields, sections before their fields."""
    names = []
    for name, field in kind.model_fields.items():
        names.append(prefix + name)
        if below := section_of(field):
            names += field_names(below, f"{prefix}{name}.")
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
        if fact(field, "affects_output") is True or not only_affecting_output:
            values[name] = list(value) if isinstance(value, tuple) else value
    return values
