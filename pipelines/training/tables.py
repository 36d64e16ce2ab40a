"""The tables of a model card, in Markdown; a column of which nothing is known is left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean
from typing import Final

from pipelines.report.charts import short
from pipelines.report.html import bytes_text, duration, fixed
from pipelines.training.claims import NO_BREAK, layer_of, percent, retrieval_layer, spread, with_interval
from pipelines.training.curves import ACCURACIES
from pipelines.training.facts import CardFacts, SeedFacts, TrainingText, dev_mean, taught_names
from pipelines.training.findings import (
    AnswerQuality,
    CausalCheck,
    Findings,
    HeadTable,
    LengthPoint,
    ListQuality,
)
from pipelines.training.markdown import plain, table
from pipelines.training.ranking_study import ALL_HEADS, BM25, FIRST_STAGE, FUSED, HEADS, RANDOM
from qrcore.training.progress import Progress

_METHODS: Final = (BM25, FIRST_STAGE, ALL_HEADS, HEADS, FUSED)
_OTHERS_SHOWN: Final = 4

_Columns = dict[str, list[str]]
_Lists = dict[str, dict[str, ListQuality]]


def identity(facts: CardFacts) -> str:
    """What the model is made of."""
    shape = facts.shape
    groups = "no grouping" if shape.heads == shape.kv_heads else f"{shape.kv_heads} key and value heads"
    found = facts.shipped_run.findings
    chosen = found.head_table.chosen if found else ()
    taught = ", ".join(taught_names(facts.taught))
    rows = {
        "architecture": f"Llama: hidden {shape.hidden:,}, {shape.layers} layers × {shape.heads} query heads of size "
        f"{shape.head_size} ({groups}), feed-forward {shape.feed_forward:,}, RoPE theta {shape.rope_theta:,.0f}",
        "parameters": f"{facts.parameters:,}",
        "file": bytes_text(facts.file_bytes),
        "vocabulary": f"{facts.vocabulary:,} tokens",
        "prompt": facts.prompt,
        "longest prompt": _longest_prompt(facts),
        "heads": f"{', '.join(chosen)} (layer-head, from 0)" if chosen else f"not measured; taught: {taught or 'none'}",
    }
    return table(("", ""), list(rows.items()))


def _longest_prompt(facts: CardFacts) -> str:
    trained, taken = facts.limit_tokens, facts.shape.max_positions
    beyond = f" were trained; up to {taken:,} are taken" if trained < taken else ""
    return f"{trained:,} tokens{beyond}"


def texts(rows: Sequence[TrainingText]) -> str:
    """What was trained on, and its licences."""
    columns = {
        "source": [plain(row.source) for row in rows],
        "licence": [plain(row.licence) for row in rows],
        "characters": [short(row.characters) if row.characters else "" for row in rows],
        "questions": [f"{row.questions:,}" if row.questions else "" for row in rows],
    }
    return _table(columns, words=2)


def lessons(helping: Mapping[str, Sequence[str]]) -> str:
    """What heads were taught that do not retrieve."""
    return _table({"heads": [", ".join(heads) for heads in helping.values()], "taught to look": list(helping)}, words=2)


def seeds(facts: CardFacts) -> str:
    """The runs, and which of them is shipped."""
    columns = {
        "seed": [f"{run.seed}" + (" (shipped)" if run.seed == facts.shipped else "") for run in facts.seeds],
        "machine": [plain(run.machine) for run in facts.seeds],
        "tokens": [short(run.tokens) for run in facts.seeds],
        "steps": [f"{run.steps:,}" for run in facts.seeds],
        "time": [duration(run.seconds) for run in facts.seeds],
        "dev nDCG@10": [_known(dev_mean(run.findings, facts.chosen_on)) for run in facts.seeds],
        "weights, SHA-256": [run.findings.weights_sha256[:12] if run.findings else "" for run in facts.seeds],
    }
    return _table(columns, words=2)


def stages(ended: Sequence[Progress]) -> str:
    """The curriculum, with what each stage ended with."""
    columns = {
        "stage": [plain(stage.stage) for stage in ended],
        "tokens": [short(stage.stage_tokens) for stage in ended],
        "steps": [f"{stage.stage_steps:,}" for stage in ended],
        "loss": [f"{stage.loss:.2f}" for stage in ended],
    }
    # 0 stands for what does not occur in a stage.
    accuracies = {kind: [fixed(of(stage)) if of(stage) else "" for stage in ended] for kind, of in ACCURACIES.items()}
    return _table(columns | accuracies)


def ndcg(found: Findings) -> str:
    """nDCG@10 of every method on the test lists."""
    lists = _test_lists(found)
    columns = {
        "nDCG@10": [plain(name) for name in lists],
        "n": [f"{next(iter(methods.values())).queries:,}" for methods in lists.values()],
        RANDOM: _column(lists, RANDOM, lambda one: fixed(one.ndcg_10.mean)),
    }
    columns |= {method: _column(lists, method, lambda one: with_interval(one.ndcg_10)) for method in _METHODS}
    columns["too long"] = _column(lists, HEADS, lambda one: f"{one.too_long:,}" if one.too_long else "")
    return _table(columns)


def recall(found: Findings) -> str:
    """Recall@1 of every method on the test lists."""
    lists = _test_lists(found)
    columns = {
        "recall@1": [plain(name) for name in lists],
        RANDOM: _column(lists, RANDOM, lambda one: fixed(one.recall_1.mean)),
    }
    return _table(
        columns | {method: _column(lists, method, lambda one: with_interval(one.recall_1)) for method in _METHODS}
    )


def over_seeds(measured: Sequence[SeedFacts]) -> str:
    """Mean and standard deviation of the test numbers of several runs."""
    all_found = [run.findings for run in measured if run.findings]
    names = list(dict.fromkeys(one.name for found in all_found for one in found.qualities if one.part == "test"))
    columns: _Columns = {"list": [plain(name) for name in names]}
    for method in (ALL_HEADS, HEADS, FUSED):
        columns[method] = [_spread([one.ndcg_10.mean for one in _test(all_found, name, method)]) for name in names]
    columns[f"{HEADS}, recall@1"] = [
        _spread([one.recall_1.mean for one in _test(all_found, name, HEADS)]) for name in names
    ]
    answers = [
        [one for found in all_found for one in found.answers if (one.name, one.part) == (name, "test")]
        for name in names
    ]
    columns["right index"] = [_spread([one.index.mean for one in own]) for own in answers]
    columns["copy F1"] = [_spread([one.copy_f1.mean for one in own]) for own in answers]
    return _table(columns)


def lengths(points: Sequence[LengthPoint]) -> str:
    """Quality at each length."""
    ordered = sorted(points, key=lambda point: point.tokens)
    columns = {
        "prompt tokens": [f"{point.tokens:,}" for point in ordered],
        "documents": [f"{point.documents:.1f}" for point in ordered],
        "n": [f"{point.queries:,}" for point in ordered],
        RANDOM: [fixed(point.random) for point in ordered],
        HEADS: [with_interval(point.heads) for point in ordered],
    }
    return _table(columns, words=0)


def heads(found: HeadTable, taught: Collection[str], helping: Collection[str]) -> str:
    """The chosen heads and the best of the others, in their layer and elsewhere; and what they were taught, if not
    nothing: to retrieve, or something else (``helping``)."""
    layer = retrieval_layer(found).layer
    best = sorted(found.scores, key=lambda head: -found.scores[head])
    others = [head for head in best if head not in found.chosen]
    beside = [head for head in others if layer_of(head) == layer][:_OTHERS_SHOWN]
    elsewhere = [head for head in others if layer_of(head) != layer][:_OTHERS_SHOWN]
    shown = {head: "chosen" for head in found.chosen}
    shown |= dict.fromkeys(beside, "same layer") | dict.fromkeys(elsewhere, "elsewhere")
    lessons = dict.fromkeys(helping, ", taught something else") | dict.fromkeys(taught, ", taught to retrieve")
    columns = {
        "head": list(shown),
        "": [f"{where}{lessons.get(head, '')}" for head, where in shown.items()],
        "mean": [fixed(found.scores[head]) for head in shown],
    }
    columns |= {plain(name): [_known(own.get(head)) for head in shown] for name, own in found.by_list.items()}
    if found.draw_count:
        columns[f"of {found.draw_count} draws"] = [str(found.draws.get(head, 0)) for head in shown]
    return _table(columns, words=2)


def causal(check: CausalCheck) -> str:
    """What masking does to the model's own answers."""
    rows = {"nothing": check.intact, "the chosen heads": check.chosen}
    values = {what: (one.index_accuracy, one.index_log_probability) for what, one in rows.items()}
    if check.controls:
        values[f"other heads, mean of {len(check.controls)} sets"] = (
            fmean(one.index_accuracy for one in check.controls),
            fmean(one.index_log_probability for one in check.controls),
        )
    columns = {
        "masked": list(values),
        "right index": [fixed(accuracy) for accuracy, _ in values.values()],
        "log-probability": [fixed(log_probability) for _, log_probability in values.values()],
    }
    return _table(columns)


