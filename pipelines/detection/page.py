"""Pages of what finding and proving heads has told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from markupsafe import Markup

from pipelines.detection.pictures import Dot, head_map, masked_sets, score_curve, trade_off
from pipelines.detection.rivals import ANY_DEPTH, CHOSEN
from pipelines.report.charts import Bar, bars
from pipelines.report.html import page_environment
from pipelines.report.pace_charts import charts_of
from pipelines.report.parts import CommonReport
from qrcore.heads import Head, HeadSet, kv_heads, parse_head


@dataclass(frozen=True, slots=True)
class RunLine:
    """Which run a page tells of."""

    run_id: str
    job: str
    name: str
    output: str
    prompt_tokens: int


def detection_page(report: Mapping[str, Any], heads: HeadSet, run: RunLine, common: CommonReport | None = None) -> str:
    """The page of a found head set; ``report`` as :func:`pipelines.detection.report.detection_report` gives it,
    ``common``: what every report says."""
    if heads.shape is None:
        raise ValueError("a head set that was found has the shape of its model")
    chosen = report["methods"][heads.method]
    scores = {parse_head(head): values for head, values in chosen["scores"].items()}
    shape = heads.shape
    grid = [[scores[Head(layer, head)][0] for head in range(shape.query_heads)] for layer in range(shape.layers)]
    dots = [Dot(str(head), one[0], one[2], one[3], head in heads.head_list) for head, one in scores.items()]
    charts = {"map": head_map(grid, heads.head_list), "curve": score_curve(dots)}
    if chosen["stability"]:
        kept = [
            Bar(head, 100 * chosen["stability"]["kept"][head], f"{chosen['stability']['kept'][head]:.0%}")
            for head in heads.heads
        ]
        charts["stability"] = bars("How often a half chooses each head", kept, "% of halves")
    return (
        page_environment()
        .get_template("detection.html.j2")
        .render(
            report=report,
            heads={"id": heads.id, **heads.model_dump(mode="json")},
            run=asdict(run),
            chosen=chosen,
            charts=charts | charts_of(common),
            common=common,
            depth=heads.depth,
            kv_heads=len(kv_heads(heads.head_list, shape)),
        )
    )


def proof_page(report: Mapping[str, Any], run: RunLine, common: CommonReport | None = None) -> str:
    """The page of a proof; ``report`` as :func:`pipelines.prove.proof_report` gives it, ``common`` how the run went."""
    charts = _costs(report) | _losses(report["causal"]) | charts_of(common)
    template = page_environment().get_template("proof.html.j2")
    return template.render(report=report, run=asdict(run), charts=charts, common=common)


def _losses(causal: Mapping[str, Any] | None) -> dict[str, Markup]:
    """What the model says with heads held back, if it was asked."""
    charts = {}
    for kind, axis in (("copied", "tokens copied"), ("answered", "documents named")):
        if causal and causal[kind]:
            named = [
                _accuracy_dot("intact", causal["intact"][kind], marked=False),
                _accuracy_dot("chosen held back", causal["chosen"][kind], marked=True),
            ]
            controls = [_accuracy_dot(", ".join(one["heads"]), one[kind], marked=False) for one in causal["controls"]]
            charts[kind] = masked_sets(named, controls, axis)
    return charts


def _accuracy_dot(label: str, value: Mapping[str, float], *, marked: bool) -> Dot:
    return Dot(label, value["mean"], value["low"], value["high"], marked)


def _costs(report: Mapping[str, Any]) -> dict[str, Markup]:
    """What depth and number cost, where more than the choice itself was measured."""
    depths, numbers = [], []
    for one in report["sets"]:
        value = one["ndcg_10"]
        dot = Dot(one["name"], value["mean"], value["low"], value["high"], one["name"] == CHOSEN)
        if one["name"] in (CHOSEN, ANY_DEPTH) or one["name"].startswith("up-to-layer-"):
            depths.append((float(one["layers"]), dot))
        if one["name"] == CHOSEN or one["name"].startswith("top-"):
            numbers.append((float(len(one["heads"])), dot))
    charts = {}
    if len(depths) > 1:
        charts["depth"] = trade_off("Quality against depth", "layers that are run", depths)
    if len(numbers) > 1:
        charts["number"] = trade_off("Quality against the number of heads", "heads", numbers)
    return charts
