"""Train the embedded model: Parquet text in, a model folder out."""

from __future__ import annotations

import hashlib
import json
import platform
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pipelines.identity import package_versions
from pipelines.inputs import list_inputs
from pipelines.storage import Storage, StorageOptions, join
from pipelines.units import parquet_table
from qrcore.errors import ConfigError, InputError, ModelError
from qrcore.training.curriculum import CURRICULA, Stage
from qrcore.training.model import ModelShape, build_model
from qrcore.training.passages import PassageBuilder, PassageCollection, QuestionRow
from qrcore.training.progress import Progress
from qrcore.training.queries import QueryWriter
from qrcore.training.retrieval import PromptTokens, RetrievalTask
from qrcore.training.samples import InductionTask
from qrcore.training.tokenizer import train_tokenizer
from qrcore.training.trainer import Trainer, TrainingSettings

_TEXT_COLUMNS: Final = ("text",)
_QUESTION_COLUMNS: Final = ("group", "paragraph", "question", "answer_sentence")
_CHECKPOINT: Final = "checkpoint.pt"
_TOKENIZER: Final = "tokenizer"
_REPORT: Final = "training.json"


@dataclass(frozen=True, slots=True)
class TrainEmbeddedSettings:
    """What to train on, what to train, and where the model goes.

    ``texts``: files with columns ``text`` and, if known, ``source``; ``questions``: files with ``group``,
    ``paragraph``, ``question`` and ``answer_sentence``; ``output``: the model folder; ``work``: a local folder for
    checkpoints, from which the same settings go on. ``characters_per_family`` keeps one kind of text from
    outweighing the others; a family is a source up to its first slash. ``threads``: CPU threads of torch for each of
    the ``parts`` that work at the same time.
    """

    texts: tuple[str, ...]
    output: str
    work: str
    questions: tuple[str, ...] = ()
    curriculum: str = "embedded"
    shape: ModelShape = field(default_factory=ModelShape)
    vocabulary: int = 4096
    characters_per_family: int = 12_000_000
    seed: int = 0
    parts: int = 2
    threads: int = 1
    device: str = "cpu"
    storage: StorageOptions = field(default_factory=StorageOptions)


@dataclass(frozen=True, slots=True)
class _Corpus:
    texts: list[str]
    questions: list[QuestionRow]
    files: dict[str, str]
    families: dict[str, int]


def train_embedded(
    settings: TrainEmbeddedSettings, on_progress: Callable[[Progress], None] = lambda progress: None
) -> dict[str, Any]:
    """Train, write the model folder, and return what was measured (the content of its ``training.json``).

    Raises InputError for files without the needed columns, ConfigError for an unknown curriculum, RunError if copying
    is not learned, ModelError if the trained weights are not finite in float16.
    """
    stages = _stages(settings.curriculum)
    torch.set_num_threads(settings.threads)
    work = Path(settings.work)
    work.mkdir(parents=True, exist_ok=True)
    corpus = _read_corpus(settings)
    tokenizer = _tokenizer(corpus, settings, work / _TOKENIZER)
    builder = PassageBuilder(tokenizer)
    passages = builder.build(corpus.texts, corpus.questions)
    model = build_model(settings.shape, tokenizer, settings.seed)
    torch.nn.Module.to(model, settings.device)
    trainer = _trainer(model, tokenizer, builder, passages, TrainingSettings(stages, settings.seed, settings.parts))
    trainer.train(on_progress, work / _CHECKPOINT)
    report = _report(settings, corpus, passages, model, trainer.completed)
    _write_folder(model, tokenizer, report, settings)
    return report


def _stages(name: str) -> tuple[Stage, ...]:
    if name not in CURRICULA:
        raise ConfigError(f"curriculum: expected one of {', '.join(CURRICULA)}; got {name!r}. Choose one of these.")
    return CURRICULA[name]


def _trainer(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    builder: PassageBuilder,
    passages: PassageCollection,
    settings: TrainingSettings,
) -> Trainer:
    prompt = PromptTokens(tokenizer, builder)
    return Trainer(
        model,
        InductionTask(prompt.ordinary, int(tokenizer.bos_token_id)),
        RetrievalTask(passages, prompt, QueryWriter(builder)),
        settings,
    )


