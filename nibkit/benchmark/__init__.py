"""Data set x methods -> one tidy row per (pair, label), and tables over such rows (tested by nibkit.metrics.stats).

A run is resumed from its file; what is made of it are tables:

    rows = run(clip, data.load("scenes-objects"), ["nib", "random"], out="rows.csv")
    style(summary(rows)), style(beside_paper(summary(rows), "scenes-objects")), to_latex(summary(rows))
"""

from ..metrics.confidence import HIGHER_IS_BETTER, METRICS
from ..models import checksum
from .runner import run
from .tables import about, beside_paper, caption, style, summary, to_latex

__all__ = ["HIGHER_IS_BETTER", "METRICS", "about", "beside_paper", "caption", "checksum", "run", "style", "summary"]
__all__ += ["to_latex"]