def answers(found: Sequence[AnswerQuality]) -> str:
    """The model's own answers."""
    columns = {
        "list": [plain(one.name) for one in found],
        "part": [plain(one.part) for one in found],
        "n": [f"{one.queries:,}" for one in found],
        "begin with [i]": [percent(one.begins) for one in found],
        "right index": [with_interval(one.index) for one in found],
        "copy F1": [with_interval(one.copy_f1) for one in found],
    }
    return _table(columns, words=2)


def _table(columns: _Columns, words: int = 1) -> str:
    """The columns that hold anything; all but the first `words` ones hold numbers."""
    kept = {name: values for name, values in columns.items() if any(values)}
    numbers = [place for place, name in enumerate(kept) if list(columns).index(name) >= words]
    return table(list(kept), list(zip(*kept.values(), strict=True)), numbers)


def _test_lists(found: Findings) -> _Lists:
    lists: _Lists = {}
    for one in found.qualities:
        if one.part == "test":
            lists.setdefault(one.name, {})[one.method] = one
    return lists


def _column(lists: _Lists, method: str, shown: Callable[[ListQuality], str]) -> list[str]:
    return [shown(methods[method]) if method in methods else "" for methods in lists.values()]


def _test(all_found: Sequence[Findings], name: str, method: str) -> list[ListQuality]:
    wanted = (name, "test", method)
    return [one for found in all_found for one in found.qualities if (one.name, one.part, one.method) == wanted]


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    found = spread(values)
    return f"{fixed(found.mean)}{NO_BREAK}±{NO_BREAK}{fixed(found.deviation)}"


def _known(value: float | None) -> str:
    return "" if value is None else fixed(value)
