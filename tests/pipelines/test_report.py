"""The report's records, its charts' geometry and its escaping; `test_report_browser` opens the page in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from pipelines.report import RunReport, charts, render_report
from pipelines.report.html import verdict
from pipelines.report.model import Measure, Unit
from pipelines.report.pace_charts import rates_over_time
from pipelines.report.words import duration
from tests.pipelines.report_samples import NASTY, SAMPLES, START, awkward, plain, unit


def page_of(sample: dict[str, Any]) -> str:
    return render_report(RunReport.model_validate(sample))


class Page(HTMLParser):
    """Tags, attributes and text as a browser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def shapes(svg: str, tag: str, kind: str) -> list[ElementTree.Element]:
    return [node for node in ElementTree.fromstring(svg).iter(tag) if kind in node.get("class", "").split()]


def number(node: ElementTree.Element, name: str) -> float:
    return float(node.get(name, "nan").rstrip("%"))


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_json_keeps_every_name_and_value(sample: Callable[[], dict[str, Any]]) -> None:
    report = RunReport.model_validate(sample())
    assert RunReport.model_validate_json(report.model_dump_json()) == report
    written = json.loads(report.model_dump_json())
    assert written["schema_version"] == "1.2"
    assert kept(sample() | {"units": []}, written | {"units": []})
    assert [one["unit_id"] for one in written["units"]] == [one["unit_id"] for one in sample()["units"]]


def kept(given: Any, written: Any) -> bool:
    """Whether everything that was given stands there; fields that it did not have yet may stand beside."""
    if isinstance(given, dict):
        return all(name in written and kept(value, written[name]) for name, value in given.items())
    if isinstance(given, list):
        return len(given) == len(written) and all(map(kept, given, written))
    return bool(given == written)


def test_a_price_names_its_rates() -> None:
    sample = awkward()
    assert "38.51 EUR at 0.04 EUR a CPU-hour and 2.50 EUR a GPU-hour" in page_of(sample)
    sample["cost"] |= {"cpu_hour_rate": None, "gpu_hour_rate": None, "total": None}
    assert "— (set cost.cpu_hour or cost.gpu_hour)" in page_of(sample)


def test_every_field_is_documented() -> None:
    schema = RunReport.model_json_schema()
    for record in [schema, *schema["$defs"].values()]:
        undescribed = [name for name, field in record.get("properties", {}).items() if not field.get("description")]
        assert not undescribed, (record["title"], undescribed)


def test_records_refuse_what_does_not_add_up() -> None:
    def refused(path: str, value: object) -> bool:
        sample = awkward()
        *parents, last = path.split(".")
        place = sample
        for name in parents:
            place = place[name]
        place[last] = value
        try:
            RunReport.model_validate(sample)
        except ValidationError:
            return True
        return False

    assert not refused("result.failed", 17)
    assert refused("result.scored", 11_984)
    assert refused("errors", [])
    assert refused("movement.depth", 19)
    assert refused("distributions.candidates.edges", [1.0])
    assert refused("distributions.candidates.edges", [12.5, 11.5])
    assert refused("distributions.candidates.p50", float("inf"))
    assert refused("run.started_at", "2026-10-03T22:00:00")
    assert refused("run.unknown", 1)


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_page_is_inert_and_self_contained(sample: Callable[[], dict[str, Any]]) -> None:
    page = Page(page_of(sample()))
    assert {"script", "img", "iframe", "object", "base", "form"}.isdisjoint(tag for tag, _ in page.tags)
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name in {"src", "srcset", "xlink:href"} for name in attributes), tag
        assert attributes.get("href", "data:,") == "data:,"
    assert "url(" not in page_of(sample()) and "@import" not in page_of(sample())


def test_hostile_text_is_shown_as_it_is() -> None:
    page = Page(page_of(awkward()))
    shown = [text for text in page.texts if NASTY in text]
    # Skipped file, configuration, 15 error codes with an id and a message each, three queries with id and list, actors.
    assert len(shown) > 40
    assert f"not Parquet {NASTY}" in page.text


def test_headline_and_sections_follow_the_run() -> None:
    text = Page(page_of(awkward())).text
    assert "12,000 rows in = 11,983 scored + 17 failed" in text
    assert "0.612 → 0.781" in text and "3 of the scored queries equal the null query" in text
    assert "0.612 0.781 higher +0.169 +0.151 to +0.188 0.790" in text and "not distinguishable +0.004" in text
    assert "lower -0.022 -0.040 to -0.003" in text.replace("\N{MINUS SIGN}", "-") and "— 0.700 no interval — —" in text
    assert re.search(r"some_rather_long_error_code_0 input 3 rows", text)
    bare = Page(page_of(plain())).text
    assert "40 rows in = 40 scored + 0 failed" in bare and "None: every row was scored." in bare
    assert not any(heading in bare for heading in ("Quality", "Before and after", "Rank movement"))


