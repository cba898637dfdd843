"""Data set x methods -> one tidy row per (pair, method), and tables over such rows."""

from .runner import (
    CONFIDENCE,
    COST,
    HIGHER_IS_BETTER,
    METRICS,
    Measure,
    about,
    beside_paper,
    caption,
    checksum,
    run,
    style,
    summary,
)  # fmt: skip
