"""What the tests of this room share: a tokenizer, passages with questions, and the samples made of them."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from qrcore.training.passages import PassageBuilder, PassageCollection
from qrcore.training.queries import QueryWriter
from qrcore.training.retrieval import PromptTokens, RetrievalTask
from qrcore.training.tokenizer import train_tokenizer
from tests.qrcore.training.texts import question_rows, texts


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(texts(60), size=800)


@pytest.fixture(scope="session")
def builder(tokenizer: PreTrainedTokenizerFast) -> PassageBuilder:
    return PassageBuilder(tokenizer)


@pytest.fixture(scope="session")
def collection(builder: PassageBuilder) -> PassageCollection:
    return builder.build(texts(60), question_rows(8, first=500))


@pytest.fixture(scope="session")
def prompt(tokenizer: PreTrainedTokenizerFast, builder: PassageBuilder) -> PromptTokens:
    return PromptTokens(tokenizer, builder)


@pytest.fixture(scope="session")
def task(collection: PassageCollection, prompt: PromptTokens, builder: PassageBuilder) -> RetrievalTask:
    return RetrievalTask(collection, prompt, QueryWriter(builder))