def test_tone_of_the_headline() -> None:
    def pill(sample: dict[str, Any]) -> str:
        return next(
            str(attrs["class"]) for tag, attrs in Page(page_of(sample)).tags if "pill" in (attrs.get("class") or "")
        )

    stopped = plain()
    stopped["run"]["status"] = "interrupted"
    assert [pill(sample) for sample in (plain(), awkward(), stopped)] == ["pill good", "pill warn", "pill bad"]


def test_examples_say_where_a_document_was() -> None:
    sample = plain()
    first = [{"doc_id": name, "relevant": name == "c"} for name in "abc"]
    sample["examples"] = [
        {"query_id": "q", "query": "why", "first_stage": first, "reranked": [first[2], first[1], first[0]]}
    ]
    text = Page(page_of(sample)).text
    assert re.search(r"was 1 ○ a ● c 3 2 ○ b ○ b = 3 ● c ○ a 1", text)
    sample["examples"][0]["first_stage"] = first[:1]
    assert re.search(r"was 1 ○ a ● c >1 2 ○ b >1 3 ○ a 1", Page(page_of(sample)).text)
    sample["examples"][0]["first_stage"] = []
    assert re.search(r"re-ranked 1 ● c 2 ○ b 3 ○ a", Page(page_of(sample)).text)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(0.1, 0.2, "higher"), (-0.2, -0.1, "lower"), (-0.1, 0.1, "not distinguishable"), (0.0, 0.1, "not distinguishable"),
     (-0.1, 0.0, "not distinguishable"), (None, None, "no interval")],
)  # fmt: skip
def test_verdict(low: float | None, high: float | None, word: str) -> None:
    assert (
        verdict(Measure(name="m", first_stage=0.1, reranked=0.2, fused=None, difference=0.1, low=low, high=high))
        == word
    )


def test_numbers_for_people() -> None:
    assert [charts.short(value) for value in (0.25, 12.34, 950, 1559.5, 12_340, 1_500_000)] == [
        "0.25", "12.3", "950", "1,560", "12.34k", "1.5M",
    ]  # fmt: skip
    assert [duration(value) for value in (0.42, 43.1, 750, 4405, 11_100)] == [
        "0.42 s",
        "43.1 s",
        "12m 30s",
        "1h 13m",
        "3h 05m",
    ]
    assert charts.ticks(0, 97, 5) == [0, 20, 40, 60, 80]
    assert charts.ticks(0.11, 0.29, 4) == [0.15, 0.2, 0.25]
    assert charts.ticks(7, 7) == [7]


def test_histogram_geometry() -> None:
    svg = charts.histogram("Tokens", [20, 30, 40, 60], [4, 0, 8], {"median": 50.0}, "prompt tokens")
    small, tall = shapes(svg, "rect", "bar")
    assert (number(small, "x"), number(small, "width"), number(tall, "x"), number(tall, "width")) == (0, 25, 50, 50)
    assert number(tall, "height") == 2 * number(small, "height")
    assert number(tall, "y") + number(tall, "height") == number(small, "y") + number(small, "height")
    assert number(shapes(svg, "line", "mark")[0], "x1") == 75
    assert [node.text for node in shapes(svg, "text", "axis-title")] == ["prompt tokens", "queries"]


def test_bars_are_proportional_to_their_values() -> None:
    svg = charts.bars("Stages", [charts.Bar("read", 1, "1 s"), charts.Bar("score", 4, "4 s")], "seconds")
    read, score = shapes(svg, "rect", "bar")
    assert number(score, "width") == 4 * number(read, "width") and number(score, "x") == 0
    assert [node.text for node in shapes(svg, "text", "value")] == ["1 s", "4 s"]


def test_timeline_puts_units_in_their_actors_lane() -> None:
    spans = [
        charts.Span("a", 0, 4, "u0", False),
        charts.Span("b", 1, 4, "u1", True),
        charts.Span("a", 4, 10, "u2", False),
    ]
    bars = shapes(charts.timeline("Units", spans), "rect", "bar")
    assert [(number(bar, "x"), number(bar, "width")) for bar in bars] == [(0, 40), (10, 30), (40, 60)]
    assert bars[0].get("y") == bars[2].get("y") != bars[1].get("y")
    assert ["failed" in str(bar.get("class")) for bar in bars] == [False, True, False]
    minutes = charts.timeline("Units", [charts.Span("a", 0, 300, "u", False)])
    assert [node.text for node in shapes(minutes, "text", "tick")] == ["0", "1", "2", "3", "4", "5"]
    assert "minutes since" in minutes


