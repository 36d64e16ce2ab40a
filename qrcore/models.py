"""Load a decoder once, cut down to the layers that a head set needs."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from qrcore.checkpoint import kept_shards
from qrcore.errors import ModelError, ScoreError
from qrcore.families import check_supported
from qrcore.heads import HeadSet, ModelShape, read_head_set
from qrcore.shipped import EMBEDDED_MODELS, embedded_folder

_HEAD_SET_FILE: Final = "headset.json"
_COPY_HEAD_SET_FILE: Final = "copy_headset.json"
_WEIGHT_FILES: Final = ("*.safetensors", "*.safetensors.index.json")
_SETUP_FILES: Final = (
    "config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "*.jinja",
    _HEAD_SET_FILE,
)
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from and what is known of it without reading weights; ``head_set`` and ``copy_head_set``: the
    heads that it ships for retrieval (``headset.json``) and those that copy (``copy_headset.json``)."""

    model_id: str
    path: str
    revision: str | None
    config: PreTrainedConfig
    shape: ModelShape
    head_set: HeadSet | None
    copy_head_set: HeadSet | None = None

    @property
    def copying_heads(self) -> HeadSet | None:
        """The shipped heads that copy; those for retrieval where it ships no others."""
        return self.copy_head_set or self.head_set

    @property
    def max_tokens(self) -> int:
        """The longest prompt the model is made for: its position limit, scaled where its RoPE is scaled."""
        return scaled_position_limit(self.config)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A decoder without LM head, its tokenizer, and how many layers were kept."""

    source: ModelSource
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel:
    """A model with all layers and its LM head (``model``), for generating; ``decoder`` is the same weights without the
    head, for reading attention."""

    model: PreTrainedModel
    decoder: LoadedModel

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens after which the model's authors stop generating."""
        ids = self.model.generation_config.eos_token_id
        return tuple(ids) if isinstance(ids, list) else () if ids is None else (int(ids),)


def open_model(model: str, revision: str | None = None) -> ModelSource:
    """Read a model's configuration and shipped head set, no weights.

    ``model``: a folder, a hub id, or a name of :data:`~qrcore.shipped.EMBEDDED_MODELS`. A hub id is pinned to the
    commit that ``revision`` means now. Raises :class:`ModelError`.
    """
    path = str(embedded_folder(model)) if model in EMBEDDED_MODELS else model
    if not Path(path).is_dir():
        path = _download(model, revision, (*_SETUP_FILES, _COPY_HEAD_SET_FILE))
        revision = Path(path).name  # the hub's cache names a snapshot by its commit
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise ModelError(
            f"model {model!r}: expected a folder with a valid config.json; {_first_line(error)}. "
            "Give the folder of a downloaded model."
        ) from error
    check_supported(config)
    shipped = (_shipped_head_set(Path(path, name)) for name in (_HEAD_SET_FILE, _COPY_HEAD_SET_FILE))
    return ModelSource(model, path, revision, config, model_shape(config), *shipped)


def _download(model: str, revision: str | None, patterns: Sequence[str]) -> str:
    """The local snapshot of a hub model with the files of ``patterns``; raises :class:`ModelError`."""
    try:
        return snapshot_download(model, revision=revision, allow_patterns=list(patterns))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(
            f"model {model!r}: expected a folder with config.json or a hub id that can be reached; "
            f"{_first_line(error)}. Give the folder of a downloaded model."
        ) from error


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises :class:`ModelError`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {source.model_id!r}: expected a tokenizer beside the weights; {_first_line(error)}. "
            "Put tokenizer.json and tokenizer_config.json into the model's folder."
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_model(source: ModelSource, depth: int, *, dtype: str = "auto", device: str = "auto") -> LoadedModel:
    """Load the first ``depth`` layers; weights above them are neither read nor built. safetensors only.

    ``dtype="auto"``: float32 on a CPU, the checkpoint's own half precision on a GPU. Raises :class:`ModelError`.
    """
    # "eager" is the one kind of attention that every family has.
    model = _load(AutoModel, source, cut_config(source.config, depth), "eager", dtype, device)
    return LoadedModel(source, model, load_tokenizer(source), depth)


def load_language_model(source: ModelSource, *, dtype: str = "auto", device: str = "auto") -> LanguageModel:
    """Load all layers and the LM head; as :func:`load_model` otherwise."""
    # The fused kernels leave a softcap out.
    attention = "eager" if getattr(source.config, "attn_logit_softcapping", None) else "sdpa"
    model = _load(AutoModelForCausalLM, source, copy.deepcopy(source.config), attention, dtype, device)
    decoder: Any = model.base_model  # typed as any module
    return LanguageModel(model, LoadedModel(source, decoder, load_tokenizer(source), source.shape.layers))


def _load(
    kind: type[Any], source: ModelSource, config: PreTrainedConfig, attention: str, dtype: str, device: str
) -> PreTrainedModel:
    target = resolve_device(device)
    try:
        with quiet_transformers(), kept_shards(_folder_with_weights(source), config.num_hidden_layers) as folder:
            model, report = kind.from_pretrained(
                folder,
                config=config,
                dtype=resolve_dtype(dtype, target, source.config),
                attn_implementation=attention,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # reported, and refused below
                output_loading_info=True,
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"model {source.model_id!r}: expected weights as safetensors; {_first_line(error)}. "
            "Complete the download, or convert the checkpoint with save_pretrained(..., safe_serialization=True)."
        ) from error
    _check_complete(source, report)
    model.requires_grad_(False)
    loaded: PreTrainedModel = model.to(target).eval()
    return loaded


