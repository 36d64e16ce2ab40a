"""The configuration of ``qrbatch rerank``: one YAML file, every field documented."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from jobs.settings import Section, run_name, setting


class InputConfig(Section):
    """What goes in."""

    uris: tuple[str, ...] = setting(
        ...,
        "Parquet files, folders of them, or committed runs; local paths or s3://.",
        affects_output=False,
        flag="--input",
        uri=True,
        min_length=1,
    )
    carry: Literal["all", "none"] | tuple[str, ...] = setting(
        "all",
        "Further columns to copy from input to output: all, none or a list of names.",
        affects_output=True,
        expected="all, none or a list of names",
    )
    on_bad_file: Literal["fail", "skip"] = setting(
        "fail", "What to do with a file that does not follow the input schema.", affects_output=True
    )
    rows_from: str | None = setting(
        None,
        "A committed run (RUN/errors) whose failed rows are scored again, as a run of their own.",
        affects_output=False,
        flag="--rows-from",
    )


class OutputConfig(Section):
    """Where it goes."""

    uri: str = setting(
        ..., "Folder of runs; this run stands in <uri>/<run_id>/.", affects_output=False, flag="--output", uri=True
    )


class ModelConfig(Section):
    """Which model and which heads."""

    id: str = setting("embedded", "A model folder, a hub id, 'embedded' or 'embedded-gqa'.", affects_output=True)
    revision: str | None = setting(None, "Revision of a hub model.", affects_output=True)
    heads: str | None = setting(
        None,
        "Head set: a list such as 3-1,4-0, 'all', a name or a JSON file; empty: the model's own.",
        affects_output=True,
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Precision of the weights; auto: float32 on CPU, the checkpoint's on GPU.", affects_output=True
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N as the actor sees it.", affects_output=True)
    on_mismatch: Literal["refuse", "warn"] = setting(
        "refuse",
        "A head set that was found for another revision or other weights than the model's.",
        affects_output=False,
        flag="--allow-model-mismatch",
    )


class ScoringConfig(Section):
    """How documents are scored."""

    prompt: str = setting("auto", "Prompt format: auto, chat, plain or a family's name.", affects_output=True)
    null_query: str = setting("N/A", "The query that scores are calibrated against.", affects_output=True)
    calibration_weight: float = setting(1.0, "Weight of the calibration; 0 switches it off.", affects_output=True, ge=0)
    query_span: Literal["official", "query"] = setting(
        "official", "Rows that attention is read from: the published code's, or the query's own.", affects_output=True
    )
    order: Literal["auto", "as_given", "reversed", "shuffled"] = setting(
        "auto", "Documents in the prompt; auto: best last where first-stage scores exist.", affects_output=True
    )
    order_seed: int = setting(0, "Seed of the order shuffled.", affects_output=True, ge=0)
    document_special_tokens: Literal["text", "parse"] = setting(
        "text",
        "Special-token text inside documents: plain text, or parsed as the published code does.",
        affects_output=True,
    )
    allow_sliding_window: bool = setting(
        False, "Score prompts longer than the window of a chosen head's layer.", affects_output=True
    )


class ContextsConfig(Section):
    """What to do about candidates that do not fit one prompt."""

    policy: Literal["error", "tournament"] = setting(
        "error",
        "A list that does not fit one prompt: an error row, or windows whose best meet in one last prompt.",
        affects_output=True,
        flag="--contexts",
    )
    long_documents: Literal["whole", "split_and_pool", "truncate_documents"] = setting(
        "whole",
        "A document over max_document_tokens: left whole, scored as pieces that are pooled, or cut and counted.",
        affects_output=True,
    )
    max_document_tokens: int | None = setting(
        None, "Tokens of a document's text; empty: a quarter of a window.", affects_output=True, gt=0
    )
    pooling: Literal["max", "mean"] = setting(
        "max", "Score of a split document: the best of its pieces, or the mean of its best.", affects_output=True
    )
    pool_top: int = setting(3, "How many pieces the mean is taken of.", affects_output=True, gt=0)
    survivors: int = setting(10, "Documents that a window sends on at most.", affects_output=True, gt=0)
    rounds: int | None = setting(
        None, "Prompts that a document is in at most; empty: as many as it takes.", affects_output=True, ge=2
    )
    window_tokens: int | None = setting(
        None, "Tokens of a prompt at most; empty: what the model is made for.", affects_output=True, gt=0
    )


class EngineConfig(Section):
    """How actors use their machine; scores change by rounding at most."""

    pack_tokens: int = setting(
        4096,
        "Tokens of short prompts that share a pass; 0: each alone, so that no neighbour changes the rounding.",
        affects_output=True,
        ge=0,
    )
    chunk_tokens: int = setting(2048, "Tokens that go through a layer at once.", affects_output=True, gt=0)
    memory_bytes: int | None = setting(
        None,
        "Bytes that weights and a pass may take: rows that need more fail, windows are cut to fit. Empty: no limit.",
        affects_output=True,
        gt=0,
    )
    attention_kernel: Literal["auto", "flash", "cudnn", "efficient", "math"] = setting(
        "auto", "Attention kernel of a GPU; auto: torch chooses.", affects_output=True
    )
    compile: bool = setting(
        False,
        "Compile norms and MLPs when an actor starts (torch.compile; needs a C++ compiler, on a GPU Triton).",
        affects_output=True,
    )


class ReportConfig(Section):
    """What the report shows."""

    examples: bool = setting(True, "Show some queries with their texts.", affects_output=False)


class UnitsConfig(Section):
    """How the input is cut into units of work."""

    max_bytes: int = setting(64 * 2**20, "Decoded text of a unit, in bytes.", affects_output=False, gt=0)
    max_rows: int = setting(64, "Rows of a unit.", affects_output=False, gt=0)
    max_row_bytes: int = setting(
        256 * 2**20, "Decoded text of one row, in bytes, above which it is an error row.", affects_output=True, gt=0
    )
    max_error_rate: float = setting(
        0.05,
        "Share of failed rows, of 200 or more, above which nothing is committed.",
        affects_output=False,
        ge=0,
        le=1,
    )
    max_killer_rows: int = setting(
        10, "Rows that may kill the process that scores them before the run stops.", affects_output=False, ge=0
    )


class ActorsConfig(Section):
    """The processes that hold the model."""

    count: int = setting(2, "Number of scoring actors.", affects_output=False, gt=0)
    cpus: float = setting(1.0, "CPUs that Ray reserves for one actor.", affects_output=False, gt=0)
    gpus: float = setting(0.0, "GPUs that Ray reserves for one actor.", affects_output=False, ge=0)
    threads: int = setting(1, "CPU threads of torch in one actor.", affects_output=False, gt=0)
    tokenisers: int | None = setting(
        None,
        "Actors of half a CPU that tokenise whole lists ahead; empty: as many as scoring actors with GPUs, else none.",
        affects_output=False,
        ge=0,
    )
    start_timeout_s: float = setting(
        600.0, "Seconds to wait for a node that can hold an actor.", affects_output=False, gt=0
    )


class ClusterConfig(Section):
    """Where the work runs."""

    address: str | None = setting(None, "Ray address to join; empty: start Ray on this machine.", affects_output=False)


class CostConfig(Section):
    """What an hour costs, for the report's prices."""

    cpu_hour: float | None = setting(None, "Price of one CPU for an hour.", affects_output=False, ge=0)
    gpu_hour: float | None = setting(None, "Price of one GPU for an hour.", affects_output=False, ge=0)
    currency: str = setting("USD", "Currency of the prices.", affects_output=False)


