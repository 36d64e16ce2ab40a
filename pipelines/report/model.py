"""The records of `report.json`, schema 1.2. Minor versions only add fields that may be missing.

Counts are numbers of rows unless the field says otherwise, `seconds` are seconds, `tokens` are tokens of the model's
own tokenizer, ranks start at 1. Times are ISO-8601 with a time zone. A value that does not exist is null, never NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import AwareDatetime, Field, JsonValue, model_validator

from pipelines.report.records import Count, Record, Seconds
from pipelines.report.records import Distribution as Distribution
from pipelines.report.records import ErrorExample as ErrorExample
from pipelines.report.records import ErrorGroup as ErrorGroup
from pipelines.report.records import Run as Run
from pipelines.report.records import SourceRow as SourceRow


class InputFile(Record):
    """One input shard as planned."""

    uri: str = Field(description="URI of the Parquet file")
    rows: Count = Field(description="rows in the file")
    bytes: Count = Field(description="bytes of the stored file")


class SkippedFile(Record):
    """One input file that was left out."""

    uri: str = Field(description="URI of the file")
    reason: str = Field(description="why it was left out")


class Asked(Record):
    """What the run was asked to do."""

    inputs: tuple[InputFile, ...] = Field(description="input shards, in plan order")
    skipped_files: tuple[SkippedFile, ...] = Field(description="files left out of the plan")
    rows: Count = Field(description="rows planned")
    units: Count = Field(description="units planned")
    config: Mapping[str, JsonValue] = Field(description="resolved configuration: dotted key to value")


class Result(Record):
    """What came out: rows = scored + failed."""

    rows: Count = Field(description="rows written")
    scored: Count = Field(description="rows with a ranking")
    failed: Count = Field(description="rows with an error instead of a ranking")
    uninformative: Count = Field(description="scored rows whose query equals the null query; left in input order")
    objects: Count = Field(description="Parquet objects written")
    output_bytes: Count = Field(description="bytes of these objects")

    @model_validator(mode="after")
    def _balance(self) -> Self:
        if self.rows != self.scored + self.failed:
            raise ValueError(f"expected rows = scored + failed, got {self.rows} = {self.scored} + {self.failed}")
        return self


class StageSeconds(Record):
    """Seconds per stage, summed over the units (stages of different units overlap)."""

    read: Seconds = Field(description="seconds of reading and checking the rows")
    score: Seconds = Field(description="seconds in the scoring actors, tokenising among them")
    tokenise: Seconds = Field(
        default=0, description="seconds of turning text into tokens, ahead of the scoring actors or in them, since 1.2"
    )
    tokenise_in_score: Seconds = Field(default=0, description="of these, seconds that are in `score`, too, since 1.2")
    write: Seconds = Field(description="seconds of serialising and storing")
    wait: Seconds = Field(default=0, description="seconds between reading and a free actor, since 1.1")


class RunSeconds(StageSeconds):
    """Stage seconds and the wall clock."""

    wall: Seconds = Field(
        description="clock seconds in which units were being scored; of pauses, those up to 10 s count"
    )
    start: Seconds | None = Field(
        default=None, description="from the driver's start to the first unit's scoring, null if resumed, since 1.2"
    )
    commit: Seconds | None = Field(
        default=None, description="from the last unit's scoring to this report, null if resumed, since 1.2"
    )


class Throughput(Record):
    """How fast the run was."""

    prompt_tokens: Count = Field(description="tokens run through the model")
    tokens_per_second: float = Field(ge=0, description="prompt tokens per second of `wall`")
    rows_per_second: float = Field(ge=0, description="rows per second of `wall`")
    seconds: RunSeconds = Field(description="seconds per stage and in all")
    busy: float | None = Field(
        default=None, ge=0, description="share of `wall` in which an actor scored, mean over the actors, since 1.2"
    )


class Cost(Record):
    """What the actors took while units were scored, reserved whether they were busy or not."""

    actors: Count = Field(description="actors that scored")
    cpu_hours: float = Field(ge=0, description="CPUs reserved for actors x hours of `wall`")
    gpu_hours: float = Field(ge=0, description="GPUs reserved for actors x hours of `wall`")
    cpu_hour_rate: float | None = Field(description="price of a CPU-hour, from the configuration")
    gpu_hour_rate: float | None = Field(description="price of a GPU-hour, from the configuration")
    currency: str = Field(description="of the rates")
    total: float | None = Field(description="price of all hours, null without a rate")
    per_1000_queries: float | None = Field(description="the same per 1,000 rows")
    per_million_tokens: float | None = Field(description="the same per million prompt tokens")


class ActorMemory(Record):
    """What was predicted of an actor's memory and what it took."""

    node: str = Field(description="node of the actor")
    actor_pid: int = Field(description="its process id")
    on_gpu: bool = Field(description="whether the model is on a GPU: then all of this is its memory")
    predicted_bytes: Count = Field(description="what weights and the largest pass of its units were predicted to take")
    measured_bytes: Count = Field(
        description="the most that torch took of the GPU, or how much the process grew since it began to load the model"
    )


