"""What steered heads do to answers: ``python -m tests.benchmarks.steering_study --lists FOLDER``.

The three jobs that answer with steered heads, as a user runs them, on real Ray: ``answer --method cafe`` beside its
baselines and ``contrast`` beside control sets, on questions that people asked (the list ``xquad-10`` of
:mod:`tests.benchmarks.embedded_lists`), and ``flips`` on needles hidden in plain text. The model's own heads are
steered. Writes ``steering_study.json`` and ``steering_study.md`` to ``--results``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.answer import answer
from jobs.answer_config import AnswerConfig
from jobs.contrast import ContrastConfig, contrast
from jobs.flips import FlipsConfig, flips
from jobs.needles import NeedlesConfig, needles
from jobs.settings import validate
from pipelines.cluster import ClusterSettings, ray_session
from pipelines.job import RunResult
from pipelines.side_files import read_side_file
from pipelines.storage import StorageOptions
from qrcore.models import open_model
from tests.benchmarks.embedded_lists import COLLECTIONS
from tests.stubs import Quiet

RESULTS: Final = Path(__file__).parent / "results"
#: What these jobs answer with unless they are told otherwise.
MODELS: Final = ("embedded-gqa",)
LIST: Final = "xquad-10"
#: Of the list's questions, and needles in haystacks: intervals are wide, and a study takes minutes.
QUESTIONS: Final = 24
HAYSTACKS: Final = 2
CONTROLS: Final = 3
NEW_TOKENS: Final = 40
#: These prompts hold ten documents; the numbers of the paper are for fifty and more.
CAFE: Final = {"coarse_top": 2, "fine_top": 1}
_NEEDLE_TOKENS: Final = 900
_FLIP_RATES: Final = ("yes_correct", "yes_wrong", "auroc", "accuracy")
#: Of each job's report; the rest tells of one run and its folder.
_KEPT: Final = {
    "cafe": ("told", "result", "variants"),
    "contrast": ("told", "result", "changed", "ways", "tuning"),
    "flips": ("told", "result", "matrix", "masks", "warnings"),
}

_Report = dict[str, Any]


def questions(lists: Path, folder: Path, count: int) -> dict[str, str]:
    """The first ``count`` questions of the list with their gold answers, and its judgements, as inputs of the jobs."""
    table = pq.read_table(lists / LIST / "lists.parquet").slice(0, count)
    gold = pq.read_table(lists / LIST / "answers.parquet").to_pylist()
    answers = {row["query_id"]: row["answers"] for row in gold}
    path = folder / "questions.parquet"
    column = pa.array([answers.get(query_id) for query_id in table["query_id"].to_pylist()], pa.list_(pa.string()))
    pq.write_table(table.append_column("answers", column), path)
    return {"input": str(path), "qrels": str(lists / LIST / "qrels.parquet")}


def cafe(model: str, asked: dict[str, str], folder: Path) -> _Report:
    """Answers by CAFE with the model's own heads in both stages, and by every baseline."""
    own = open_model(model).head_set
    heads = own.name if own else None
    given = {
        "input": {"uri": asked["input"]},
        "qrels": asked["qrels"],
        "output": {"uri": str(folder / "cafe")},
        "method": "cafe",
        "cafe": {**CAFE, "coarse_heads": heads, "fine_heads": heads},
        "model": {"id": model, "max_new_tokens": NEW_TOKENS},
        "report": {"examples": False},
    }
    return _report(answer(validate(AnswerConfig, given), Quiet()))


def contrasted(model: str, asked: dict[str, str], folder: Path, controls: int) -> _Report:
    """Answers with contrast to the model without its copying heads, and to it without other heads."""
    given = {
        "input": {"uri": asked["input"]},
        "output": {"uri": str(folder / "contrast")},
        "model": {"id": model, "max_new_tokens": NEW_TOKENS},
        "mask": {"controls": controls},
        "negatives": {"emit": True},
        "report": {"examples": False},
    }
    return _report(contrast(validate(ContrastConfig, given), Quiet()))


def audited(model: str, texts: Path, folder: Path, haystacks: int, controls: int) -> _Report:
    """Second thoughts about needles, with the heads masked that the fit split ranks first."""
    trials = {
        "input": {"uris": [str(texts)]},
        "output": {"uri": str(folder / "needles")},
        "model": {"id": model},
        "trials": {"lengths": (_NEEDLE_TOKENS,), "haystacks": haystacks, "document_words": 30},
    }
    made = needles(validate(NeedlesConfig, trials), lambda _stage: None)
    given = {
        "input": {"uris": [made.trials_uri]},
        "output": {"uri": str(folder / "flips")},
        "model": {"id": model, "max_new_tokens": NEW_TOKENS},
        "masks": {"controls": controls},
    }
    return flips(validate(FlipsConfig, given), Quiet()).report


