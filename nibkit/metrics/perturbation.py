"""Insertion and deletion (Petsiuk et al., 2018), picture and text: what happens to the match as parts come and go?

Parts are ranked by their signed score. Insertion keeps the best share f of them and fills in the rest; deletion fills
in the best share f. The area is the mean cosine over f = (k + 1/2) / points, in percent points: insertion, higher is
better; deletion, lower is better. Unlike the confidence metrics, only the order of the scores counts, and every method
removes equally much.

What fills in decides what is measured, so there are three baselines:

    mean    picture: the data's mean colour (0 after normalising). Text: the mean row of all tokens the model knows
    blur    picture: Gaussian, sigma an eighth of the side. Text: Gaussian over places, sigma 2 tokens
    linear  ROAD's noisy linear imputation (Rong et al., 2022): what is gone is the weighted mean of its neighbours, so
            that the outline of the hole tells nothing. Picture: sides 1/6, corners 1/12. Text: between the nearest kept

Where we deviate: a picture's parts are CELLS x CELLS squares, not pixels, since scores come on coarser grids than that,
and so that imputation is a small sparse system. BOS and EOS of a text always stay, each place has its own score.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from scipy.sparse.linalg import spsolve
from torch import Tensor

from .. import checks
from ..attribution import Attribution
from ..methods.ig import mean_row, picture_baseline
from ..models.towers import State
from .contract import Batch, Metric, metric

BASELINES = ("mean", "blur", "linear")
KINDS = ("insertion", "deletion")
PARTS = ("image", "text")
CELLS = 28  # 8 x 8 pixels of 224
NOISE = 0.01  # standard deviation of ROAD's noise, in the unit of normalised pixels and of token rows' own spread
STEP = 2.0  # tokens, the text's blur


def higher_is_better(parts: Sequence[str] = PARTS, baselines: Sequence[str] = BASELINES) -> dict[str, bool]:
    """The columns of `areas` -> whether higher is better."""
    names = itertools.product(parts, KINDS, baselines)
    return {f"{part}_{kind}_{baseline}": kind == "insertion" for part, kind, baseline in names}


def kept(scores: np.ndarray, fraction: float, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Which parts stay, boolean like `scores`; equal scores are put in a random order.

    insertion keeps the round(fraction * n) highest, deletion all but those. nan counts as 0.
    """
    flat = np.nan_to_num(scores).ravel()
    best = np.lexsort((rng.random(len(flat)), -flat))[: round(fraction * len(flat))]
    stays = np.full(len(flat), kind == "deletion")
    stays[best] = kind == "insertion"
    return stays.reshape(scores.shape)


# --- pictures ----------------------------------------------------------------------------------------------------

_OFFSETS = [(y, x, 1 / 6 if 0 in (y, x) else 1 / 12) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]


def impute(picture: np.ndarray, stays: np.ndarray) -> np.ndarray:
    """(C, rows, columns) with every cell that does not stay replaced by the weighted mean of its eight neighbours.

    Weights 1/6 at the sides and 1/12 at the corners, less at the edge; the neighbours of a hole's inside are imputed
    too, so this solves one sparse system. Where nothing stays there is nothing to impute from: 0.
    """
    if not stays.any():
        return np.zeros_like(picture)
    holes = np.argwhere(~stays)
    number = np.full(stays.shape, -1)
    number[~stays] = np.arange(len(holes))
    total, known = np.zeros(len(holes)), np.zeros((len(holes), len(picture)))
    rows, columns, values = [], [], []
    for dy, dx, weight in _OFFSETS:
        y, x = (holes + (dy, dx)).T
        me = np.flatnonzero((y >= 0) & (y < stays.shape[0]) & (x >= 0) & (x < stays.shape[1]))
        y, x = y[me], x[me]
        total[me] += weight
        there = stays[y, x]
        known[me[there]] += weight * picture[:, y[there], x[there]].T
        rows.append(me[~there])
        columns.append(number[y[~there], x[~there]])
        values.append(np.full((~there).sum(), -weight))
    own = np.arange(len(holes))
    rows, columns, values = (np.concatenate([*part, e]) for part, e in ((rows, own), (columns, own), (values, total)))
    filled = picture.copy()
    if len(holes):
        system = csr_array((values, (rows, columns)), shape=(len(holes),) * 2)
        filled[:, ~stays] = spsolve(system.tocsc(), known).reshape(len(holes), -1).T
    return filled


