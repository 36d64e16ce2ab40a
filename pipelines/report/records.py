"""The records that reports of several jobs share.

Counts are numbers of rows unless the field says otherwise, `seconds` are seconds. Times are ISO-8601 with a time zone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """Values that do not change; unknown fields and numbers that are none are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Run(Record):
    """Which run this is and how it ended."""

    run_id: str = Field(description="<name>-<12 hex>, from the configuration and the input")
    job: str = Field(description="job of the command line, e.g. rerank")
    name: str = Field(description="name given by the user, by default the job")
    status: str = Field(description="committed, or the state in which the run stopped")
    started_at: AwareDatetime = Field(description="start of this driver")
    finished_at: AwareDatetime = Field(description="end of the last unit's write, seen by this driver")
    seconds: Seconds = Field(description="wall seconds of this driver")
    output: str = Field(description="URI of the run's folder")
    driver: str = Field(description="uuid of the driver that wrote this report")
    resumed: bool = Field(description="true where earlier drivers had already finished units of this run")


class SourceRow(Record):
    """The identity of an input row, even where `query_id` is null or doubled."""

    uri: str = Field(description="URI of the input file")
    row: Count = Field(description="row number in the file, from 0")


class ErrorExample(Record):
    """One failed row."""

    query_id: str | None = Field(description="query id, null where the row has none")
    source: SourceRow = Field(description="where the row stands in the input")
    message: str = Field(description="what was expected, what came, what to do")


class ErrorGroup(Record):
    """All failed rows of one error code."""

    code: str = Field(description="error code")
    kind: str = Field(description="input (permanent) or transient")
    count: Count = Field(description="rows with this code")
    examples: tuple[ErrorExample, ...] = Field(description="the first few of them")


class Distribution(Record):
    """A histogram with its percentiles; percentiles are null and the lists empty where nothing was measured."""

    p5: float | None = Field(description="5th percentile")
    p50: float | None = Field(description="median")
    p95: float | None = Field(description="95th percentile")
    max: float | None = Field(description="largest value")
    edges: tuple[float, ...] = Field(description="bin edges, ascending, one more than counts")
    counts: tuple[Count, ...] = Field(description="how many per bin")

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if len(self.edges) != (len(self.counts) + 1 if self.counts else 0):
            raise ValueError(f"expected one more edge than counts, got {len(self.edges)} and {len(self.counts)}")
        if any(low > high for low, high in pairwise(self.edges)):
            raise ValueError(f"expected ascending edges, got {self.edges}")
        return self
