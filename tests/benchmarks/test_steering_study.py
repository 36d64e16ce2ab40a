"""The study of steered answers: its tables, by hand, from reports of the jobs as they are."""

from __future__ import annotations

from tests.benchmarks.steering_study import cafe_table, contrast_table, flips_table


def _mean(value: float) -> dict[str, float]:
    return {"mean": value, "low": value - 0.1, "high": value + 0.1, "n": 7}


def test_cafe_stands_beside_its_baselines_with_what_it_gains_on_them() -> None:
    measures = {"sub_em": _mean(0.5), "token_f1": _mean(0.25)}
    variants = [
        {"name": "cafe", "measures": measures, "shown_recall": _mean(0.75), "behind": {}},
        {"name": "full", "measures": measures, "shown_recall": None, "behind": {"sub_em": _mean(-0.2)}},
    ]
    first, second = cafe_table({"m": {"variants": variants}}).splitlines()[2:]
    assert first == "| m | cafe | 7 | 0.500 [0.400, 0.600] | 0.250 [0.150, 0.350] | 0.750 |  |"
    assert second.endswith("|  | -0.200 [-0.300, -0.100] |")


def test_contrast_stands_beside_its_control_sets() -> None:
    report = {
        "changed": {"share": 0.125, "control_shares": (0.25, 0.0625)},
        "result": {"changed": 3, "scored": 9},
        "ways": [
            {"name": "plain", "measures": {"sub_em": _mean(0.5)}, "gain": {"sub_em": _mean(0.05)}},
            {"name": "contrast", "measures": {"sub_em": _mean(0.55)}, "gain": None},
        ],
        "tuning": {"faithful_support": _mean(0.9), "masked_support": _mean(0.8)},
    }
    (line,) = contrast_table({"m": report}).splitlines()[2:]
    assert line.startswith("| m | 0.125 | 0.062 to 0.250 | 3 of 9 | 0.500 [0.400, 0.600] | 0.550 ")
    assert line.endswith("| +0.050 [-0.050, +0.150] | 0.900 | 0.800 |")


def test_rates_of_a_mask_stand_with_what_is_beyond_its_controls() -> None:
    rate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 5}
    nothing = {"value": float("nan"), "low": None, "high": None, "n": 0}
    masks = [
        {"name": "none", "rates": {"yes_correct": rate, "yes_wrong": nothing}, "beyond": {}},
        {"name": "top-5", "rates": {"yes_correct": rate}, "beyond": {"yes_correct": {**rate, "value": 0.45}}},
    ]
    none, top = flips_table({"m": {"masks": masks}}).splitlines()[2:]
    assert none == "| m | none | 0.500 | none | none | none |"
    assert top == "| m | top-5 | 0.500 (+0.450 [+0.400, +0.600]) | none | none | none |"
