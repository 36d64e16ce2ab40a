"""What all seeds of a training share: texts, their tokenizer, and the tasks that samples come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from pipelines.identity import content_hash
from pipelines.training.corpus import Corpus, read_corpus
from pipelines.training.observer import TrainingObserver
from pipelines.training.settings import TrainEmbeddedSettings
from qrcore.training.model import InitialScales
from qrcore.training.passages import PassageBuilder, PassageCollection
from qrcore.training.queries import QueryWriter
from qrcore.training.retrieval import PromptTokens, RetrievalTask
from qrcore.training.samples import InductionTask
from qrcore.training.tokenizer import train_tokenizer

_FOLDER = "tokenizer"


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """``subject``: a hash of everything that, beside stages, seed and lesson, decides the trained weights."""

    corpus: Corpus
    tokenizer: PreTrainedTokenizerFast
    passages: PassageCollection
    induction: InductionTask
    retrieval: RetrievalTask
    scales: InitialScales
    subject: str


def read_material(settings: TrainEmbeddedSettings, observer: TrainingObserver) -> Material:
    """Read texts, train their tokenizer or read that of an earlier call, and cut passages. Raises InputError."""
    observer.phase("reading text")
    corpus = read_corpus(
        settings.texts, settings.questions, settings.characters_per_family, settings.choice_seed, settings.storage
    )
    tokenizer = _tokenizer(corpus, settings, observer)
    observer.phase(f"building passages ({len(corpus.texts):,} texts, {len(corpus.questions):,} questions)")
    builder = PassageBuilder(tokenizer)
    passages = builder.build(corpus.texts, corpus.questions)
    prompt = PromptTokens(tokenizer, builder)
    retrieval = RetrievalTask(passages, prompt, QueryWriter(builder))
    scales = InitialScales()
    parts = [corpus.hash, tokenizer.backend_tokenizer.to_str(), asdict(settings.shape), asdict(scales)]
    return Material(
        corpus=corpus,
        tokenizer=tokenizer,
        passages=passages,
        induction=InductionTask(prompt.ordinary, int(tokenizer.bos_token_id)),
        retrieval=retrieval,
        scales=scales,
        subject=content_hash([*parts, retrieval.recipe]),
    )


def _tokenizer(corpus: Corpus, settings: TrainEmbeddedSettings, observer: TrainingObserver) -> PreTrainedTokenizerFast:
    subject = content_hash([corpus.hash, settings.vocabulary])
    folder = Path(settings.work) / f"{_FOLDER}-{subject[:12]}"
    if folder.exists():
        loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        return loaded
    observer.phase("training the tokenizer")
    # Twice, because the prompts to come look more like these than like novels.
    questions = [row.question for row in corpus.questions]
    tokenizer = train_tokenizer(
        [*corpus.texts, *corpus.paragraphs, *corpus.paragraphs, *questions], settings.vocabulary
    )
    unfinished = folder.with_suffix(".part")
    tokenizer.save_pretrained(unfinished, save_jinja_files=False)
    unfinished.replace(folder)
    return tokenizer
