"""What `benchmark.run` can measure besides the paper's four metrics.

They go together, in one run over the same maps:

    everything = measures.together(measures.PROTOCOLS, measures.TRUTH, measures.areas())
    rows = benchmark.run(clip, localisation.queries(pairs), methods, measure=everything)
"""

from collections.abc import Sequence

import pandas as pd

from ..metrics import localisation, perturbation
from ..metrics.confidence import confidence
from .batch import CONFIDENCE, Measure

# Ground truth; see localisation.truth.
TRUTH = Measure("truth", localisation.COLUMNS, lambda *args: localisation.truth(*args[:-1]))


def areas(
    parts: Sequence[str] = perturbation.PARTS, baselines: Sequence[str] = perturbation.BASELINES, points: int = 5
) -> Measure:
    """Insertion and deletion; see perturbation.areas."""

    def function(clip, pairs, pixels, ids, a, protocol) -> pd.DataFrame:
        return perturbation.areas(clip, pixels, ids, a, parts=parts, baselines=baselines, points=points)

    name = f"areas {' '.join([*parts, *baselines])} {points}"
    return Measure(name, perturbation.higher_is_better(parts, baselines), function)


def _both(clip, pairs, pixels, ids, a, protocol) -> pd.DataFrame:
    maps, words = a.heatmap(), a.word_scores()
    paper = confidence(clip, pixels, ids, maps, words)
    corrected = confidence(clip, pixels, ids, maps, words, protocol="corrected", relative=True).add_suffix("_corrected")
    return pd.concat([paper, corrected], axis=1)[list(PROTOCOLS.columns)]


# The confidence metrics as published, then the corrected protocol with drops relative to c0. The corrected form of
# image_increase is the published one.
PROTOCOLS = Measure(
    "confidence paper and corrected",
    CONFIDENCE.columns | {"image_drop_corrected": False, "text_drop_corrected": False, "text_increase_corrected": True},
    _both,
)


def together(*measures: Measure) -> Measure:
    """Several measures of the same maps in one run; their columns side by side."""

    def function(*args) -> pd.DataFrame:
        return pd.concat([measure.function(*args) for measure in measures], axis=1)

    columns = {name: higher for measure in measures for name, higher in measure.columns.items()}
    return Measure(" + ".join(measure.name for measure in measures), columns, function)
