"""What a metric is: `function(clip, batch, attribution) -> DataFrame`, a row per pair and a column per number.

@metric({"spread": False})  # column -> is higher better? None: a description
def spread(clip, batch, attribution):
    return pd.DataFrame({"spread": attribution.image.std((1, 2))})

rows = benchmark.run(clip, pairs, ["nib", "random", "centre"], metrics=[spread])
benchmark.summary(rows, spread.columns), stats.against_controls(rows, spread.columns)
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from torch import Tensor

from ..attribution import Attribution


class Batch(NamedTuple):
    """B explained pairs: items of the data set, pixels (B, 3, H, W), B texts (1-D int64), the protocol asked for."""

    pairs: Sequence
    pixels: Tensor
    ids: list[Tensor]
    protocol: str = "paper"


Metric = Callable[[object, Batch, Attribution], pd.DataFrame]


def metric(columns: Mapping[str, bool | None], name: str = "") -> Callable[[Metric], Metric]:
    """Make a function a metric that `benchmark.run` takes: its attributes are `columns` and `__name__`.

    columns: name -> whether higher is better; None for what only describes the pair or the map. name: by default the
    function's; a run is resumed by it, so it says all that the numbers depend on. ValueError where a table has other
    columns or rows.
    """

    def decorate(function: Metric) -> Metric:
        @functools.wraps(function)
        def measured(clip, batch: Batch, attribution: Attribution) -> pd.DataFrame:
            table = function(clip, batch, attribution)
            if list(table) != list(columns) or len(table) != len(batch.ids):
                found, asked = ", ".join(map(str, table)), ", ".join(columns)
                raise ValueError(
                    f"metric {measured.__name__} gave {len(table)} rows of {found}, not {len(batch.ids)} of {asked}; "
                    "a metric gives a row per pair, with the columns it was declared with"
                )
            return table

        measured.columns, measured.__name__ = dict(columns), name or function.__name__
        return measured

    return decorate