def _report(result: RunResult) -> _Report:
    return read_side_file(result.run_uri, result.manifest.side_files, "report.json", StorageOptions())


def cafe_table(results: dict[str, _Report]) -> str:
    """Answers by CAFE and its baselines as Markdown."""
    lines = _head(["model", "answered from", "n", "contains gold", "token F1", "relevant documents shown", "cafe − it"])
    for model, report in results.items():
        for one in report["variants"]:
            found, shown = one["measures"], one["shown_recall"]
            behind = one["behind"].get("sub_em")
            lines.append(
                _row(
                    model,
                    one["name"],
                    str(found["sub_em"]["n"]),
                    _mean(found["sub_em"]),
                    _mean(found["token_f1"]),
                    f"{shown['mean']:.3f}" if shown else "",
                    _signed(behind) if behind else "",
                )
            )
    return "\n".join(lines)


def contrast_table(results: dict[str, _Report]) -> str:
    """What contrast changed as Markdown; control sets give the least and the most of them."""
    head = ["model", "steps changed", "with control sets", "answers changed", "contains gold: plain", "contrast"]
    lines = _head([*head, "contrast − plain", "support: gold", "masked"])
    for model, report in results.items():
        changed, result, tuning = report["changed"], report["result"], report["tuning"]
        ways = {one["name"]: one for one in report["ways"]}
        shares = changed["control_shares"]
        lines.append(
            _row(
                model,
                f"{changed['share']:.3f}",
                f"{min(shares):.3f} to {max(shares):.3f}" if shares else "",
                f"{result['changed']} of {result['scored']}",
                _mean(ways["plain"]["measures"]["sub_em"]),
                _mean(ways["contrast"]["measures"]["sub_em"]),
                _signed(ways["plain"]["gain"]["sub_em"]),
                f"{tuning['faithful_support']['mean']:.3f}",
                f"{tuning['masked_support']['mean']:.3f}",
            )
        )
    return "\n".join(lines)


def flips_table(results: dict[str, _Report]) -> str:
    """Rates of standing by an answer, by mask, as Markdown; in brackets what the mask does beyond its controls."""
    lines = _head(["model", "masked", *(name.replace("_", " ") for name in _FLIP_RATES)])
    for model, report in results.items():
        for mask in report["masks"]:
            cells = [_rate(mask["rates"].get(name), mask["beyond"].get(name)) for name in _FLIP_RATES]
            lines.append(_row(model, mask["name"], *cells))
    return "\n".join(lines)


def _rate(rate: dict[str, Any] | None, beyond: dict[str, Any] | None) -> str:
    if rate is None or rate["n"] == 0:
        return "none"
    less = f" ({_signed({'mean': beyond['value'], **beyond})})" if beyond and beyond["low"] is not None else ""
    return f"{rate['value']:.3f}{less}"


def _mean(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _signed(value: dict[str, float]) -> str:
    return f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def _head(names: Sequence[str]) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the jobs, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=Path, required=True, help="folder that embedded_lists wrote")
    parser.add_argument("--texts", type=Path, default=COLLECTIONS / "text" / "text.parquet", help="Parquet with text")
    parser.add_argument("--model", nargs="*", default=MODELS)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--haystacks", type=int, default=HAYSTACKS)
    parser.add_argument("--controls", type=int, default=CONTROLS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    found: dict[str, dict[str, _Report]] = {"cafe": {}, "contrast": {}, "flips": {}}
    with tempfile.TemporaryDirectory() as folder, ray_session(ClusterSettings()):
        asked = questions(given.lists, Path(folder), given.questions)
        for model in given.model:
            work = Path(folder) / model
            found["cafe"][model] = cafe(model, asked, work)
            found["contrast"][model] = contrasted(model, asked, work, given.controls)
            found["flips"][model] = audited(model, given.texts, work, given.haystacks, given.controls)
    tables = (cafe_table(found["cafe"]), contrast_table(found["contrast"]), flips_table(found["flips"]))
    text = "\n\n".join(tables) + "\n"
    kept = {
        job: {model: {name: report[name] for name in _KEPT[job]} for model, report in of_model.items()}
        for job, of_model in found.items()
    }
    print(text)
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "steering_study.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    (given.results / "steering_study.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