def _picture_filler(clip, pixels: Tensor, baseline: str) -> Callable[[np.ndarray, np.random.Generator], Tensor]:
    """One picture (3, H, W) -> function(stays, rng) -> what stands where nothing stays, (3, H, W)."""
    if baseline != "linear":
        hidden = picture_baseline(clip, pixels[None], baseline)[0]
        return lambda stays, rng: hidden
    cells = F.adaptive_avg_pool2d(pixels, CELLS).double().cpu().numpy()

    def linear(stays, rng):
        filled = torch.as_tensor(impute(cells, stays)).to(pixels)
        filled = F.interpolate(filled[None], pixels.shape[1:], mode="nearest")[0]
        return filled + NOISE * torch.as_tensor(rng.standard_normal(filled.shape)).to(pixels)

    return linear


# --- texts -------------------------------------------------------------------------------------------------------


def _text_filler(clip, rows: Tensor, baseline: str) -> Callable[[np.ndarray, np.random.Generator], Tensor]:
    """One text's token rows (T, C) -> function(stays, rng) -> what stands where nothing stays, (T, C)."""
    if baseline == "mean":
        middle = mean_row(clip)
        return lambda stays, rng: middle.expand_as(rows)
    place = np.arange(len(rows))
    if baseline == "blur":
        weights = np.exp(-((place[:, None] - place) ** 2) / (2 * STEP**2))
        blurred = torch.as_tensor(weights / weights.sum(1, keepdims=True)).to(rows) @ rows
        return lambda stays, rng: blurred

    def linear(stays, rng):
        weights = np.stack([np.interp(place, place[stays], unit) for unit in np.eye(stays.sum())], 1)  # (T, kept)
        filled = torch.as_tensor(weights).to(rows) @ rows[torch.as_tensor(stays)]
        return filled + NOISE * rows.std() * torch.as_tensor(rng.standard_normal(rows.shape)).to(rows)

    return linear


# --- both --------------------------------------------------------------------------------------------------------


class Whole(NamedTuple):
    """One picture (3, H, W) or one text's token rows (T, C), the scores of its parts, and how many places before and
    behind the scored ones always stay."""

    tensor: Tensor
    scores: np.ndarray
    before: int = 0
    behind: int = 0


def _wholes(clip, pixels: Tensor, ids: list[Tensor], a: Attribution, rows: State) -> dict[str, dict[int, Whole]]:
    """Part -> pair -> what is to be perturbed; a text without a word between BOS and EOS is left out."""
    cells = F.adaptive_avg_pool2d(torch.as_tensor(a.signed_map())[:, None], CELLS)[:, 0].numpy()
    first, texts = clip.text.before, {}
    for k, readout in enumerate(rows.readout.tolist()):
        end = min(len(ids[k]) - 1, readout)  # EOS
        length = readout + 1 if clip.text.causal else rows.tokens.shape[1]
        if end > first:
            texts[k] = Whole(rows.tokens[k, :length], a.text[k][first:end], first, length - end)
    return {"image": {k: Whole(pixels[k], cells[k]) for k in range(len(ids))}, "text": texts}


def _shown(stays: np.ndarray, whole: Tensor) -> Tensor:
    """`stays` of a picture's cells or a text's places, boolean, to be broadcast over `whole`."""
    stays = torch.as_tensor(stays, device=whole.device)
    if stays.ndim == 1:
        return stays[:, None]
    return F.interpolate(stays[None, None].float(), whole.shape[1:], mode="nearest")[0] > 0.5


