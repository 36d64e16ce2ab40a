"""Head sets on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from jobs.console import show_line

if TYPE_CHECKING:
    from jobs.detect import Detected
    from jobs.heads import Fit
    from qrcore.heads import Head, HeadSet, HeadSetComparison

_NOT_RECORDED = "–"


def show_head_sets(console: Console, head_sets: Iterable[HeadSet]) -> None:
    """A table, one line a set."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for name in ("name", "method"):
        table.add_column(name, no_wrap=True)
    for name in ("heads", "layers run"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in head_sets:
        layers = f"{one.depth} of {one.shape.layers}" if one.shape else str(one.depth)
        table.add_row(one.name, one.method or _NOT_RECORDED, str(len(one.heads)), layers)
    console.print(table)
    show_line(console, ("qrbatch heads show NAME tells the model, the data and the source of one.", "dim"))


def show_fit(console: Console, fit: Fit) -> None:
    """That a set fits, what it needs, and what is not known."""
    above = fit.layers - fit.depth
    show_line(console, ("fits", "bold green"), f"  {fit.head_set.name} fits {fit.model}")
    show_line(console, f"  layers    {fit.depth} of {fit.layers} are run, {above} above need not be loaded")
    show_line(console, f"  heads     {len(fit.head_set.heads)}, which read {fit.kv_heads} key-value heads")
    show_line(console, f"  by layer  {_by_layer(fit.head_set.head_list)}")
    for warning in fit.warnings:
        show_line(console, ("warning", "yellow"), f"  {warning}")


def show_comparison(console: Console, first: HeadSet, second: HeadSet, found: HeadSetComparison) -> None:
    """What two sets share, and where they differ."""
    show_line(
        console,
        ("shared", "bold"),
        f"  {len(found.both)} heads (Jaccard {found.jaccard:.2f}): {_listed(found.both)}",
    )
    for head_set, alone in ((first, found.only_first), (second, found.only_second)):
        show_line(console, (head_set.name, "bold"), f"  {len(head_set.heads)} heads, {head_set.depth} layers are run")
        show_line(console, f"  alone     {len(alone)}: {_listed(alone)}")
        show_line(console, f"  by layer  {_by_layer(head_set.head_list)}")


def show_detected(console: Console, detected: Detected) -> None:
    """The chosen heads with their scores, what they were compared with, and what to beware of."""
    heads, findings, proof = detected.head_set, detected.findings, detected.proof
    used = findings["examples"]["used"]
    show_line(console, (heads.id, "bold"), f"  {len(heads.heads)} heads by {heads.method} on {used} examples")
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    table.add_column("head", no_wrap=True)
    for name in ("score", "95 % interval", "kept in halves"):
        table.add_column(name, justify="right", no_wrap=True)
    stable = findings["methods"][heads.method]["stability"]
    for head, score, (low, high) in zip(heads.heads, heads.scores or (), heads.intervals or (), strict=True):
        kept = f"{stable['kept'][head]:.0%}" if stable else _NOT_RECORDED
        table.add_row(head, f"{score:.4f}", f"[{low:.4f}, {high:.4f}]", kept)
    console.print(table)
    _show_proof(console, proof)
    for warning in findings["warnings"]:
        show_line(console, ("warning", "yellow"), f"  {warning}")


def _show_proof(console: Console, proof: dict[str, Any]) -> None:
    if proof["queries"]:
        _show_rivals(console, proof)
    elif not proof["causal"]:
        show_line(
            console, ("warning", "yellow"), "  no other query with a relevant candidate: nothing proves the choice"
        )
    _show_causal(console, proof["causal"])


def _show_rivals(console: Console, proof: dict[str, Any]) -> None:
    seen = "the same queries, which prove little" if proof["seen_by_the_choice"] else "other queries"
    show_line(console, f"on {proof['queries']} {seen}, documents {proof['order'].replace('_', ' ')}")
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    table.add_column("heads", no_wrap=True)
    for name in ("nDCG@10", "chosen - it (95 %)", ""):
        # Names of sets may be long; what is said of them must not be cut for them.
        table.add_column(
            name, justify="right" if name else "left", no_wrap=True, min_width=19 if not name else len(name)
        )
    for one in proof["sets"]:
        minus = one["chosen_minus"]
        difference = f"{minus['mean']:+.3f} [{minus['low']:+.3f}, {minus['high']:+.3f}]"
        own = one["name"] == proof["sets"][0]["name"]
        table.add_row(
            one["name"], f"{one['ndcg_10']['mean']:.3f}", "" if own else difference, "" if own else _verdict(minus)
        )
    console.print(table)


def _show_causal(console: Console, causal: dict[str, Any] | None) -> None:
    if causal is None:
        return
    for kind, said in (("copied", "needle tokens right"), ("answered", "documents named right")):
        if causal[kind]:
            drop = causal[kind]["drop"]
            show_line(
                console,
                f"{said}: intact {causal['intact'][kind]['mean']:.3f}, chosen held back "
                f"{causal['chosen'][kind]['mean']:.3f}, beyond {len(causal['controls'])} control sets "
                f"{drop['mean']:+.3f} [{drop['low']:+.3f}, {drop['high']:+.3f}], more than "
                f"{causal[kind]['percentile']:.0%} of them ({causal['trials']} trials)",
            )


def _verdict(difference: dict[str, float]) -> str:
    if difference["low"] > 0:
        return "above it"
    return "below it" if difference["high"] < 0 else "not distinguishable"


def _listed(heads: Sequence[Head]) -> str:
    return ", ".join(map(str, heads)) or "none"


def _by_layer(heads: Sequence[Head]) -> str:
    counts = Counter(head.layer for head in heads)
    return ", ".join(f"{layer}: {counts[layer]}" for layer in sorted(counts))
