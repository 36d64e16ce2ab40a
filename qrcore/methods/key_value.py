"""Retrieval heads by the proxy task of AttentionInfluence (Hua et al., arXiv 2505.07293): values are copied by key.

As the paper describes it: 800 generated prompts, each a JSON object of as many pairs as fit 4,096 tokens, close to that
and not above; a key is a random run of 32 letters and digits, a value a sentence of the web, at most 30 tokens; the
task is to give the value of a key and nothing else, behind three solved examples. Heads are scored as by Wu et al.
(arXiv 2404.15574), and the best 5 % are taken. The wording of the task is ours; how many pairs, which of them are asked
for, and whether trials that fail count is not told there. Here the asked key and those of the examples are different
pairs of the object, drawn by the trial's number.

A trial succeeds if the model's own greedy answer holds more than half of the value's tokens. Values of heads are read
teacher-forced, with the value itself as the answer; where the model answers with it they are the same. So one reading
gives the mean over successful trials and the one over all of them, and small models that solve none are not left
without a score.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from string import ascii_letters, digits
from typing import Any, Final

from qrcore.contracts.copy_detector import CopyOutcome, CopyTrial, PairTrial
from qrcore.contracts.method import Method, Needs
from qrcore.copying import head_shares, token_recall, trial_problem
from qrcore.decode import decode_greedy
from qrcore.errors import ConfigError, InputError, ScoreError
from qrcore.heads import ModelShape
from qrcore.models import LanguageModel, out_of_memory_as_error
from qrcore.records import Span
from qrcore.tokens import PromptEncoder

_TASK: Final = "Extract the value of the key from the JSON object below. Output the value and nothing else.\n\n"
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")
_KEY_LENGTH: Final = 32
_LENGTH: Final = 4096
_FEWEST_HEADS: Final = 4
#: Words of a sentence: a shorter one can be answered without looking.
_FEWEST_WORDS: Final = 4

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class KeyValueSettings:
    """``count``: trials that heads are found on; ``length``: tokens of a prompt with its answer at most, None for
    4,096 or what the model takes if that is less; ``top``: heads to choose, None for the larger of 4 and 5 % of all;
    ``examples``: solved ones in a prompt; ``value_tokens``: where a sentence is cut.

    Raises :class:`ConfigError` for values that no trial can be made with.
    """

    count: int = 800
    length: int | None = None
    top: int | None = None
    examples: int = 3
    value_tokens: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"count": 1, "length": 1, "top": 1, "examples": 0, "value_tokens": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}: expected at least {least}, got {value}. Raise it.")


class KeyValue:
    """See :class:`qrcore.contracts.copy_detector.PairDetector`."""

    def __init__(self, settings: KeyValueSettings) -> None:
        self._settings = settings

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything beside model and texts that values depend on."""
        return asdict(self._settings)

    def top(self, shape: ModelShape) -> int:
        """The larger of 4 and 5 % of all heads, unless told otherwise."""
        return self._settings.top or max(_FEWEST_HEADS, shape.layers * shape.query_heads // 20)

    def trials(
        self, texts: Sequence[str], encoder: PromptEncoder, max_tokens: int, numbers: Iterable[int]
    ) -> Iterator[PairTrial]:
        """See the contract. Raises :class:`InputError` for texts with too few sentences, :class:`ConfigError` for a
        length that the model does not take or that holds too few pairs."""
        length = self._length(max_tokens)
        sentences = _Sentences(texts, encoder, self._settings.value_tokens)
        for number in numbers:
            yield self._trial(sentences, encoder, length, number)

    def copy_trial(self, encoder: PromptEncoder, pairs: Sequence[Pair], place: int) -> CopyTrial:
        """See the contract."""
        text, characters = _prompt(pairs, self._examples(pairs, place), place)
        return CopyTrial(*encoder.encode_plain(text, characters))

    def outcomes(self, model: LanguageModel, trials: Sequence[CopyTrial]) -> list[CopyOutcome | ScoreError]:
        """Teacher-forced values of each trial beside the model's own answer, or why there are none."""
        return [trial_problem(model, trial, len(trial.needle_ids)) or _outcome(model, trial) for trial in trials]

    def _length(self, max_tokens: int) -> int:
        length = self._settings.length or min(_LENGTH, max_tokens)
        if length > max_tokens:
            raise ConfigError(
                f"length: expected at most {max_tokens} tokens for this model, got {length}. Lower it, or leave it out."
            )
        return length

    def _examples(self, pairs: Sequence[Pair], place: int) -> list[int]:
        """The pairs that are asked for and answered before: the same ones whoever builds the prompt."""
        others = [other for other in range(len(pairs)) if other != place]
        return random.Random(pairs[place][0]).sample(others, self._settings.examples)

    def _trial(self, sentences: _Sentences, encoder: PromptEncoder, length: int, number: int) -> PairTrial:
        draw = random.Random(f"{self._settings.seed} {number}")
        pairs = _enough_pairs(sentences, encoder, length, draw)
        asked = draw.random()
        while len(pairs) > self._settings.examples + 1:
            place = int(asked * len(pairs))
            trial = self.copy_trial(encoder, pairs, place)
            if len(trial.prompt_ids) + len(trial.needle_ids) <= length:
                return PairTrial(number, tuple(pairs), place)
            pairs.pop()
        raise ConfigError(
            f"length: expected room for {self._settings.examples + 2} pairs, {length} tokens hold fewer. Raise it."
        )


def _outcome(model: LanguageModel, trial: CopyTrial) -> CopyOutcome:
    wanted = trial.needle_ids
    with out_of_memory_as_error():
        (said,) = decode_greedy(model.model, [trial.prompt_ids], len(wanted), model.end_ids)
    return CopyOutcome(head_shares(model, trial, (), wanted), said.ids, token_recall(said.ids, wanted))


def _enough_pairs(sentences: _Sentences, encoder: PromptEncoder, length: int, draw: random.Random) -> list[Pair]:
    """At least as many as fit: what stands around them is not counted."""
    pairs: dict[str, str] = {}  # by value: a value that stands there twice has no one key
    room = length
    for value in sentences.drawn(draw):
        if value not in pairs:
            pairs[value] = "".join(draw.choices(ascii_letters + digits, k=_KEY_LENGTH))
            room -= encoder.count(_line(pairs[value], value))
        if room < 0:
            return [(key, value) for value, key in pairs.items()]
    raise InputError(
        f"texts: expected different sentences for a prompt of {length} tokens, got {len(pairs)}, {room} tokens short. "
        "Give more texts, or lower the length."
    )


def _prompt(pairs: Sequence[Pair], examples: Sequence[int], place: int) -> tuple[str, Span]:
    """The text up to where the answer begins, and the characters of the value that is asked for."""
    before = _TASK + "{\n" + "".join(_line(*pair) for pair in pairs[:place])
    key, value = pairs[place]
    start = len(before) + len(_before_value(key))
    solved = "".join(f'Key: "{pairs[one][0]}"\nValue: "{pairs[one][1]}"\n\n' for one in examples)
    # Up to the opening quote, so that the answer's tokens are those of the value in the object.
    asked = f'Key: "{key}"\nValue: "'
    text = before + "".join(_line(*pair) for pair in pairs[place:]) + "}\n\n" + solved + asked
    return text, Span(start, start + len(value))


def _before_value(key: str) -> str:
    return f' "{key}": "'


def _line(key: str, value: str) -> str:
    return f'{_before_value(key)}{value}",\n'


class _Sentences:
    """Sentences that mean the same in JSON as outside of it, cut when they are first drawn."""

    def __init__(self, texts: Sequence[str], encoder: PromptEncoder, most_tokens: int) -> None:
        found = (sentence for text in texts for sentence in _SENTENCE_END.split(" ".join(text.split())))
        self._all = list(dict.fromkeys(one for one in found if _is_plain(one)))
        self._encoder = encoder
        self._most_tokens = most_tokens

    def drawn(self, draw: random.Random) -> Iterator[str]:
        """All of them in an order by chance."""
        left = list(range(len(self._all)))
        while left:
            place = draw.randrange(len(left))
            left[place], left[-1] = left[-1], left[place]
            yield self._cut(self._all[left.pop()])

    def _cut(self, sentence: str) -> str:
        offsets = self._encoder.offsets(sentence)
        if len(offsets) <= self._most_tokens:
            return sentence
        return sentence[: offsets[self._most_tokens - 1][1]].rstrip()


def _is_plain(sentence: str) -> bool:
    return len(sentence.split()) >= _FEWEST_WORDS and json.dumps(sentence, ensure_ascii=False) == f'"{sentence}"'


def build(**settings: Any) -> KeyValue:
    """The method; ``settings``: fields of :class:`KeyValueSettings`."""
    return KeyValue(KeyValueSettings(**settings))


METHOD = Method(
    name="key_value",
    kind="copy_detector",
    source="AttentionInfluence, arXiv 2505.07293, proxy task for retrieval heads",
    needs=Needs(depth="full"),
    build=build,
)
