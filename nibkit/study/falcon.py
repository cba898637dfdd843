"""FALCON: which words separate the pictures that a feature answers most from those that it answers least?

Every one of those pictures is described by the captions of a large set that are nearest to it by CLIP; a word counts
for a feature as the share of its top pictures so described with it, minus the share of its bottom pictures. What is
explained is a feature of an encoder, by many pictures and captions: a single pair has neither a top nor a bottom, so it
cannot be asked.

Where we deviate: the paper crops each picture to where Grad-CAM of the feature is high and reads LAION's captions; here
pictures are whole, and captions are those that are given.

Kalibhat, Bhardwaj, Bruss, Firooz, Sanjabi & Feizi, Identifying Interpretable Subspaces in Image Representations, ICML
2023.
"""

from collections import Counter
from collections.abc import Sequence

import pandas as pd
import torch.nn.functional as F
from torch import Tensor

from ..checks import whole


def describe(clip, pixels: Tensor, captions: Sequence[str], nearest: int = 5) -> list[set[str]]:
    """The words of the `nearest` captions to each of N pictures (N, 3, H, W) by cosine: lower case, no punctuation.

    Cost: one pass of all pictures and captions. Errors: ValueError where there is no caption.
    """
    if isinstance(captions, str) or not len(captions):
        raise ValueError(f"captions={captions!r} is not a list of at least one text; FALCON takes its words from them")
    pictures, texts = (F.normalize(x, dim=-1) for x in (clip.embed_image(pixels), clip.embed_text(list(captions))))
    rows = (pictures @ texts.T).topk(min(whole("nearest", nearest), len(captions)), dim=-1).indices.tolist()
    split = [{word.strip(",.").lower() for word in caption.split()} for caption in captions]
    return [set().union(*(split[k] for k in row)) for row in rows]


def falcon(words: Sequence[set[str]], activations: Tensor, *, top: int = 8, bottom: int = 8) -> pd.DataFrame:
    """The words that separate a feature's most activating pictures from its least activating ones (Kalibhat et al.).

    words: what `describe` says of N pictures. activations (N,): the feature's on them, in whatever encoder: a
    coordinate of its embeddings, or the sum of a group of them. top, bottom: how many pictures of each kind.

    Columns: word, top, bottom (share of the top and bottom pictures described with it, in [0, 1]), separation (top -
    bottom), most separating first, ties in alphabetical order; words of neither are left out. Errors: ValueError for
    fewer than top + bottom pictures.
    """
    top, bottom, n = whole("top", top), whole("bottom", bottom), len(words)
    if n < top + bottom or len(activations) != n:
        raise ValueError(
            f"{n} pictures and {len(activations)} activations: FALCON explains a feature by what its {top} top "
            f"pictures "
            f"have and its {bottom} bottom ones lack; give at least {top + bottom}, each with its activation"
        )
    order = activations.argsort(descending=True, stable=True).tolist()
    counts = [Counter(word for k in rows for word in words[k]) for rows in (order[:top], order[-bottom:])]
    rows = [(word, counts[0][word] / top, counts[1][word] / bottom) for word in sorted({*counts[0], *counts[1]})]
    table = pd.DataFrame(rows, columns=["word", "top", "bottom"])
    table["separation"] = table["top"] - table["bottom"]
    return table.sort_values("separation", ascending=False, kind="stable", ignore_index=True)


def clearest(words: Sequence[set[str]], embeddings: Tensor, **options) -> pd.DataFrame:
    """`falcon`'s best word for every coordinate of embeddings (N, E), the clearest feature first.

    Columns: feature (the coordinate), word, top, bottom, separation. options: those of `falcon`. Errors: as there.
    """
    best = [{"feature": k, **falcon(words, a, **options).iloc[0]} for k, a in enumerate(embeddings.T)]
    return pd.DataFrame(best).sort_values("separation", ascending=False, kind="stable", ignore_index=True)