def _read_corpus(settings: TrainEmbeddedSettings) -> _Corpus:
    text_table, text_files = _read(settings.texts, _TEXT_COLUMNS, settings.storage)
    rows, question_files = _read(settings.questions, _QUESTION_COLUMNS, settings.storage)
    texts, families = _balanced(text_table.to_pylist(), settings)
    questions = [
        QuestionRow(row["group"], row["paragraph"], row["question"], row["answer_sentence"]) for row in rows.to_pylist()
    ]
    return _Corpus(texts, questions, text_files | question_files, families)


def _read(uris: Sequence[str], needed: Sequence[str], options: StorageOptions) -> tuple[pa.Table, dict[str, str]]:
    """All rows of the files, and the SHA-256 of each file."""
    tables: list[pa.Table] = []
    digests: dict[str, str] = {}
    for info in list_inputs(uris, options) if uris else ():
        data = Storage(info.uri, options).read(info.uri)
        table = parquet_table(data)
        missing = [name for name in needed if name not in table.column_names]
        if missing:
            raise InputError(
                f"{info.uri}: expected columns {', '.join(needed)}; {', '.join(missing)} missing. Rename or add them."
            )
        kept = [name for name in (*needed, "source") if name in table.column_names]
        tables.append(table.select(kept))
        digests[Path(info.uri).name] = hashlib.sha256(data).hexdigest()
    empty = pa.table({name: pa.array([], pa.string()) for name in needed})
    return pa.concat_tables(tables, promote_options="default") if tables else empty, digests


def _balanced(rows: Sequence[dict[str, Any]], settings: TrainEmbeddedSettings) -> tuple[list[str], dict[str, int]]:
    """A random choice of texts, no family with many more characters than allowed, in the files' order."""
    order = list(range(len(rows)))
    random.Random(settings.seed).shuffle(order)
    used: Counter[str] = Counter()
    kept = []
    for number in order:
        family = str(rows[number].get("source") or "text").split("/")[0]
        if used[family] < settings.characters_per_family:
            used[family] += len(rows[number]["text"])
            kept.append(number)
    return [rows[number]["text"] for number in sorted(kept)], dict(used)


def _tokenizer(corpus: _Corpus, settings: TrainEmbeddedSettings, folder: Path) -> PreTrainedTokenizerFast:
    if (folder / "tokenizer.json").exists():
        loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        return loaded
    paragraphs = list(dict.fromkeys(row.paragraph for row in corpus.questions))
    # Twice, because the prompts to come look more like these than like novels.
    texts = [*corpus.texts, *paragraphs, *paragraphs, *(row.question for row in corpus.questions)]
    tokenizer = train_tokenizer(texts, settings.vocabulary)
    tokenizer.model_max_length = settings.shape.max_positions
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    return tokenizer


def _report(
    settings: TrainEmbeddedSettings,
    corpus: _Corpus,
    passages: PassageCollection,
    model: LlamaForCausalLM,
    completed: Sequence[Progress],
) -> dict[str, Any]:
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "steps": completed[-1].steps,
        "tokens": completed[-1].tokens,
        "seconds": round(completed[-1].seconds, 1),
        "stages": [asdict(progress) for progress in completed],
        "settings": asdict(settings) | {"storage": None, "stages": [asdict(s) for s in CURRICULA[settings.curriculum]]},
        "data": {
            "sha256": corpus.files,
            "characters_by_family": corpus.families,
            "passages": len(passages.passages),
            "passage_tokens": passages.tokens(),
            "questions": sum(len(passage.questions) for passage in passages.passages),
        },
        "machine": {
            "processor": platform.machine(),
            "device": settings.device,
            "torch_threads": torch.get_num_threads(),
        },
        "versions": package_versions(),
    }


def _write_folder(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, report: dict[str, Any], settings: TrainEmbeddedSettings
) -> None:
    torch.nn.Module.to(model, device="cpu", dtype=torch.float16)
    if not all(bool(torch.isfinite(weight).all()) for weight in model.parameters()):
        raise ModelError("trained weights: expected finite float16 values, some overflow. Train with a lower rate.")
    storage = Storage(settings.output, settings.storage)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder, save_jinja_files=False)
        (folder / _REPORT).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        for path in sorted(folder.iterdir()):
            storage.replace(join(settings.output, path.name), path.read_bytes())
