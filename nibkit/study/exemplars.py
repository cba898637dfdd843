"""Explaining by exemplars: which training pairs does a picture resemble, how far do they agree, and when is that too
far?

A picture's exemplars are the training pictures nearest to it by L2 distance between unit embeddings. What most of them
are called is the answer, the share that is called so its confidence. Where even the nearest is farther than training
pictures are from each other, the model's knowledge ends, and it declines. Needs training pairs; says nothing about
parts of a picture.

Where we deviate: the paper also explains each pair of test and training picture by an attribution; any method of nibkit
does that with the training caption as the text.

Hossain, M. S. et al., Explaining Contrastive Models using Exemplars: Explanation, Confidence, and Knowledge Limits,
2023.
"""

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import number, whole


def exemplars(
    clip, pixels: Tensor, train: Tensor, texts: Sequence[str], *, k: int = 5, quantile: float = 0.95
) -> pd.DataFrame:
    """What B pictures are by their k nearest training pairs: train (N, 3, H, W), texts N captions or names.

    quantile: of the training pictures' own distances to their nearest neighbour; beyond it, the table declines.

    A row per picture. Columns: answer (the text that most of the k share, the nearest's on a tie; "" where declined),
    agreement (share of the k with that text, in [0, 1]), distance (L2 of unit embeddings to the nearest, in [0, 2]),
    limit, declined, exemplars (the k numbers in `train`, nearest first), distances (theirs). Cost: one pass over all
    pictures. Errors: ValueError for fewer than max(k, 2) training pairs, or texts that do not pair up with them.
    """
    k, quantile = whole("k", k), number("quantile", quantile, most=1)
    if len(train) != len(texts) or len(train) < max(k, 2):
        raise ValueError(
            f"{len(train)} training pictures and {len(texts)} texts: exemplars are training pairs, and k={k} are asked "
            f"for; give at least {max(k, 2)}, each picture with its text"
        )
    known, asked = (F.normalize(clip.embed_image(x), dim=-1) for x in (train, pixels))
    apart = torch.cdist(known, known, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(float("inf"))
    limit = float(apart.min(1).values.double().quantile(quantile))
    found = torch.cdist(asked, known, compute_mode="donot_use_mm_for_euclid_dist").sort(stable=True)
    rows = []
    for near, which in zip(found.values[:, :k].tolist(), found.indices[:, :k].tolist()):
        (answer, votes), declined = Counter(texts[n] for n in which).most_common(1)[0], near[0] > limit
        rows.append(("" if declined else answer, votes / k, near[0], limit, declined, tuple(which), tuple(near)))
    return pd.DataFrame(
        rows, columns=["answer", "agreement", "distance", "limit", "declined", "exemplars", "distances"]
    )
