"""Randomised input sampling: what was visible when the match was good?

Coarse random grids (a cell is open with `probability`) are enlarged linearly to one cell more than the input; a window
of the input's size is cut from each at a random place: masks m_k in [0, 1]. They multiply the normalised pixels or the
token rows; with c_k the cosine of the masked pair

    A = sum_k c_k m_k / (N probability)              protocol="paper" (equation 6)
    A = sum_k (c_k - mean c) m_k / sum_k m_k         protocol="corrected"

Cosines are all alike, so equation 6 credits places that chance opened more often. The second form divides by how often
a place was really seen and is signed: above 0, the match is better than average when the place is seen.

Petsiuk, Das & Saenko, RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom
from torch import Tensor

from ..attribution import Attribution
from ..checks import number, whole
from ..models.devices import at_hand, in_parts, onto
from ..models.towers import State, at_least_single
from .registry import method


def cell(size: int, grid: int) -> int:
    """Places that a cell of the enlarged grid covers: windows start at 0 .. cell - 1."""
    return max(1, -(-size // grid))


def windows(size: int, grid: int) -> Tensor:
    """Linear maps (cell, size, grid) from `grid` cells to the `size` places behind each shift."""
    times = (grid + 1) * cell(size, grid) / grid  # half-pixel centres, borders mirrored about the edge sample's centre:
    enlarge = zoom(np.eye(grid), (times, 1), order=1, mode="mirror", grid_mode=True)
    return torch.from_numpy(enlarge[np.arange(cell(size, grid))[:, None] + np.arange(size)]).float()


class Masks:
    """A picture's masks: `opened` (N, grid, grid) bool and `shift` (N, 2), drawn on the CPU as published; grown
    there.
    """

    def __init__(self, opened: np.ndarray, shift: np.ndarray, size: int, device: torch.device = torch.device("cpu")):
        given = windows(size, opened.shape[-1]), torch.from_numpy(opened).float(), torch.from_numpy(shift)
        self.windows, self.opened, self.shift = (onto(device, x) for x in given)

    def __getitem__(self, k: slice) -> Tensor:
        """(n, size, size), in [0, 1]."""
        rows, columns = (self.windows[side] for side in self.shift[k].unbind(1))
        return rows @ self.opened[k] @ columns.mT


def word_masks(rng: np.random.RandomState, n: int, length: int, probability: float, grid: int, width: int) -> Tensor:
    """Masks (n, length) of one text; `width` bounds a second shift, drawn and thrown away as published."""
    opened = torch.from_numpy(rng.rand(n, grid) < probability).float()
    shift = np.array([(rng.randint(0, cell(length, grid)), rng.randint(0, width))[0] for _ in range(n)])
    return (windows(length, grid)[shift] @ opened[..., None])[..., 0]


def last_place(ids: Tensor) -> Tensor:
    """For every place, the last place of the same token."""
    return len(ids) - 1 - (ids[:, None] == ids.flip(0)).int().argmax(1)


def text_of(ids, ends: list[int], width: int, seed: int, paper: bool, before: int, how: tuple) -> tuple[Tensor, Tensor]:
    """Masks (B, N, width) of texts read at `ends`, as credited and as they hide; how: the rest of `word_masks`.

    Published, every text starts from the seed, so those of one length have the same.
    """
    drawn, shown, known = [], [], {}
    for i, end in zip(ids, ends):
        i = i[: end + 1]
        sides = (0, 0) if paper else (before, len(i) - before - max(0, len(i) - before - 1))
        key = len(i) if paper else (seed, *i.tolist())
        if key not in known:
            rng = np.random.RandomState(seed if paper else [seed, *i.tolist()])
            known[key] = word_masks(rng, how[0], len(i) - sum(sides), *how[1:])
        m = known[key]
        rest = (0, width - len(i))
        drawn.append(F.pad(F.pad(m, sides), rest))
        shown.append(F.pad(m[:, last_place(i)] if paper else F.pad(m, sides, value=1.0), rest, value=1.0))
    return torch.stack(drawn), torch.stack(shown)


@torch.no_grad()
def sample(masks: Callable, show: Callable, target: Tensor, n: int, batch_size: int, by: float | None) -> Tensor:
    """The module's equations over n masks, (B, ...): divided by n * `by`, or by what was seen if that is None.

    `masks(k)` (B or 1, n of slice k, ...): what is credited; `show(k, m)`: embeddings (B * n, E) of the masked inputs.
    """
    total = seen = mean = 0

    def part_of(k: slice) -> tuple[Tensor, Tensor, Tensor]:
        m = masks(k).to(target)
        many = m.shape[1]
        cosine = F.cosine_similarity(show(k, m), target.repeat_interleave(many, 0)).unflatten(0, (-1, many))
        return torch.einsum("bk,bk...->b...", cosine, m), m.sum(1), cosine.sum(1) / n

    for credit, shown, cosines in in_parts(n, max(1, batch_size // len(target)), part_of):
        total, seen, mean = total + credit, seen + shown, mean + cosines
    if by:
        return total / (n * by)
    mean = mean.view(-1, *[1] * (total.ndim - 1))
    return torch.where(seen > 0, (total - mean * seen) / seen, 0.0)


@method(
    title="RISE", unit="cosine",
    masks=whole, text_masks=whole, grid=whole, probability=partial(number, zero=False, most=1),
)
def rise(
    clip, pixels: Tensor, ids: list[Tensor], *, masks: int = 6000, text_masks: int = 200, probability: float = 0.1,
    grid: int = 8, seed: int = 0, protocol: str = "paper", batch_size: int | str = "auto"
) -> Attribution:
    """RISE of B pairs: scores per pixel (B, H, W) and per token, in units of cosine similarity (Petsiuk et al., 2018).

    masks, text_masks: how many; grid: cells along a side; probability: of a cell to be open. seed: pictures share their
    masks, and no score depends on the batch. batch_size: rows at once (at least one a pair), or memory such as "500MB".
    protocol "paper": every text starts from the seed, BOS and EOS are masked too, a repeated token shows by the mask of
    its last place. "corrected": every text has its own draws, every place its own mask; BOS and EOS show and score 0.
    info: passes, forward passes through each whole encoder, the larger of the two.
    """
    image, text, paper = clip.image, clip.text, protocol == "paper"
    rng, rows = np.random.RandomState(seed), text.rows(ids)
    opened = rng.rand(masks, grid, grid) < probability
    of_pixels = Masks(opened, rng.randint(0, cell(image.size, grid), (masks, 2)), image.size, pixels.device)
    width = rows.tokens.shape[1]
    how = text_masks, probability, grid, text.width
    drawn, shown = text_of(at_hand(ids), rows.readout.tolist(), width, seed, paper, text.before, how)
    drawn, shown = (onto(pixels.device, m) for m in (drawn, shown))

    def show_picture(k: slice, m: Tensor) -> Tensor:
        with image.forward_only():
            return at_least_single(image.embed_rows(image.rows((pixels[:, None] * m[:, :, None]).flatten(0, 1))))

    def show_text(k: slice, m: Tensor) -> Tensor:
        masked = rows.tokens[:, None] * shown[:, k, :, None].to(m)
        with text.forward_only():
            readout = rows.readout.repeat_interleave(m.shape[1])
            return at_least_single(text.embed_rows(State(masked.flatten(0, 1), readout)))

    by, towers = probability if paper else None, ((image, image.rows(pixels[:1])), (text, rows))
    # no gradient
    pictures, texts = (tower.rows_at_once(batch_size, row, len(tower.blocks) - 1) for tower, row in towers)
    pixel_scores = sample(lambda k: of_pixels[k][None], show_picture, clip.embed_text(ids), masks, pictures, by)
    token_scores = sample(lambda k: drawn[:, k], show_text, clip.embed_image(pixels), text_masks, texts, by)
    info = pd.DataFrame({"passes": np.full(len(ids), max(masks, text_masks))})
    return Attribution.of(clip.image, pixel_scores, token_scores, ids, info)