class Unit(Record):
    """One unit of work: retried and committed as a whole."""

    unit_id: str = Field(description="hash of configuration, input file and row range")
    rows: Count = Field(description="rows of the unit")
    failed: Count = Field(description="of these, rows with an error")
    prompt_tokens: Count = Field(description="tokens run through the model")
    seconds: StageSeconds = Field(description="seconds per stage")
    started_at: AwareDatetime = Field(description="start of the scoring")
    finished_at: AwareDatetime = Field(description="end of the scoring")
    actor_pid: int = Field(description="process id of the scoring actor")
    node: str = Field(description="node of the scoring actor")
    memory_bytes: Count = Field(default=0, description="largest resident memory of the actor so far, since 1.1")
    gpu_memory_bytes: Count = Field(default=0, description="largest memory torch took of its GPU, since 1.1")


class Distributions(Record):
    """Distributions over the scored rows."""

    prompt_tokens: Distribution = Field(description="tokens per row")
    candidates: Distribution = Field(description="candidates per row")
    unit_seconds: Distribution | None = Field(default=None, description="seconds of scoring per unit, since 1.1")
    unit_wait: Distribution | None = Field(
        default=None, description="seconds per unit between reading and a free actor, since 1.2"
    )
    margin: Distribution | None = Field(
        default=None,
        description="score of the first place minus score of the second, per row where one prompt gave both, since 1.1",
    )


class Contexts(Record):
    """How lists of candidates were brought into prompts."""

    settings: Mapping[str, JsonValue] = Field(description="policy, window, survivors and rounds as planned")
    in_rounds: Count = Field(description="scored rows that took more than one prompt")
    windows: Distribution = Field(description="prompts per row")
    final_items: Distribution = Field(description="documents in the last prompt, per row: those with the last round")
    cut_documents: Count = Field(description="documents that were cut, because the settings say so")
    cut_tokens: Count = Field(description="tokens that were cut off them")


class Movement(Record):
    """Where the candidates of each input rank went."""

    depth: int = Field(ge=1, description="ranks counted, d")
    counts: tuple[tuple[Count, ...], ...] = Field(description="d x d; row: input rank 1..d, column: new rank 1..d")

    @model_validator(mode="after")
    def _square(self) -> Self:
        shape = [len(row) for row in self.counts]
        if shape != [self.depth] * self.depth:
            raise ValueError(f"expected {self.depth} rows of {self.depth} counts, got rows of {shape}")
        return self


class Measure(Record):
    """One retrieval measure, averaged over the judged queries that were scored; larger is better."""

    name: str = Field(description="trec_eval name, e.g. nDCG@10")
    first_stage: float | None = Field(description="value of the input order")
    reranked: float = Field(description="value of the new order")
    fused: float | None = Field(description="value of both orders fused")
    difference: float | None = Field(description="reranked - first_stage")
    low: float | None = Field(description="lower end of the difference's 95 % paired bootstrap interval")
    high: float | None = Field(description="upper end of the same interval")


