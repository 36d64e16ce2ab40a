"""Rank candidates that may not fit one prompt: windows, rounds and pieces around a scorer.

The rounds of all requests are played together, so that windows of different requests share documents and passes as
whole requests do. What :mod:`qrcore.windows` decides is a function of a request, its scores and the settings alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from qrcore.contracts.scorer import Scorer
from qrcore.encoding import RequestEncoder
from qrcore.errors import ScoreError
from qrcore.pieces import Pieces, Prompt, encode_as_it_is
from qrcore.records import TRUNCATED_DOCUMENTS, UNINFORMATIVE_QUERY, RankedDocument, Ranking, RankRequest
from qrcore.requests import check_request
from qrcore.windows import ContextSettings, Item, Standing, final_order, going_on, in_context_order, standings


class ContextRanker:
    """Ranks with one scorer; ``settings`` with every limit that is not given taken from the scorer.

    Raises :class:`qrcore.errors.ConfigError` for a scorer whose memory holds no prompt.
    """

    def __init__(self, scorer: Scorer, settings: ContextSettings) -> None:
        limits = scorer.encoder.limits
        self._settings = settings.within(limits.max_tokens, limits.window, scorer.largest_pass)
        self._scorer = scorer
        # What memory allows is the scorer's own to say where nothing is cut into windows.
        pass_tokens = None if settings.plain else self._settings.pass_tokens
        self._encoder = scorer.encoder.within(settings.window_tokens, pass_tokens)

    def rank_many(self, requests: Iterable[RankRequest]) -> Iterator[Ranking | ScoreError]:
        """A ranking or the reason why there is none, for each request in order.

        A request that fits one prompt as it is gets the very answer of the scorer.
        """
        if self._settings.plain:
            yield from self._rank_plain(requests)
            return
        contests = [_Contest.of(request, self._encoder, self._settings) for request in requests]
        while unfinished := [contest for contest in contests if contest.prompts]:
            answers = self._scorer.rank_encoded([prompt.encoded for one in unfinished for prompt in one.prompts])
            for contest in unfinished:
                contest.take([next(answers) for _ in contest.prompts])
        yield from (contest.result() for contest in contests)

    def _rank_plain(self, requests: Iterable[RankRequest]) -> Iterator[Ranking | ScoreError]:
        if self._encoder.limits == self._scorer.encoder.limits:
            return self._scorer.rank_many(requests)
        return self._scorer.rank_encoded(list(self._encoder.encode_many(requests)))


@dataclass(slots=True, eq=False)
class _Contest:
    """One request on its way: ``prompts`` of the round that is to be played, none when it is over; ``rounds`` that
    were; ``ties``: input rank and id of each document. ``pieces`` is None while the request fits as it is."""

    request: RankRequest
    settings: ContextSettings
    ties: list[tuple[int, str]]
    pieces: Pieces | None = None
    prompts: list[Prompt] = field(default_factory=list)
    rounds: list[list[list[Standing]]] = field(default_factory=list)
    windows: int = 0
    prompt_tokens: int = 0
    _answer: Ranking | ScoreError | None = None

    @classmethod
    def of(cls, request: RankRequest, encoder: RequestEncoder, settings: ContextSettings) -> _Contest:
        """Ready for its first round, or over with the error that keeps it from it."""
        documents = enumerate(request.documents, start=1)
        ties = [(place if document.rank is None else document.rank, document.doc_id) for place, document in documents]
        contest = cls(request, settings, ties)
        try:
            contest._begin(encoder)
        except ScoreError as error:
            contest._end(error)
        return contest

    def take(self, answers: Sequence[Ranking | ScoreError]) -> None:
        """Take the answers to :attr:`prompts`, of which another round comes, or the end."""
        try:
            self._take([_ranking(answer) for answer in answers])
        except ScoreError as error:
            self._end(error)

    def result(self) -> Ranking | ScoreError:
        """The answer of a contest that is over."""
        if self._answer is None:
            raise RuntimeError("a contest is not over and was asked for its result; this is a defect")
        return self._answer

    def _begin(self, encoder: RequestEncoder) -> None:
        check_request(self.request)
        encoded, may_be_split = encode_as_it_is(self.request, encoder, self.settings)
        if encoded is not None and not may_be_split:
            self.prompts = [Prompt((), encoded)]
            return
        pieces = Pieces.of(self.request, encoder, self.settings)
        if encoded is not None and pieces.whole:
            self.prompts = [Prompt((), encoded)]
            return
        self.pieces, items = pieces, sorted(pieces.texts)
        if (prompt := pieces.together(items)) is not None:
            self.prompts = [prompt]
        elif self.settings.policy == "tournament":
            self.prompts = pieces.windows(items)
        else:
            raise ScoreError(
                "context_too_long",
                f"prompt: expected candidates of at most about {pieces.room} tokens together beside the query, got "
                f"about {sum(pieces.tokens.values())}. Pass fewer or shorter ones, choose a model with a longer "
                "context, or set contexts.policy to tournament.",
                stage="tokenise",
            )

    def _take(self, rankings: Sequence[Ranking]) -> None:
        self.windows += len(rankings)
        self.prompt_tokens += sum(ranking.prompt_tokens for ranking in rankings)
        if self.pieces is None:
            self._end(rankings[0])
        elif any(UNINFORMATIVE_QUERY in ranking.flags for ranking in rankings):
            self._end(self._ranking(self._unranked(), UNINFORMATIVE_QUERY))
        else:
            self._take_round(rankings, self.pieces)

    def _take_round(self, rankings: Sequence[Ranking], pieces: Pieces) -> None:
        number = len(self.rounds) + 1
        played = [
            standings(number, place, prompt.items, _scores(prompt, ranking, pieces), self.ties, self.settings)
            for place, (prompt, ranking) in enumerate(zip(self.prompts, rankings, strict=True))
        ]
        self.rounds.append(played)
        if len(played) == 1:
            self._end(self._ranking(final_order(self.rounds, self.ties)))
        else:
            self.prompts = self._next_prompts(pieces)

    def _next_prompts(self, pieces: Pieces) -> list[Prompt]:
        groups = going_on(self.rounds[-1], self.settings)
        if (prompt := pieces.together(in_context_order(groups))) is not None:
            return [prompt]
        if self.settings.rounds is not None and len(self.rounds) + 1 >= self.settings.rounds:
            return [self._last_prompt(groups, pieces)]
        return pieces.windows(in_context_order(groups))

    def _last_prompt(self, groups: Sequence[tuple[Item, ...]], pieces: Pieces) -> Prompt:
        """As many as fit of those who go on, the best of each window first: there are no more rounds."""
        firsts = len(self.rounds[-1])
        for kept in range(len(groups), firsts - 1, -1):
            if (prompt := pieces.together(in_context_order(groups[:kept]))) is not None:
                return prompt
        raise ScoreError(
            "context_too_long",
            f"contexts.rounds: expected the best of {firsts} windows to fit one prompt in the last round allowed "
            f"({self.settings.rounds}), they do not. Allow more rounds, or longer prompts.",
            stage="tokenise",
        )

    def _unranked(self) -> list[Standing]:
        order = sorted(range(len(self.ties)), key=self.ties.__getitem__)
        return [Standing(place, 1, 0, rank, 0.0, ()) for rank, place in enumerate(order, start=1)]

    def _ranking(self, ended: Sequence[Standing], *flags: str) -> Ranking:
        given, cut = self.request.documents, self.pieces.cut_tokens if self.pieces else {}
        documents = tuple(
            RankedDocument(
                doc_id=given[standing.document].doc_id,
                rank=rank,
                score=standing.score,
                input_rank=self.ties[standing.document][0],
                input_score=given[standing.document].score,
                round=standing.round,
                cut_tokens=cut.get(standing.document, 0),
            )
            for rank, standing in enumerate(ended, start=1)
        )
        told = (*flags, TRUNCATED_DOCUMENTS) if cut else flags
        return Ranking(self.request.query_id, documents, self.prompt_tokens, self.windows, told)

    def _end(self, answer: Ranking | ScoreError) -> None:
        if isinstance(answer, ScoreError):
            answer.query_id = self.request.query_id
            answer.__traceback__ = answer.__context__ = None  # frames hold the texts of the whole context
        self._answer = answer
        self.prompts, self.pieces, self.rounds = [], None, []


def _ranking(answer: Ranking | ScoreError) -> Ranking:
    if isinstance(answer, ScoreError):
        raise answer
    return answer


def _scores(prompt: Prompt, ranking: Ranking, pieces: Pieces) -> list[float]:
    """The scores of a prompt's items, in their order."""
    by_id = {document.doc_id: document.score for document in ranking.documents}
    return [by_id[pieces.texts[item].doc_id] for item in prompt.items]
