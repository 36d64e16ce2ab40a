"""The README's picture: drawn to scale, told in words, readable on light and dark pages."""

from __future__ import annotations

from xml.etree import ElementTree

from qrcore.records import RankedDocument, Ranking
from tests.picture import PICTURE, Shown, chosen, draw

SVG = "{http://www.w3.org/2000/svg}"


def ranking(*documents: tuple[str, float, int]) -> Ranking:
    """``(doc_id, score, input_rank)``, best first."""
    ranked = tuple(
        RankedDocument(doc_id=doc_id, rank=rank, score=score, input_rank=was, input_score=None)
        for rank, (doc_id, score, was) in enumerate(documents, start=1)
    )
    return Ranking("q", ranked, 10)


def test_bars_are_to_scale_and_right_answers_marked() -> None:
    one = Shown("<why> & how?", ranking(("a", 0.4, 2), ("b", 0.1, 1), ("c", -0.2, 3)), -0.5, frozenset({"b"}))
    root = ElementTree.fromstring(draw([one]))
    first, second, third = root.iter(f"{SVG}rect")
    assert float(first.get("width", "")) == 4 * float(second.get("width", "")) == 310
    assert float(third.get("width", "")) == 1
    assert [bar.get("class") for bar in (first, second, third)] == ["bar", "hit", "bar"]
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert "<why> & how?" in texts
    assert "right answer from 1 to 2, nDCG@10 −0.50" in texts
    assert "● b" in texts
    assert "−0.20" in texts
    assert "by BM25 3" in (root.findtext(f"{SVG}desc") or "")


def test_nothing_stands_over_another_thing() -> None:
    name = "package.module.Class.a_method_of_a_long_name_" + "x" * 20
    root = ElementTree.fromstring(draw([Shown("q" * 70, ranking((name, 1, 10)), 0.0, frozenset({name}))]))
    query, summary, *_ = texts = list(root.iter(f"{SVG}text"))
    assert float(summary.get("y", "")) - float(query.get("y", "")) > 14
    shown = next(node.text or "" for node in texts if (node.text or "").startswith("●"))
    assert len(shown) == 46 and shown.endswith("…") and name.startswith(shown[2:-1])
    assert name in (root.findtext(f"{SVG}desc") or "")


def test_the_largest_gain_the_middle_and_the_largest_loss_are_chosen() -> None:
    ranked = {
        "gain": ranking(("right", 3, 3), ("x", 2, 1), ("y", 1, 2)),
        "same": ranking(("x", 3, 1), ("right", 2, 2), ("y", 1, 3)),
        "loss": ranking(("x", 3, 2), ("y", 2, 3), ("right", 1, 1)),
    }
    qrels = {name: {"right": 1} for name in ranked} | {"unranked": {"right": 1}}
    found = chosen(dict.fromkeys(ranked, "?"), ranked, qrels)
    assert [one.gain > 0 for one in found] == [True, False, False]
    assert [round(one.gain, 3) for one in found][1] == 0
    assert found[2].gain == -found[0].gain
    assert found[0].ranking is ranked["gain"]


def test_the_picture_of_the_readme_has_both_schemes_and_asks_for_nothing() -> None:
    text = PICTURE.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert len(list(root.iter(f"{SVG}rect"))) == 15
    assert "href" not in text and "url(" not in text and "<script" not in text
