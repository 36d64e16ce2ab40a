"""Numbers, names and times as people read them."""

from __future__ import annotations

import json
import re
from datetime import datetime

from markupsafe import Markup

from pipelines.report import charts
from pipelines.report.records import Distribution


def fixed(value: float | None, sign: str = "") -> str:
    """A measure to three places with a true minus sign, a dash where it does not exist."""
    return "—" if value is None else format(value, f"{sign}.3f").replace("-", "\N{MINUS SIGN}")


def breakable(name: str) -> Markup:
    """A long name that may break after its punctuation instead of inside a word."""
    return Markup("<wbr>").join(re.split(r"(?<=[./_:=-])", name))


def setting(value: object) -> str:
    """A configuration value: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def duration(seconds: float) -> str:
    """Seconds for people: 0.42 s, 43.1 s, 12m 30s, 3h 05m."""
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)}m {int(seconds % 60):02d}s"
    return f"{int(seconds // 3600):,}h {int(seconds % 3600 // 60):02d}m"


def moment(value: datetime) -> str:
    """A time to the second with its zone."""
    return f"{value:%Y-%m-%d %H:%M:%S} {value.tzname() or ''}".rstrip()


def hours(value: float) -> str:
    """Hours with three significant digits: 0.0123, 4.56, 1,230."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def money(value: float | None, currency: str) -> str:
    """A price with three significant digits, at least two places; a dash where there is no rate."""
    if value is None:
        return "—"
    return f"{value:,.2f} {currency}" if value >= 0.1 or value == 0 else f"{value:.3g} {currency}"


def bytes_text(size: float) -> str:
    """Bytes in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "B" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def extent(values: Distribution) -> str:
    """The ends of a distribution, to close a caption."""
    return f"; 5th percentile {charts.short(values.p5 or 0)}, largest {charts.short(values.max or 0)}."
