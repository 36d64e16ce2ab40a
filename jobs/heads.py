"""``qrbatch heads``: what head sets there are, and whether one fits a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qrcore.heads import HeadSet, HeadSetComparison


@dataclass(frozen=True, slots=True)
class Fit:
    """A head set against a model that it fits: ``depth`` of ``layers`` layers are run, ``kv_heads`` are read."""

    head_set: HeadSet
    model: str
    depth: int
    layers: int
    kv_heads: int
    warnings: tuple[str, ...]


def every_head_set() -> list[HeadSet]:
    """The sets that ship with the package: published ones, then those of the models in it."""
    from qrcore.heads import load_head_set, published_names
    from qrcore.models import open_model
    from qrcore.shipped import EMBEDDED_MODELS, embedded_folder

    own = [open_model(name).head_set for name in EMBEDDED_MODELS if embedded_folder(name).is_dir()]
    return [*map(load_head_set, published_names()), *(one for one in own if one)]


def find_head_set(name_or_file: str) -> HeadSet:
    """A head set by name, or from a JSON file. Raises errors of :mod:`qrcore.errors`."""
    from qrcore.heads import load_head_set

    return next((one for one in every_head_set() if one.name == name_or_file), None) or load_head_set(name_or_file)


def head_set_of(text: str) -> HeadSet:
    """The same, or a list such as ``3-1,4-0``."""
    from qrcore.heads import head_set_from_list, is_head_list

    return head_set_from_list(text) if is_head_list(text) else find_head_set(text)


def fit(name_or_file: str, model: str, revision: str | None, *, allow_mismatch: bool) -> Fit:
    """Check a head set against a model; no weights are loaded. Raises :class:`HeadSetError` if it does not fit."""
    from qrcore.heads import kv_heads
    from qrcore.matching import check_origin
    from qrcore.models import open_model

    source, head_set = open_model(model, revision), find_head_set(name_or_file)
    head_set.check_fits(source.shape)
    warnings = check_origin(head_set, source, "warn" if allow_mismatch else "refuse")
    read = len(kv_heads(head_set.head_list, source.shape))
    return Fit(head_set, model, head_set.depth, source.shape.layers, read, warnings)


def compare(first: str, second: str) -> tuple[HeadSet, HeadSet, HeadSetComparison]:
    """Two head sets and what they share. Raises :class:`HeadSetError` for an unknown one."""
    from qrcore.heads import compare_head_sets

    one, other = find_head_set(first), find_head_set(second)
    return one, other, compare_head_sets(one, other)