class Quality(Record):
    """Measures against judgements."""

    qrels: str = Field(description="URI of the judgements")
    judged_queries: Count = Field(description="queries with judgements that were scored: what the measures are over")
    missing_queries: Count | None = Field(
        default=None, description="queries with judgements that failed or are not in the input"
    )
    detection_queries: Count = Field(
        default=0, description="scored queries that the heads were found on; the measures leave them out, since 1.1"
    )
    measures: tuple[Measure, ...] = Field(description="measures, the most important first")


class RankedDoc(Record):
    """One place of a list."""

    doc_id: str = Field(description="document id")
    relevant: bool | None = Field(description="judged relevant, judged not relevant, or null: not judged")


class Example(Record):
    """One query before and after."""

    query_id: str = Field(description="query id")
    query: str = Field(description="query text")
    first_stage: tuple[RankedDoc, ...] = Field(description="input order, empty without a first stage")
    reranked: tuple[RankedDoc, ...] = Field(description="new order")


class ModelRecord(Record):
    """The model that scored."""

    id: str = Field(description="id or path")
    revision: str | None = Field(description="revision of the checkpoint")
    weights_sha256: str = Field(description="sha256 of the weights")
    setup_sha256: str = Field(description="sha256 of the configuration and the tokenizer's files")
    layers: Count = Field(description="layers of the checkpoint")
    kept_layers: Count = Field(description="layers loaded: down to the deepest head")


class HeadSetRecord(Record):
    """The heads that scored."""

    id: str = Field(description="id of the head set")
    heads: tuple[str, ...] = Field(description="heads as layer-head")


class PromptRecord(Record):
    """The prompt format."""

    name: str = Field(description="name of the format")
    sha256: str = Field(description="sha256 of its rendered parts")


class Provenance(Record):
    """What is needed to run this again."""

    code_version: str = Field(description="version of qrbatch")
    source_sha256: str = Field(description="sha256 of the installed sources")
    python: str = Field(description="version of Python")
    packages: Mapping[str, str] = Field(description="installed versions of the packages that matter")
    model: ModelRecord = Field(description="model")
    head_set: HeadSetRecord = Field(description="head set")
    prompt: PromptRecord = Field(description="prompt format")
    settings: Mapping[str, JsonValue] = Field(description="settings of the method")
    dtype: str = Field(description="dtype of the weights in memory")
    device: str = Field(description="device of the actors")
    config_hash: str = Field(description="hash of everything that can change the output")
    input_hash: str = Field(description="hash of the input list")


class RunReport(Record):
    """Everything `report.json` says about one run."""

    schema_version: Literal["1.0", "1.1", "1.2"] = Field(default="1.2", description="version of this schema")
    run: Run = Field(description="which run")
    asked: Asked = Field(description="what was asked")
    result: Result = Field(description="what came out")
    errors: tuple[ErrorGroup, ...] = Field(description="failed rows by code, most frequent first")
    throughput: Throughput = Field(description="how fast")
    cost: Cost | None = Field(default=None, description="what it took and cost, since 1.1")
    memory: tuple[ActorMemory, ...] = Field(default=(), description="predicted against measured memory, since 1.2")
    units: tuple[Unit, ...] = Field(description="every unit of the run")
    distributions: Distributions = Field(description="per-row distributions")
    contexts: Contexts | None = Field(default=None, description="windows and rounds, since 1.2")
    movement: Movement | None = Field(description="rank movement, null without a first stage")
    quality: Quality | None = Field(description="measures, null without judgements")
    examples: tuple[Example, ...] = Field(description="a few queries before and after")
    provenance: Provenance = Field(description="how to get this again")
    warnings: tuple[str, ...] = Field(default=(), description="what to know of head set and prompts")

    @model_validator(mode="after")
    def _every_failure_has_a_code(self) -> Self:
        coded = sum(group.count for group in self.errors)
        if coded != self.result.failed:
            raise ValueError(f"expected {self.result.failed} failed rows over all error codes, got {coded}")
        return self
