"""The paper's own tables (data/paper), and which of our data sets takes whose place in them."""

import pandas as pd

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

    dataset: only its rows; one of the paper's, or one that plays its part (PAPER_ROLE). Errors: ValueError for a data
    set that the table does not have.
    """
    rows = pd.read_csv(bundled(f"paper/{name}.csv"))
    if dataset is None:
        return rows
    role = PAPER_ROLE.get(dataset, dataset)
    if role not in set(rows.dataset):
        known = ", ".join(dict.fromkeys([*PAPER_ROLE, *rows.dataset.unique()]))
        raise ValueError(f"dataset {dataset!r} has no counterpart in the paper's {name}; those that have one: {known}")
    return rows[rows.dataset == role]
