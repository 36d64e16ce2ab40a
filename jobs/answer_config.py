"""The configuration of ``qrbatch answer``: one YAML file, every field documented."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from jobs.config import (
    ActorsConfig,
    ClusterConfig,
    LineageConfig,
    OutputConfig,
    ReportConfig,
    StorageConfig,
    UnitsConfig,
)
from jobs.settings import Section, run_name, setting


class AnsweredConfig(Section):
    """What goes in."""

    uri: str = setting(
        ...,
        "A committed run of select; or shards: a Parquet file, a folder, a run of prepare.",
        affects_output=False,
        flag="--input",
        uri=True,
    )
    context: Literal["auto", "bundle", "full", "oracle"] = setting(
        "auto",
        "What is answered from: bundles, all candidates, or the judged relevant ones; auto: bundles if there are any.",
        affects_output=True,
        flag="--context",
    )
    carry: Literal["all", "none"] | tuple[str, ...] = setting(
        "all",
        "Further columns to copy from input to output: all, none or a list of names; answers and group are judged by.",
        affects_output=True,
        expected="all, none or a list of names",
    )


class AnsweringModelConfig(Section):
    """Which model answers, and how."""

    id: str = setting("embedded-gqa", "A model folder, a hub id, 'embedded' or 'embedded-gqa'.", affects_output=True)
    revision: str | None = setting(None, "Revision of a hub model.", affects_output=True)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Precision of the weights; auto: float32 on CPU, the checkpoint's on GPU.", affects_output=True
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N as the actor sees it.", affects_output=True)
    prompt: str = setting("auto", "Retrieval prompt of the style paragraphs, as in rerank.", affects_output=True)
    style: Literal["paragraphs", "longmemeval", "clipper", "plain"] = setting(
        "paragraphs",
        "How it is asked: in the model's retrieval prompt, or by a template for that task.",
        affects_output=True,
        flag="--style",
    )
    template: str | None = setting(
        None, "A template of your own (Jinja, or @FILE) from context, query and carried columns.", affects_output=True
    )
    max_new_tokens: int = setting(64, "Tokens of an answer at most.", affects_output=True, gt=0)
    batch_tokens: int = setting(
        16_384, "Tokens that are decoded at once, prompts and answers together.", affects_output=True, gt=0
    )


class CafeConfig(Section):
    """``method: cafe`` (arXiv 2505.10063): the first stage keeps documents, the second pushes attention to some."""

    coarse_heads: str | None = setting(
        None,
        "Heads of the first stage: a list, a name or a JSON file (detect --method share); empty: the model's own.",
        affects_output=True,
        flag="--coarse-heads",
    )
    fine_heads: str | None = setting(
        None,
        "Heads of the second stage, found on shortened lists; empty: the first stage alone.",
        affects_output=True,
        flag="--fine-heads",
    )
    coarse_count: int = setting(
        4, "How many of the first stage's heads are used, best first (K1).", affects_output=True, gt=0
    )
    coarse_top: int = setting(4, "Documents that each of them keeps (M1).", affects_output=True, gt=0)
    fine_count: int = setting(
        4, "How many of the second stage's heads are used (K2; in the paper 1 to 4).", affects_output=True, gt=0
    )
    fine_top: int = setting(2, "Documents that each of them pushes attention to (M2).", affects_output=True, gt=0)
    delta: float = setting(
        math.log(10), "What is added to attention logits; the paper has log 10 and log 13.", affects_output=True
    )
    bias_inside_scale: bool = setting(
        False, "Divide delta by the root of the head size, as the paper prints it.", affects_output=True
    )
    rows: Literal["question", "question_and_answer"] = setting(
        "question", "Tokens whose attention is pushed: the question's, or the answer's, too.", affects_output=True
    )
    seed: int = setting(0, "Seed of the baseline random_order.", affects_output=True, ge=0)
    on_mismatch: Literal["refuse", "warn"] = setting(
        "refuse",
        "A head set that was found for another revision or other weights than the model's.",
        affects_output=False,
        flag="--allow-model-mismatch",
    )


class JudgeConfig(Section):
    """A model that says of each answer, yes or no, whether it is right; recorded with the run."""

    model: str | None = setting(
        None, "A model folder, a hub id or a shipped model; empty: nobody judges.", affects_output=True, flag="--judge"
    )
    revision: str | None = setting(None, "Revision of a hub model.", affects_output=True)
    template: str | None = setting(
        None, "Its question (Jinja, or @FILE) from query, gold (a list) and answer.", affects_output=True
    )
    max_new_tokens: int = setting(
        16, "Tokens of a verdict at most; the first yes or no counts.", affects_output=True, gt=0
    )


class AnswerEngineConfig(Section):
    """What runs the model."""

    kind: Literal["transformers", "vllm"] = setting(
        "transformers",
        "transformers in our own actors, or vLLM through ray.data.llm (extra vllm, GPUs; without cafe and judge).",
        affects_output=True,
        flag="--engine",
    )
    arguments: dict[str, Any] = setting(
        {}, "Further arguments of vLLM's engine, such as {tensor_parallel_size: 2}.", affects_output=True
    )
    batch_rows: int = setting(64, "Prompts handed to vLLM at once.", affects_output=False, gt=0)


class AnswerConfig(Section):
    """Everything ``qrbatch answer`` can be told."""

    name: str = run_name("answer")
    input: AnsweredConfig
    output: OutputConfig
    method: Literal["greedy", "cafe"] = setting(
        "greedy",
        "Answer from the context as it is, or let the model's heads choose and push documents (shards only).",
        affects_output=True,
        flag="--method",
    )
    baselines: tuple[str, ...] | None = setting(
        None,
        "Further answers to the same rows: contexts (bundle, full, oracle), with cafe full, filter, random_order, "
        "oracle; empty: none, with cafe all that can be.",
        affects_output=True,
        flag="--baseline",
    )
    qrels: str | None = setting(
        None, "Judgements, for oracle and for recall in the report.", affects_output=False, flag="--qrels", uri=True
    )
    answers: str | None = setting(
        None,
        "Gold answers (query_id, answers) of rows that carry none: Parquet or JSON Lines.",
        affects_output=False,
        flag="--answers",
        uri=True,
    )
    keep_documents: bool = setting(
        False,
        "Write what the prompt held as a column candidates, so that the rows are input of detect.",
        affects_output=True,
        flag="--keep-documents",
    )
    model: AnsweringModelConfig = Field(default_factory=AnsweringModelConfig)
    cafe: CafeConfig = Field(default_factory=CafeConfig)
    engine: AnswerEngineConfig = Field(default_factory=AnswerEngineConfig)
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    lineage: LineageConfig = Field(default_factory=LineageConfig)