def _folder_with_weights(source: ModelSource) -> str:
    on_this_machine = source.model_id in EMBEDDED_MODELS or Path(source.model_id).is_dir()
    return source.path if on_this_machine else _download(source.model_id, source.revision, _WEIGHT_FILES)


def _check_complete(source: ModelSource, report: dict[str, Any]) -> None:
    # What a checkpoint lacks is filled with random numbers, on which every later check would agree with itself.
    wrong = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if wrong:
        raise ModelError(
            f"model {source.model_id!r}: expected all weights up to the deepest head's layer; missing or of another "
            f"shape: {', '.join(wrong[:3])}{', …' if len(wrong) > 3 else ''}. Complete the download of this checkpoint."
        )


def model_shape(config: PreTrainedConfig) -> ModelShape:
    """The numbers of ``config`` that a head set depends on."""
    heads = config.num_attention_heads
    return ModelShape(
        layers=config.num_hidden_layers,
        query_heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab_size=config.vocab_size,
        rope=getattr(config, "rope_parameters", None) or None,
    )


def cut_config(config: PreTrainedConfig, depth: int) -> PreTrainedConfig:
    """A copy for the first ``depth`` layers, with every per-layer list shortened alike.

    Setting ``num_hidden_layers`` alone leaves lists such as ``layer_types`` too long, which several families refuse.
    """
    layers = config.num_hidden_layers
    if not 1 <= depth <= layers:
        raise ModelError(f"depth: expected 1 to {layers} layers for this model, got {depth}. Check the head set.")
    cut = copy.deepcopy(config)
    cut.num_hidden_layers = depth
    for name, value in vars(config).items():
        if isinstance(value, (list, tuple)) and len(value) == layers and _is_per_layer(name):
            setattr(cut, name, value[:depth])
    return cut


def _is_per_layer(name: str) -> bool:
    # Lists that may happen to be as long as the model is deep: stop tokens and class names.
    return not name.endswith(("token_id", "token_ids")) and name != "architectures"


def scaled_position_limit(config: PreTrainedConfig) -> int:
    """``max_position_embeddings``, or, where the configuration names one, the original limit times the RoPE factor."""
    limit = int(config.max_position_embeddings)
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    original, factor = parameters.get("original_max_position_embeddings"), parameters.get("factor")
    if original and factor and parameters.get("rope_type") != "llama3":
        return max(limit, int(original * factor))
    return limit


def resolve_device(device: str) -> torch.device:
    """``auto`` is the first GPU, else the CPU. Raises :class:`ModelError`."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}. Correct it.") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r}: expected a GPU that torch can use, found none. Use device=cpu or auto.")
    return target


def resolve_dtype(dtype: str, device: torch.device, config: PreTrainedConfig) -> torch.dtype:
    """``auto``: float32 on a CPU; on a GPU the checkpoint's bfloat16 or float16, else float32."""
    if dtype == "auto":
        stored = getattr(config, "dtype", None)
        return stored if device.type == "cuda" and stored in (torch.bfloat16, torch.float16) else torch.float32
    if dtype not in _DTYPES:
        raise ModelError(f"dtype: expected auto, {', '.join(_DTYPES)}; got {dtype!r}. Choose one of these.")
    return _DTYPES[dtype]


def weights_sha256(folder: str) -> str:
    """SHA-256 over the names and contents of a model folder's safetensors files."""
    return _files_sha256(Path(folder), _WEIGHT_FILES)


def setup_sha256(folder: str) -> str:
    """SHA-256 over the configuration and the tokenizer's files, which decide scores as much as the weights do."""
    return _files_sha256(Path(folder), _SETUP_FILES)


def _files_sha256(folder: Path, patterns: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern)}):
        digest.update(file.name.encode() + b"\0" + _file_sha256(file))
    return digest.hexdigest()


def use_threads(threads: int) -> None:
    """Set how many CPU threads torch uses in this process (Ray sets one)."""
    torch.set_num_threads(threads)


@contextmanager
def out_of_memory_as_error() -> Iterator[None]:
    """Turn running out of memory into a :class:`ScoreError` of one row (kind ``transient``)."""
    problem = ""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        problem = _first_line(error) or "out of memory"
    except RuntimeError as error:
        # A failed allocation on the CPU is a plain RuntimeError, known by its text only. Other errors that speak of
        # memory (an illegal access on a GPU) leave the process unusable and must not pass for a large row.
        if "DefaultCPUAllocator: can't allocate memory" not in str(error):
            raise
        problem = _first_line(error)
    if problem:
        torch.cuda.empty_cache()
        raise ScoreError(
            "oom",
            f"memory: expected this prompt to fit, and it did not ({problem}). "
            "Run again with fewer actors, shorter candidates or more memory.",
            stage="score",
        ) from None


def _file_sha256(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _shipped_head_set(file: Path) -> HeadSet | None:
    return read_head_set(file.read_text(encoding="utf-8"), str(file)) if file.is_file() else None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Loading and saving without reports and progress bars on the terminal."""
    # The loading report lists every weight above the cut as unexpected: true, wanted, and hundreds of lines long.
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
