"""Where in a model the evidence is: late evidence and direct effect. Both need no attribution method.

    fall = late_evidence(clip, two_objects(40))  # columns tower, layer, pair, name, fall, right
"""

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
import torch.nn.functional as F

from .. import data
from ..data.captions import prompt
from ..metrics.stats import mean_interval
from ..models.towers import State
from . import world

FUNCTION_WORDS = "a an the and of is there with next to on in at"


def two_objects(n: int = 40) -> list[data.Pair]:
    """The first `n` pairs of scenes-captions that show two objects."""
    return [pair for pair in data.load("scenes-captions") if len(pair.masks) == 2][:n]


def _replaced(state: State, at: torch.Tensor, by: torch.Tensor) -> State:
    """Tokens `at` (T,) of the one row of a state, replaced by the mean of its tokens `by` (T,)."""
    tokens = state.tokens.clone()
    tokens[0, at] = tokens[0, by].mean(0)
    return State(tokens, state.readout)


def _tokens(clip, ids: torch.Tensor, text: str) -> torch.Tensor:
    """Which tokens of `ids` (T,) are tokens of `text`: bool (T,)."""
    return torch.isin(ids, clip.tokenize([text])[0][1:-1])


@torch.no_grad()
def late_evidence(clip, pairs: Sequence[data.Pair], layers: Iterable[int] = (0, 3, 6, 9, 11)) -> pd.DataFrame:
    """How far a cosine falls when what speaks for it becomes background at block l: a row per tower, layer and object.

    image: the patches that an object touches become the mean of those that no object touches; `fall` is what the cosine
    of the picture with "a photo of a NAME" loses, and `right` whether its name beats the other's when the *other*
    object is taken away instead. text: the token that names the object becomes the mean of the caption's function
    words; `fall` is what the cosine of caption and picture loses, and `right` whether it falls. Sign: > 0 is evidence
    that is still in the tokens that enter the block.
    """
    rows = []
    for pair in pairs:
        (ids,), pixels = clip.tokenize([pair.text]), clip.preprocess([pair.image])
        masks = {name: torch.from_numpy(mask).float()[None, None] for name, mask in pair.masks.items()}
        touched = {name: F.adaptive_max_pool2d(mask, clip.image.grid).flatten() > 0 for name, mask in masks.items()}
        cls = torch.zeros(clip.image.prefix, dtype=torch.bool)
        at = {name: torch.cat([cls, patches]) for name, patches in touched.items()}
        bare = torch.cat([cls, ~torch.stack([*touched.values()]).any(0)])
        names = clip.embed_text([prompt(name) for name in masks])
        picture, caption = clip.embed_image(pixels), clip.embed_text([ids])
        base = F.cosine_similarity(picture, names)
        for layer in layers:
            seen, read = clip.image.state(pixels, layer), clip.text.state([ids], layer)
            without = torch.cat([clip.image.embed(_replaced(seen, at[name], bare), layer) for name in masks])
            lost = F.cosine_similarity(without[:, None], names[None], dim=-1)  # (object taken away, object named)
            for k, name in enumerate(masks):
                kept = lost[1 - k]  # the other object is gone
                where = {"layer": layer, "pair": pair.id, "name": name}
                fall = float(base[k] - lost[k, k])
                rows.append({"tower": "image", **where, "fall": fall, "right": bool(kept[k] > kept[1 - k])})
                if (word := _tokens(clip, ids, name)).any():
                    less = clip.text.embed(_replaced(read, word, _tokens(clip, ids, FUNCTION_WORDS)), layer)
                    fall = float(F.cosine_similarity(picture, caption) - F.cosine_similarity(picture, less))
                    rows.append({"tower": "text", **where, "fall": fall, "right": fall > 0})
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """A table of `late_evidence` by tower and layer: n (pairs), mean fall, low and high, its share of the lowest
    layer's, and right, a share of objects in 0 .. 1.

    A pair's two objects are averaged first; low, high: 95 % bootstrap interval over pairs.
    """
    groups = rows.groupby(["tower", "layer", "pair"])[["fall", "right"]].mean().groupby(["tower", "layer"])
    table = pd.DataFrame({key: {**mean_interval(group.fall), "right": group.right.mean()} for key, group in groups}).T
    table.index.names = ["tower", "layer"]
    table.insert(4, "share", table["mean"] / table["mean"].groupby("tower").transform("first"))
    return table


@torch.no_grad()
def direct_effect(clip, pairs: Sequence[data.Pair], kept: int = 4) -> dict[str, float]:
    """Zero-shot accuracy of naming each pair's one object (of the first 32), and the same with the attention of all
    blocks but the last `kept` mean-ablated: n, whole, ablated.

    Direct effect as in Gandelsman et al. (2024): what a block's attention adds to the readout row is replaced, in the
    sum that the embedding is read from, by its mean over the pictures; no other block sees the change.
    """
    tower, names = clip.image, list(world.FIRST)
    state = tower.state(clip.preprocess([pair.image for pair in pairs]), 0)
    x, here, early = state.tokens, torch.arange(len(pairs)), 0.0
    for number, block in enumerate(tower.blocks):
        if number < len(tower.blocks) - kept:
            probabilities, values = block.attention(x)
            added = block.out((probabilities @ values).transpose(1, 2).flatten(2))[here, state.readout]
            early = early + added - added.mean(0)
        x = block(x)
    row = x[here, state.readout]
    texts = F.normalize(clip.embed_text([prompt(name) for name in names]), dim=-1)
    truth = torch.tensor([names.index(next(iter(pair.masks))) for pair in pairs])

    def accuracy(row: torch.Tensor) -> float:
        return float(((tower.head(row) @ texts.T).argmax(1) == truth).float().mean())

    return {"n": len(pairs), "whole": accuracy(row), "ablated": accuracy(row - early)}
