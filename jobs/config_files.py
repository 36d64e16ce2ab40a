"""``qrbatch config``: a commented example, the resolved configuration with its origins, and a JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.settings import Section, Values, expand, flatten, leaves, lookup, merge, section_of, validate

#: What an example says where a value must be given; with a job before the name, in that job's.
_EXAMPLES: Final = {
    "input.uris": ["s3://my-bucket/shards"],
    "input.texts": ["s3://my-bucket/texts"],
    "runs": ["s3://my-bucket/runs/nightly-1a2b3c4d5e6f"],
    "recipe": "documents",
    "output.uri": "s3://my-bucket/runs",
    "output": "my-retriever",
    "qrels": "s3://my-bucket/qrels.parquet",
    "evaluate output": "s3://my-bucket/measured",
    "compare output": "s3://my-bucket/compared",
    "compare runs": ["s3://my-bucket/runs/nightly-1a2b3c4d5e6f", "s3://my-bucket/runs/nightly-6f5e4d3c2b1a"],
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A setting as a run would have it, and where the value comes from."""

    name: str
    value: Any
    origin: str


def resolve(
    kind: type[Section], sources: Sequence[tuple[str, Values]], environment: Mapping[str, str]
) -> list[Resolved]:
    """Every setting after merging ``sources`` (origin, values), the later ones on top. Raises :class:`ConfigError`."""
    merged: Values = {}
    for _, values in sources:
        merged = merge(merged, values)
    expanded = expand(kind, merged, environment)
    config = flatten(validate(kind, merged, environment))
    found = []
    for name, value in config.items():
        origin = next((label for label, values in reversed(sources) if lookup(values, name) is not None), "default")
        if lookup(expanded, name) != lookup(merged, name):
            origin += ", environment"
        found.append(Resolved(name, value, origin))
    return found


def shown(settings: Sequence[Resolved]) -> str:
    """Settings as YAML, which is itself a configuration, with the origin of each value as a comment."""
    lines: list[str] = []
    section: list[str] = []
    width = max(len(_line(one)) for one in settings)
    for one in settings:
        *above, _ = one.name.split(".")
        if above != section and above:
            lines.append(f"{'  ' * (len(above) - 1)}{above[-1]}:")
        section = above
        lines.append(f"{_line(one):{min(width, 60)}}  # {one.origin}")
    return "\n".join(lines)


def _line(one: Resolved) -> str:
    *above, name = one.name.split(".")
    return f"{'  ' * len(above)}{name}: {_yaml(one.value)}"


def example(job: str, kind: type[Section]) -> str:
    """A configuration to begin with: what must be given is filled in, everything else stands there as a comment with
    its default."""
    head = [f"# Configuration of qrbatch {job}. Lines that begin with # show the defaults.", ""]
    return "\n".join([*head, *_section(job, kind, (), {})]) + "\n"


def _section(job: str, kind: type[BaseModel], above: tuple[str, ...], defaults: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    # Values first: below a section they would be read as its own.
    fields = sorted(kind.model_fields.items(), key=lambda item: section_of(item[1]) is not None)
    for name, field in fields:
        place, indent = (*above, name), "  " * len(above)
        below = section_of(field)
        if below is None:
            lines += [f"{indent}{line}" for line in _field(job, ".".join(place), name, field, defaults)]
            continue
        given = any(inner.is_required() for inner in leaves(below).values())
        if not above:
            lines.append("")
        lines.append(f"{indent}# {(below.__doc__ or '').strip().splitlines()[0]}")
        lines.append(f"{indent}{'' if given else '# '}{name}:")
        default = field.default if isinstance(field.default, BaseModel) else None
        inner_lines = _section(job, below, place, default.model_dump() if default else {})
        lines += inner_lines
    return lines


def _field(job: str, dotted: str, name: str, field: FieldInfo, defaults: Mapping[str, Any]) -> list[str]:
    comment = f"# {field.description}"
    if field.is_required():
        value = _EXAMPLES.get(f"{job} {dotted}", _EXAMPLES.get(dotted, "…"))
        return [comment, f"{name}: {_yaml(value)}"]
    default = defaults.get(name, field.get_default(call_default_factory=True))
    return [comment, f"# {name}: {_yaml(list(default) if isinstance(default, tuple) else default)}"]


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def schema(job: str, kind: type[Section]) -> str:
    """The JSON Schema of a job's configuration, for editors."""
    described = {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema()}
    return json.dumps({**described, "title": f"qrbatch {job}"}, indent=1, ensure_ascii=False)
