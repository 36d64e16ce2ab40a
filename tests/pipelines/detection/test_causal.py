"""What is said of masked heads follows from the trials; the check in one process is the check."""

from __future__ import annotations

import pytest

from pipelines.detection.causal import MaskedTrials, causal_check, causal_findings, mask_sets
from qrcore.causal import CopyAccuracy, copy_accuracy
from qrcore.heads import Head, ModelShape, parse_head
from qrcore.models import load_language_model, load_tokenizer, open_model
from qrcore.needles import NeedleSettings, needle_trials
from qrcore.prompts import EMBEDDED
from qrcore.tokens import PromptEncoder
from tests.qrcore.test_needles import TEXTS

SHAPE = ModelShape(layers=3, query_heads=4, kv_heads=4)


def test_sets_to_mask() -> None:
    masks = mask_sets(["1-0", "1-2", "1-0"], SHAPE, 20, seed=0)
    assert masks["intact"] == () and masks["chosen"] == ("1-0", "1-2"), "a head that counts twice is masked once"
    controls = [heads for name, heads in masks.items() if name.startswith("control-")]
    assert len(controls) == 15, "2 of the 6 others of layers 1 and 2: there are no more"
    assert all(parse_head(head).layer >= 1 and head not in masks["chosen"] for heads in controls for head in heads)
    assert mask_sets(["0-0"] * 1, SHAPE, 5, seed=0) != mask_sets(["0-0"], SHAPE, 5, seed=1)
    assert mask_sets(["2-0", "2-1", "2-2"], SHAPE, 20, seed=0) == {}


def _noted(accuracies: dict[str, list[tuple[float, bool | None]]]) -> MaskedTrials:
    found = MaskedTrials()
    for name, values in accuracies.items():
        for number, (copied, answered) in enumerate(values):
            found.note(name, f"t{number}", CopyAccuracy(copied, answered))
    return found


def test_the_chosen_set_stands_among_its_controls() -> None:
    masks = {"intact": (), "chosen": ("1-0",), "control-0": ("1-1",), "control-1": ("1-2",), "control-2": ("2-0",)}
    noted = _noted(
        {
            "intact": [(1.0, True), (0.5, True)],
            "chosen": [(0.25, False), (0.25, False)],
            "control-0": [(1.0, True), (0.5, True)],
            "control-1": [(0.25, True), (0.25, False)],
            "control-2": [(0.0, False), (0.0, False)],
        }
    )
    found = causal_findings(masks, noted)
    assert found is not None and found.answered is not None and found.intact.answered is not None
    assert (found.trials, found.few_controls, len(found.controls)) == (2, True, 3)
    assert found.intact.copied.mean == 0.75 and found.intact.answered.mean == 1.0
    assert found.copied.percentile == pytest.approx(1 / 3), "a control set that costs as much is not below"
    assert found.answered.percentile == pytest.approx(2 / 3)
    means = [(1.0 + 0.25 + 0.0) / 3 - 0.25, (0.5 + 0.25 + 0.0) / 3 - 0.25]
    assert found.copied.drop.mean == pytest.approx(sum(means) / 2)
    assert (found.copied.drop.low, found.copied.drop.high) == pytest.approx((means[1], means[0]))


def test_nothing_is_said_without_trials_controls_or_answers() -> None:
    masks = {"intact": (), "chosen": ("1-0",), "control-0": ("1-1",)}
    assert causal_findings(masks, MaskedTrials()) is None
    assert causal_findings({}, _noted({"intact": [(1.0, None)]})) is None
    found = causal_findings(masks, _noted({name: [(0.5, None)] for name in masks}))
    assert found is not None and found.answered is None and found.chosen.answered is None


def test_the_check_in_this_process_masks_every_set() -> None:
    model = load_language_model(open_model("embedded"), device="cpu")
    encoder = PromptEncoder(load_tokenizer(open_model("embedded")))
    settings = NeedleSettings(lengths=(300,), depths=(0.5,), answer_prefix="[{place}] ")
    trials = {str(one.needle): one.trial for one in needle_trials(TEXTS, encoder, EMBEDDED, settings)}
    chosen = (Head(1, 0), Head(1, 3))
    found = causal_check(model, trials, chosen, controls=2)
    assert found is not None and found.trials == 3 and len(found.controls) == 2
    for one in (found.intact, found.chosen, *found.controls):
        expected = [copy_accuracy(model, trial, map(parse_head, one.heads)) for trial in trials.values()]
        assert one.copied.mean == pytest.approx(sum(each.copied for each in expected) / 3)
        assert one.answered is not None
        assert one.answered.mean == pytest.approx(sum(bool(each.answered) for each in expected) / 3)
