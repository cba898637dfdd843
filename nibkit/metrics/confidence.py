"""Confidence drop and increase: does the match survive when only what a map marks is shown?

c0 is the cosine of the whole pair and c1 the cosine when each part is kept in proportion to its score. All figures are
in percentage points of cosine:

    drop = 100 max(0, c0 - c1), lower is better        increase = 100 [c1 > c0], higher is better
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..checks import PROTOCOLS, one_of
from ..models.devices import at_hand, onto
from ..models.sharing import once
from ..models.towers import State, at_least_single
from .contract import Batch, metric

HIGHER_IS_BETTER = {"image_drop": False, "image_increase": True, "text_drop": False, "text_increase": True}
METRICS = list(HIGHER_IS_BETTER)


def _drop_increase(whole: Tensor, kept: Tensor, partner: Tensor, relative: bool) -> tuple[np.ndarray, np.ndarray]:
    c0, c1 = (F.cosine_similarity(embedding, partner) for embedding in (whole, kept))
    drop = (c0 - c1).clamp(min=0) / (c0.clamp(min=1e-6) if relative else 1)
    return 100 * drop.cpu().numpy(), 100.0 * (c1 > c0).cpu().numpy()


def _read(clip, ids: list[Tensor], protocol: str) -> tuple[State, Tensor]:
    """A protocol's text input and its embedding when whole. The paper's: no BOS and EOS, read at the largest id."""
    ids, device = at_hand(ids), clip.device
    if protocol == "paper":
        ids = [i[clip.text.before : -1] for i in ids]
    if protocol == "paper" and clip.text.pad is None:
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        rows = State(clip.text.embedding[onto(device, padded)], onto(device, torch.stack([i.argmax() for i in ids])))
    else:  # a model that sees its padding reads where it always does
        rows = clip.text.rows(ids)
    return rows, _embedded(clip, rows)


def _embedded(clip, rows: State) -> Tensor:
    with clip.text.forward_only():
        return at_least_single(clip.text.embed_rows(rows))


def _factors(clip, ids: list[Tensor], scores: list[Tensor], rows: State, protocol: str) -> Tensor:
    """What multiplies each row of `_read` (B, T). The paper's: the product of its scores where a token occurs twice.

    Made where ids and scores are at hand, and moved in one piece.
    """
    first = clip.text.before
    if protocol == "paper":
        inner = [(i[first:-1], s[first:-1]) for i, s in zip(at_hand(ids), scores)]
        factors = [torch.where(i[:, None] == i, s, 1.0).prod(1) for i, s in inner]
    else:
        ends = [min(len(s) - 1, n) for s, n in zip(scores, rows.readout.tolist())]  # EOS
        factors = [F.pad(s[first:n], (first, 1), value=1.0) for s, n in zip(scores, ends)]
    factors = torch.stack([F.pad(f, (0, rows.tokens.shape[1] - len(f)), value=1.0) for f in factors])  # padding is kept
    return onto(clip.device, factors)


@torch.no_grad()
def confidence(
    clip, pixels: Tensor, ids: list[Tensor], heatmaps, word_scores: Sequence, protocol: str = "paper", relative=False
) -> pd.DataFrame:
    """The paper's metrics of B pairs: columns image_drop, image_increase, text_drop, text_increase, one row per pair.

    heatmaps (B, H, W) in [0, 1] multiply the normalised pixels (what is removed becomes the mean colour).
    word_scores: B arrays (len,) in [0, 1] multiply the token rows. The other side is whole each time.

    protocol: "paper": texts without BOS and EOS, read at the largest id; a repeated token is multiplied by all its
    scores. "corrected": BOS and EOS stay and are never scaled, the text is read at EOS, each place has its own score.
    relative: divide the drop by c0 (Chattopadhay et al., 2018) instead of leaving it absolute.
    A text without a word between BOS and EOS has no text metric: nan. Within `sharing.shared`, the embeddings of the
    whole pairs are computed once for all maps.

    >>> from nibkit.data import load as pairs
    >>> from nibkit.models import load
    >>> clip, pair = load("scenes"), pairs("cat-and-dog")[0]
    >>> pixels, ids = clip.preprocess(pair.image), clip.tokenize(pair.text)
    >>> whole = confidence(clip, pixels, ids, np.ones((1, 224, 224)), [np.ones(len(ids[0]))], protocol="corrected")
    >>> [round(abs(value), 3) for value in whole.loc[0, ["image_drop", "text_drop"]]]  # nothing hidden, nothing lost
    [0.0, 0.0]
    """
    one_of("protocol", protocol, PROTOCOLS)
    clip.check(pixels, ids)
    maps = onto(clip.device, torch.as_tensor(np.asarray(heatmaps)).to(pixels.dtype))
    if maps.shape != pixels[:, 0].shape:
        found, asked = tuple(maps.shape), tuple(pixels[:, 0].shape)
        raise ValueError(f"heatmaps are {found}, not {asked}; Attribution.heatmap() makes such maps")
    scores = [torch.as_tensor(np.asarray(s)).to(pixels.dtype) for s in word_scores]
    if (found := [len(s) for s in scores]) != (asked := [len(i) for i in ids]):
        raise ValueError(f"word_scores have lengths {found}, the texts {asked}; one score per token is needed")

    image, text = clip.embed_image(pixels), clip.embed_text(ids)
    with clip.image.forward_only():
        masked = at_least_single(clip.image.embed_rows(clip.image.rows(pixels * maps[:, None])))
    result = dict(zip(("image_drop", "image_increase"), _drop_increase(image, masked, text, relative)))
    usable = [k for k, i in enumerate(ids) if len(i) > clip.text.before + 1]
    result["text_drop"], result["text_increase"] = np.full((2, len(ids)), np.nan)
    if usable:
        some = [ids[k] for k in usable]
        rows, whole = once((clip.text, ids, "metrics", protocol), lambda: _read(clip, some, protocol))
        factors = _factors(clip, some, [scores[k] for k in usable], rows, protocol)
        scaled = _embedded(clip, State(rows.tokens * factors[..., None], rows.readout))
        changes = _drop_increase(whole, scaled, image[onto(clip.device, torch.tensor(usable))], relative)
        result["text_drop"][usable], result["text_increase"][usable] = changes
    return pd.DataFrame(result)


@metric(HIGHER_IS_BETTER)
def drops(clip, batch: Batch, a: Attribution) -> pd.DataFrame:
    """`confidence` of the scores by the batch's protocol. ValueError where a number is nan."""
    table = confidence(clip, batch.pixels, batch.ids, a.heatmap(), a.word_scores(), batch.protocol)
    if table.isna().any(axis=None):
        raise ValueError("a metric is not a number")
    return table


@metric({"image_drop_corrected": False, "text_drop_corrected": False, "text_increase_corrected": True})
def corrected_drops(clip, batch: Batch, a: Attribution) -> pd.DataFrame:
    """`confidence` by the corrected protocol, drops relative to c0; image_increase would be the published one."""
    table = confidence(clip, batch.pixels, batch.ids, a.heatmap(), a.word_scores(), protocol="corrected", relative=True)
    return table.drop(columns="image_increase").add_suffix("_corrected")
