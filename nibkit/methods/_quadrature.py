"""Quadrature of a path's slopes: the same nodes for every pair, or nodes where a pair's slopes bend, with a
certificate."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROUNDING = 8 * 2.0**-23  # of a cosine in float32, whose last digit is 2^-24: below it nothing can be asked
NODES = torch.arange(5, dtype=torch.float64) / 4  # of a panel, from 0 to 1
BETWEEN = torch.arange(1, 8, 2, dtype=torch.float64) / 8  # what halving a panel adds
BOOLE = torch.tensor([7, 32, 12, 32, 7], dtype=torch.float64) / 90
SIMPSON = torch.tensor([1, 0, 4, 0, 1], dtype=torch.float64) / 6
# Boole's rule errs less than the two differ: a quarter was exceeded by 2 % of 256 curves of scenes-early
DOUBT = (BOOLE - SIMPSON) / 4


class Path(NamedTuple):
    """What the integration of a batch found, per pair: token scores (B, T), F where the path ends and where it
    starts, and the gradient passes used.

    error: how far the worst token may be off; nan where the rule cannot know. fell: the scores are the published sum's,
    because the rule's own added up worse.
    """

    scores: Tensor
    opened: Tensor
    closed: Tensor
    passes: Tensor
    error: Tensor = torch.tensor(torch.nan)
    fell: Tensor = torch.tensor(False)

    @property
    def change(self) -> Tensor:
        """What the scores are to add up to."""
        return self.opened - self.closed

    @property
    def delta(self) -> Tensor:
        """What the scores add up to, less the change."""
        return self.scores.sum(1) - self.change

    @property
    def gap(self) -> Tensor:
        """How far the scores are from adding up to the change, absolute."""
        return self.delta.abs()

    def certified(self, tol: float) -> Tensor:
        """Is the gap at most tol of the change, and the error of every token at most tol of the largest score?"""
        largest, change = self.scores.abs().amax(1), self.change.abs()
        return (self.gap <= (tol * change).clamp(min=ROUNDING)) & (self.error <= (tol * largest).clamp(min=ROUNDING))


def riemann(steps: int) -> tuple[Tensor, Tensor]:
    """The paper's right Riemann sum: lam = k / n, weights 1 / n.

    >>> [part.tolist() for part in riemann(4)]
    [[0.25, 0.5, 0.75, 1.0], [0.25, 0.25, 0.25, 0.25]]
    """
    return torch.arange(1, steps + 1, dtype=torch.float64) / steps, torch.full((steps,), 1 / steps, dtype=torch.float64)


def gauss(steps: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre on (0, 1)."""
    x, w = np.polynomial.legendre.leggauss(steps)
    return torch.tensor((x + 1) / 2), torch.tensor(w / 2)


def adaptive(slope: Callable, pairs: int, parts: Sequence[str], tol: float, max_passes: int) -> Path:
    """Boole's rule on panels of four steps: each pair's panel in most doubt is halved, its nodes stay, until the
    pair is certified at `tol` or the next 4 passes would be over `max_passes`.

    slope: (t (N,) from 0 to 1, rows (N,), part) -> F (N,), and its derivative in t by token (N, T). parts: one
    after the other from closed to open, a panel each to begin with. A token is in doubt by DOUBT, over the panels
    without cancelling; and what a panel's sum lacks of F's own change is in doubt too. The error is the worst
    token's doubt and the whole gap, which may be one token's. Tensors of the result are float64, on the CPU.
    """
    part = torch.arange(len(parts)).repeat(pairs, 1)  # of each pair's panels (B, K), as are their left ends and widths
    left, width = torch.zeros(part.shape).double(), torch.ones(part.shape).double()

    def ask(rows: Tensor, panels: Tensor, nodes: Tensor) -> Tensor:
        """F and the slopes (N, n, 1 + T) at the nodes of these panels."""
        t, of, found = left[rows, panels, None] + width[rows, panels, None] * nodes, part[rows, panels], None
        for k in of.unique().tolist():
            here = of == k
            value, slopes = slope(t[here].flatten(), rows[here].repeat_interleave(len(nodes)), parts[k])
            slopes = slopes.nan_to_num(0, 0, 0)  # an embedding of zeros has none
            curves = torch.cat([value[:, None], slopes], 1).cpu().double()
            found = found if found is not None else curves.new_zeros(*t.shape, curves.shape[1])
            found[here] = curves.unflatten(0, (-1, len(nodes)))
        return found

    first = torch.arange(pairs).repeat_interleave(len(parts)), part.flatten()
    curves = ask(*first, NODES).unflatten(0, part.shape)  # (B, K, 5, 1 + T)
    opened, closed, passes = curves[:, -1, -1, 0], curves[:, 0, 0, 0], torch.full((pairs,), 5 * len(parts))
    while True:
        sums, doubts = (width[..., None] * (rule @ curves[..., 1:]) for rule in (BOOLE, DOUBT))  # (B, K, T)
        lacks = curves[..., -1, 0] - curves[..., 0, 0] - sums.sum(2)
        path = Path(sums.sum(1), opened, closed, passes)
        path = path._replace(error=doubts.abs().sum(1).amax(1) + path.gap)
        rows = (~path.certified(tol) & (passes + 4 <= max_passes)).nonzero()[:, 0]
        if not len(rows):
            return path
        worst = (doubts.abs().amax(2) + lacks.abs())[rows].argmax(1)
        old, new = curves[rows, worst], ask(rows, worst, BETWEEN)
        both = torch.cat([torch.stack([old[:, :4], new], 2).flatten(1, 2), old[:, 4:]], 1)  # old, new, ..., new, old: 9
        left, width, part, curves = (F.pad(x, (0, 0) * (x.ndim - 2) + (0, 1)) for x in (left, width, part, curves))
        width[rows, worst] /= 2
        left[rows, -1], width[rows, -1] = left[rows, worst] + width[rows, worst], width[rows, worst]
        part[rows, -1], curves[rows, worst], curves[rows, -1] = part[rows, worst], both[:, :5], both[:, 4:]
        passes[rows] += 4
