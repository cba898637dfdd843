"""What can be measured of an attribution, and the statistics of it."""

from .confidence import HIGHER_IS_BETTER, METRICS, confidence

__all__ = ["HIGHER_IS_BETTER", "METRICS", "confidence"]
