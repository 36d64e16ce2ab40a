"""The configuration of ``qrbatch detect``: one YAML file, every field documented."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jobs.config import ActorsConfig, ClusterConfig, CostConfig, LineageConfig, OutputConfig, StorageConfig, UnitsConfig
from jobs.settings import Section, run_name, setting


class ExamplesConfig(Section):
    """What goes in."""

    uris: tuple[str, ...] = setting(
        ...,
        "Parquet files, folders of them, or committed runs; local paths or s3://.",
        affects_output=False,
        flag="--input",
        uri=True,
        min_length=1,
    )
    on_bad_file: Literal["fail", "skip"] = setting(
        "fail", "What to do with a file that does not follow the input schema.", affects_output=True
    )


class DetectModelConfig(Section):
    """Which model heads are found in."""

    id: str = setting("embedded", "A model folder, a hub id, 'embedded' or 'embedded-gqa'.", affects_output=True)
    revision: str | None = setting(None, "Revision of a hub model.", affects_output=True)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Precision of the weights; auto: float32 on CPU, the checkpoint's on GPU.", affects_output=True
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N as the actor sees it.", affects_output=True)


class ReadingConfig(Section):
    """How attention is read."""

    prompt: str = setting("auto", "Prompt format: auto, chat, plain or a family's name.", affects_output=True)
    null_query: str = setting("N/A", "The query that scores are calibrated against.", affects_output=True)
    calibration_weight: float = setting(1.0, "Weight of the calibration; 0 switches it off.", affects_output=True, ge=0)
    query_span: Literal["official", "query"] = setting(
        "official", "Rows that attention is read from: the published code's, or the query's own.", affects_output=True
    )
    order: Literal["auto", "as_given", "reversed", "shuffled"] = setting(
        "auto", "Documents in the prompt; auto: as the authors of the method have them.", affects_output=True
    )
    allow_sliding_window: bool = setting(False, "Read prompts longer than the window of a layer.", affects_output=True)


class MethodsConfig(Section):
    """How heads are judged, and how many are chosen."""

    method: Literal["qrscore", "ndcg", "core", "share", "copy", "key_value"] = setting(
        "qrscore",
        "The method that chooses; the others are compared with it. copy: on needle trials (qrbatch needles) only; "
        "key_value: on trials that it makes of texts; share: for the stages of answer --method cafe.",
        affects_output=True,
        flag="--method",
    )
    top: int | None = setting(
        None,
        "Heads to choose; empty: 16, with key_value the larger of 4 and 5 % of all.",
        affects_output=True,
        flag="--top",
        gt=0,
    )
    max_layer: int | None = setting(
        None, "Deepest layer to choose from, counted from 0: a budget of depth.", affects_output=True, ge=0
    )
    ndcg_cutoff: int = setting(10, "Ranks that count for ndcg.", affects_output=True, gt=0)
    core_temperature: float = setting(
        0.001, "Temperature of core; its authors used 0.001 and 0.1.", affects_output=True, gt=0
    )
    seed: int = setting(0, "Seed of resampling and of random heads.", affects_output=True, ge=0)


class CopyingConfig(Section):
    """How heads are seen to copy; for ``method: copy``."""

    answering: Literal["teacher_forced", "decode"] = setting(
        "teacher_forced", "The needle itself is the answer, or the model generates it.", affects_output=True
    )
    max_new_tokens: int = setting(50, "Longest answer of decode.", affects_output=True, gt=0)
    answer_prefix: str = setting(
        "auto",
        "Text before the answer, {place} is the document's number; auto: '[{place}] ' in the embedded models' prompt.",
        affects_output=True,
    )
    mean: Literal["unconditional", "conditional"] = setting(
        "unconditional",
        "Which mean chooses: over all trials, or over those in which the model did answer with the needle.",
        affects_output=True,
    )
    controls: int = setting(
        20, "Sets of other heads that the causal check of needle trials masks; 0: no check.", affects_output=True, ge=0
    )


class KeyValueConfig(Section):
    """Which trials ``method: key_value`` makes: a JSON object of keys and sentences, and a value to give by its key."""

    count: int = setting(800, "Trials that heads are found on.", affects_output=True, gt=0)
    length: int | None = setting(
        None,
        "Tokens of a prompt and its answer, at most; empty: 4096, or what the model takes if that is less.",
        affects_output=True,
        gt=0,
    )
    proof: int = setting(
        40, "Further trials for the causal check, each answered once for every set.", affects_output=True, ge=0
    )
    seed: int = setting(0, "Seed of the trials.", affects_output=True, ge=0)


class DetectConfig(Section):
    """Everything ``qrbatch detect`` can be told."""

    name: str = run_name("detect", "Name of the run and of the head set")
    input: ExamplesConfig
    output: OutputConfig
    qrels: str | None = setting(
        None,
        "Judgements (Parquet); must be given, but for key_value, which makes its own.",
        affects_output=False,
        flag="--qrels",
        uri=True,
    )
    dataset_id: str = setting("not stated", "Name of the data, kept with the head set.", affects_output=True)
    contamination: str | None = setting(
        None, "What the choice has seen that must not be used to prove it.", affects_output=True
    )
    part: Literal["dev", "all"] = setting(
        "dev",
        "Queries to find heads on: 40 % of the ids, the others prove the choice; all: proved on what it has seen.",
        affects_output=True,
    )
    compare: tuple[str, ...] = setting(
        (),
        "Further head sets to prove the choice against: published or shipped ones by name, JSON files, or lists.",
        affects_output=True,
        flag="--compare",
    )
    model: DetectModelConfig = Field(default_factory=DetectModelConfig)
    reading: ReadingConfig = Field(default_factory=ReadingConfig)
    methods: MethodsConfig = Field(default_factory=MethodsConfig)
    copying: CopyingConfig = Field(default_factory=CopyingConfig)
    key_value: KeyValueConfig = Field(default_factory=KeyValueConfig)
    units: UnitsConfig = Field(default_factory=UnitsConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    cluster: ClusterConfig = Field(default_factory=ClusterConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    cost: CostConfig = Field(default_factory=CostConfig)
    lineage: LineageConfig = Field(default_factory=LineageConfig)