def timed(start_s: float, stop_s: float, tokens: int) -> Unit:
    moments = {"started_at": START + timedelta(seconds=start_s), "finished_at": START + timedelta(seconds=stop_s)}
    return Unit.model_validate(unit(0, 1) | moments | {"prompt_tokens": tokens, "rows": 2})


def test_throughput_spreads_the_work_of_units_over_their_time() -> None:
    units = [timed(0, 30, 300), timed(15, 60, 900), timed(60, 60, 50)]
    rates, seconds = rates_over_time(units, in_tokens=True)
    assert (seconds, len(rates)) == (60, 60)
    assert rates[:15] == pytest.approx([10] * 15)
    assert rates[15:30] == pytest.approx([30] * 15)
    assert rates[30:59] == pytest.approx([20] * 29)
    assert rates[59] == pytest.approx(70)  # with the unit that took no time
    assert sum(rates) == pytest.approx(1250)
    rows, _ = rates_over_time(units, in_tokens=False)
    assert sum(rows) == pytest.approx(6)
    assert sum(rates_over_time([timed(0, 0, 7)], in_tokens=True)[0]) > 0


def test_throughput_is_drawn_to_scale_with_its_mean() -> None:
    svg = charts.over_time("Throughput", [10, 0, 40, 20], 240, 20, "tokens/s")
    first, third, last = shapes(svg, "rect", "bar")
    assert [number(bar, "x") for bar in (first, third, last)] == [0, 50, 75]
    assert number(third, "height") == 2 * number(last, "height") == 4 * number(first, "height")
    (mean,) = shapes(svg, "line", "mark")
    assert number(mean, "y1") == number(last, "y")
    assert [node.text for node in shapes(svg, "text", "axis-title")] == [
        "minutes since the first unit started", "tokens/s",
    ]  # fmt: skip
    assert "Columns of tokens/s over 4 minutes: from 0 to 40, mean 20." in svg


def test_what_a_reader_must_know_of_waiting_and_of_the_clock_is_said() -> None:
    page = Page(page_of(awkward())).text
    assert "a unit waited 20.6 s in the middle, 41.0 s at most, 31.0 s all units together" in page
    assert "the actors were at work in 93 % of the 4.40 s in which units were scored, and idle in the rest" in page
    assert "Horizontal bars of seconds: read 0.20 s; tokenise 1.00 s; score 3.20 s; write 0.10 s." in page
    assert "Horizontal bars of seconds: start 38.5 s; scoring 4.40 s; commit 2.25 s." in page
    assert "tokenise" not in Page(page_of(plain())).text  # of an older report
    assert "Waiting" not in Page(page_of(plain())).text


def test_recall_of_ten_stands_beside_ndcg_and_is_explained_where_lists_are_short() -> None:
    sample = awkward()
    assert "nDCG@10 0.612 → 0.781 recall@10 0.810 → 0.860" in Page(page_of(sample)).text
    assert "cannot change" not in page_of(sample)
    sample["distributions"]["candidates"] |= {"max": 10}
    assert "Lists have at most ten candidates here: recall@10 is that of the first stage" in page_of(sample)


def test_heat_map_shows_shares_of_each_input_rank() -> None:
    svg = charts.heat_map("Moves", [[3, 1], [0, 4]])
    cells = [(number(cell, "x"), float(cell.get("fill-opacity", "1"))) for cell in shapes(svg, "rect", "cell")][:3]
    assert cells == [(0, 0.75), (50, 0.25), (50, 1)]
    assert [node.text for node in shapes(svg, "text", "in")] == ["75", "25", "100"]
    deep = charts.heat_map("Moves", [[1] * 90 for _ in range(90)])
    assert "input rank 1\N{EN DASH}3 to new rank 88\N{EN DASH}90: 9 (3%)" in deep


def test_charts_escape_their_labels() -> None:
    bar = charts.bars(NASTY, [charts.Bar(NASTY, 1, "1 s")], NASTY)
    assert [shapes(bar, "text", kind)[0].text for kind in ("label", "axis-title")] == [NASTY, NASTY]
    assert ElementTree.fromstring(bar).get("aria-label", "").startswith(NASTY)
    line = charts.timeline("Units", [charts.Span(NASTY, 0, 1, NASTY, False)])
    assert shapes(line, "text", "label")[0].text == NASTY
    assert shapes(line, "rect", "bar")[0].findtext("title") == NASTY


def test_charts_have_words_for_those_who_do_not_see_them() -> None:
    page = Page(page_of(awkward()))
    drawn = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawn) == 9
    for attributes in drawn:
        assert attributes["role"] == "img" and len(str(attributes["aria-label"])) > 40
    assert "Timeline of 300 units on 12 actors" in page.text
