"""The paper's own tables (data/paper), and which of our data sets takes whose place in them."""

import math

import pandas as pd

from ..metrics.confidence import METRICS
from ..paths import bundled

PAPER_ROLE = {  # data set -> whose place it takes in the paper's tables
    "scenes-objects": "imagenet",
    "scenes-captions": "flickr8k",
    "conceptual_captions": "conceptual_captions",
    "tiny-imagenet": "imagenet",
    "flickr8k": "flickr8k",
}
PAPER_PAIRS = {"conceptual_captions": 2000, "tiny-imagenet": 1000, "flickr8k": 1000}  # pairs that the paper measured


def table(name: str, dataset: str | None = None) -> pd.DataFrame:
    """One of the paper's tables, e.g. "table2_benchmark": numbers as printed there.

    dataset: only its rows; one of the paper's, or one that plays its part (PAPER_ROLE). Of any other data the paper has
    no figures: the rows are there, and nan stands in them.
    """
    rows = pd.read_csv(bundled(f"paper/{name}.csv"))
    if dataset is None:
        return rows
    role = PAPER_ROLE.get(dataset, dataset)
    if role in set(rows.dataset):
        return rows[rows.dataset == role]
    blank = {column: math.nan for column in [*METRICS, "fps"] if column in rows}
    return rows[rows.dataset == rows.dataset[0]].assign(dataset=role, **blank)
