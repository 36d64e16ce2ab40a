"""How many rows may fail before a run is stopped instead of committed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pipelines.attempts import killer_message
from pipelines.commit import StoredUnit
from qrcore.errors import ErrorLimitError

#: A rate over fewer rows says nothing.
_FEWEST_ROWS: Final = 200
#: Rows that were set aside rather than failed.
_NOT_FAILED: Final = frozenset({"nothing_relevant", "no_needle"})


@dataclass(slots=True)
class ErrorTally:
    """Counts what failed, unit by unit, and raises :class:`ErrorLimitError` when it is too much."""

    max_error_rate: float
    max_killer_rows: int
    rows: int = 0
    failed: int = 0
    killers: int = 0
    killed_on: set[str] = field(default_factory=set)

    def add(self, footer: Mapping[str, Any]) -> None:
        """Take in a unit's footer, and judge."""
        errors = footer["errors"]
        self.rows += footer["rows"]
        self.failed += sum(number for code, number in errors.items() if code not in _NOT_FAILED)
        self.killers += footer.get("killers", 0)
        self.killed_on |= set(footer.get("killed_on", ()))
        self.judge()

    def judge(self) -> None:
        """Raise :class:`ErrorLimitError` if more failed than is allowed."""
        if self.killers > self.max_killer_rows:
            raise ErrorLimitError(killer_message(self.killers, sorted(self.killed_on), self.max_killer_rows))
        if self.rows >= _FEWEST_ROWS and self.failed > self.max_error_rate * self.rows:
            raise ErrorLimitError(
                f"rows: expected at most {self.max_error_rate:.2%} to fail (units.max_error_rate), {self.failed} of "
                f"{self.rows} did ({self.failed / self.rows:.2%}). Nothing is committed: correct the input, or score "
                "them again (qrbatch clean RUN --units-with-errors), or raise the limit."
            )


def judged(units: Iterable[StoredUnit], tally: ErrorTally) -> Iterator[StoredUnit]:
    """The same units; raises :class:`ErrorLimitError` at the end if too many rows failed."""
    rates = ErrorTally(1.0, tally.max_killer_rows)  # judged as a whole: how errors lie among units says nothing now
    for stored in units:
        rates.add(stored.footer)
        yield stored
    tally.rows, tally.failed = rates.rows, rates.failed
    tally.judge()
