"""Texts whose sentences hardly fit into a sample, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from qrcore.errors import InputError
from qrcore.training.passages import PassageBuilder
from qrcore.training.queries import QueryMix, QueryWriter
from qrcore.training.retrieval import PromptTokens, RetrievalShape, RetrievalTask
from qrcore.training.samples import NO_DOCUMENT, NOTHING
from tests.qrcore.training.texts import words_of


def _texts_of_one_sentence(words: int) -> list[str]:
    return [" ".join(word for n in range(words // 4) for word in words_of(1000 * text + n)) + "." for text in range(40)]


def test_sentences_longer_than_usual_fill_what_room_there_is(builder: PassageBuilder, prompt: PromptTokens) -> None:
    collection = builder.build(_texts_of_one_sentence(32), [])
    assert min(len(passage.ids) for passage in collection.passages) > 0.35 * 112
    task = RetrievalTask(collection, prompt, QueryWriter(builder))
    for seed in range(20):
        sample = task.sample(np.random.default_rng(seed), RetrievalShape(112, 112, QueryMix()))
        assert sample.documents.max() == 0
        assert set(sample.asked.tolist()) <= {NO_DOCUMENT, NOTHING, 0}


def test_texts_of_which_no_sentence_fits_are_refused_instead_of_tried_for_ever(
    builder: PassageBuilder, prompt: PromptTokens
) -> None:
    task = RetrievalTask(builder.build(_texts_of_one_sentence(48), []), prompt, QueryWriter(builder))
    with pytest.raises(InputError, match="expected sentences of at most"):
        task.sample(np.random.default_rng(0), RetrievalShape(96, 96, QueryMix()))


def test_texts_too_short_for_a_passage_are_refused(builder: PassageBuilder, prompt: PromptTokens) -> None:
    with pytest.raises(InputError, match="expected passages"):
        RetrievalTask(builder.build(["Too short."], []), prompt, QueryWriter(builder))
