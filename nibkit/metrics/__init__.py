"""What can be measured of an attribution (each a metric, see `contract`), and the statistics of it."""

from .confidence import HIGHER_IS_BETTER, METRICS, confidence, corrected_drops, drops
from .contract import Batch, metric

__all__ = ["HIGHER_IS_BETTER", "METRICS", "Batch", "confidence", "corrected_drops", "drops", "metric"]