def _changed(whole: Whole, fill: Callable, points: int, rng: np.random.Generator) -> list[Tensor]:
    """The whole at each fraction of insertion, then of deletion."""
    found = []
    for kind, k in itertools.product(KINDS, range(points)):
        stays = kept(whole.scores, (k + 0.5) / points, kind, rng)
        stays = np.pad(stays, (whole.before, whole.behind), constant_values=True)
        found.append(torch.where(_shown(stays, whole.tensor), whole.tensor, fill(stays, rng)))
    return found


def _embedded(clip, part: str, changed: list[Tensor], readout: Tensor, batch_size: int) -> Tensor:
    """Embeddings (N, E) of N pictures or token rows, `batch_size` at a time. readout (N,): where texts are read."""
    found = []
    for start in range(0, len(changed), batch_size):
        chunk = changed[start : start + batch_size]
        if part == "image":
            found.append(clip.image.embed_rows(clip.image.rows(torch.stack(chunk))))
        else:
            padded = torch.nn.utils.rnn.pad_sequence(chunk, batch_first=True)
            found.append(clip.text.embed_rows(State(padded, readout[start : start + batch_size])))
    return torch.cat(found)


def _check(parts: Sequence[str], baselines: Sequence[str], points: int) -> None:
    for what, given, known in (("part", parts, PARTS), ("baseline", baselines, BASELINES)):
        for name in given:
            checks.one_of(what, name, known)
    checks.whole("points", points)


@torch.no_grad()
def curves(
    clip, batch: Batch, a: Attribution, parts=PARTS, baselines=BASELINES, points=5, seed=0, batch_size=64
) -> dict[str, np.ndarray]:
    """Column of `higher_is_better` -> (B, points) cosines, [-1, 1], at the fractions (k + 1/2) / points.

    The partner (text or picture) is whole. A text without a word between BOS and EOS has nan. seed: of ROAD's noise and
    of the order of equal scores; pair k's do not depend on its batch. batch_size: rows that go through an encoder at
    once; bounds memory. Errors: ValueError.
    """
    _check(parts, baselines, points)
    _, pixels, ids, _ = batch
    clip.check(pixels, ids)
    partner = {"image": clip.embed_text(ids), "text": clip.embed_image(pixels)}
    rows = clip.text.rows(ids)
    wholes, filler = _wholes(clip, pixels, ids, a, rows), {"image": _picture_filler, "text": _text_filler}
    found = {name: np.full((len(ids), points), np.nan) for name in higher_is_better(parts, baselines)}
    for part, baseline in itertools.product(parts, baselines):
        changed, usable = [], list(wholes[part])
        for k, whole in wholes[part].items():
            fill = filler[part](clip, whole.tensor, baseline)
            changed += _changed(whole, fill, points, np.random.default_rng([seed, *ids[k].tolist()]))
        if changed:
            each = torch.tensor(usable).repeat_interleave(2 * points)
            embedded = _embedded(clip, part, changed, rows.readout[each], batch_size)
            cosine = F.cosine_similarity(embedded, partner[part][each]).cpu().numpy().reshape(-1, 2, points)
            for n, kind in enumerate(KINDS):
                found[f"{part}_{kind}_{baseline}"][usable] = cosine[:, n]
    return found


def areas(parts=PARTS, baselines=BASELINES, points: int = 5, seed: int = 0, batch_size: int = 64) -> Metric:
    """A metric: the mean of each of `curves`, in percentage points of cosine. Errors, before any work: ValueError."""
    _check(parts, baselines, points)
    name = f"areas of {', '.join([*parts, *baselines])}, {points} points, seed {seed}"

    @metric(higher_is_better(parts, baselines), name)
    def measured(clip, batch: Batch, a: Attribution) -> pd.DataFrame:
        found = curves(clip, batch, a, parts, baselines, points, seed, batch_size)
        return pd.DataFrame({name: 100 * curve.mean(1) for name, curve in found.items()})

    return measured