class LineageConfig(Section):
    """Who is told of runs, in OpenLineage events; a token for the endpoint comes from OPENLINEAGE_API_KEY."""

    uri: str | None = setting(
        None,
        "An HTTP endpoint, such as http://marquez:5000/api/v1/lineage, or a folder for a JSON file an event.",
        affects_output=False,
        uri=True,
    )
    namespace: str = setting("qrbatch", "Namespace of the jobs in events.", affects_output=False, min_length=1)
    timeout_s: float = setting(5.0, "Seconds to wait for the endpoint.", affects_output=False, gt=0)

    @field_validator("uri")
    @classmethod
    def _without_credentials(cls, uri: str | None) -> str | None:
        return _address_without_credentials(uri)


class StorageConfig(Section):
    """How to reach object storage; credentials come from the environment or the machine's role."""

    endpoint_url: str | None = setting(
        None, "S3 endpoint; empty: AWS_ENDPOINT_URL or AWS.", affects_output=False, uri=True
    )
    region: str | None = setting(None, "S3 region.", affects_output=False)
    path_style: bool = setting(False, "Put the bucket into the path instead of the host name.", affects_output=False)
    shared: bool = setting(False, "Local paths are the same on every node of the cluster.", affects_output=False)
    timeout_s: float = setting(60.0, "Seconds to wait for a connection or an answer.", affects_output=False, gt=0)
    retries: int = setting(
        6, "Attempts of a request that was throttled, reset or met a server's error.", affects_output=False, gt=0
    )

    @field_validator("endpoint_url")
    @classmethod
    def _without_credentials(cls, endpoint_url: str | None) -> str | None:
        return _address_without_credentials(endpoint_url)


def _address_without_credentials(address: str | None) -> str | None:
    if address and holds_credentials(address):
        raise PydanticCustomError("credentials", "expected an address without user and password")
    return address


def holds_credentials(address: str) -> bool:
    """Whether an address names a user before its host: such a one would be written into plans and manifests."""
    return "@" in address.split("://", 1)[-1].split("/", 1)[0]


class RerankConfig(Section):
    """Everything ``qrbatch rerank`` can be told."""

    name: str = run_name("rerank")
    input: InputConfig
    output: OutputConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    scoring: ScoringConfig = Field(default_factory=ScoringConfig)
    contexts: ContextsConfig = Field(default_factory=ContextsConfig)
    engine: EngineConfig = Field(default_factory=EngineConfig)
    join: bool = setting(False, "Help another driver that works on the same run.", affects_output=False, flag="--join")
    qrels: str | None = setting(
        None, "Judgements (Parquet) for the report's quality table.", affects_output=False, flag="--qrels", uri=True
    )
    report: ReportConfig = Field(default_factory=ReportConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    lineage: LineageConfig = Field(default_factory=LineageConfig)
