"""More faithful and accelerated boundary attribution: credit along a walk that leaves the match as fast as it can.

From the embedding rows h_0 (patches with their positions, before any LayerNorm; token rows without positions), with
g_k = d cos / d h_k:

    h_{k+1} = h_k - step_size sign(g_k),    A = -sum_k (h_{k+1} - h_k) g_k = step_size sum_k |g_k|

A token's score is the sum over its channels: never negative, so it says where the match is sensitive, not which way.

Zhu et al., MFABA: A More Faithful and Accelerated Boundary-based Attribution Method for Deep Neural Networks, AAAI
2024.
"""

from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..checks import number
from ..models.devices import at_hand, in_parts, onto
from ..models.towers import State, Tower
from .registry import method


def walk(
    tower: Tower, rows: State, target: Tensor, steps: int, step_size: float, at_once: int, same: Tensor | None = None
) -> Tensor:
    """Token scores (B, T). Where `same` (B, T, T) is 1, two places are one token: they move as one, share a score."""

    def part_of(part: slice) -> Tensor:
        h, readout = rows.pick(part)
        total = 0
        for _ in range(steps):
            h = h.detach().requires_grad_()
            cosine = F.cosine_similarity(tower.embed_rows(State(h, readout)), target[part])
            (gradient,) = torch.autograd.grad(cosine.sum(), h)
            if same is not None:
                gradient = same[part] @ gradient
            h = h.detach() - step_size * gradient.sign()
            total = total + step_size * gradient.abs().sum(-1)
        return total

    return torch.cat([*in_parts(len(target), at_once, part_of)])


def same_tokens(ids: list[Tensor], rows: State) -> Tensor:
    """(B, T, T): which places hold the same token; padding is each by itself. Built where the ids are at hand."""
    tokens = -torch.arange(1, rows.tokens.shape[1] + 1).repeat(len(ids), 1)
    for row, i, end in zip(tokens, at_hand(ids), rows.readout.tolist()):
        n = min(len(i), end + 1)
        row[:n] = i[:n]
    tokens = onto(rows.tokens.device, tokens)
    return (tokens[:, :, None] == tokens[:, None]).to(rows.tokens)


@method(title="MFABA", unit="cosine", step_size=partial(number, zero=False))
def mfaba(
    clip,
    pixels: Tensor,
    ids: list[Tensor],
    *,
    steps: int = 10,
    step_size: float = 0.01,
    protocol: str = "paper",
    batch_size: int | str = "auto",
) -> Attribution:
    """MFABA scores of B pairs, image and text, in units of cosine similarity, >= 0 (Zhu et al., AAAI 2024).

    step_size: how far every entry of the embedding rows moves per step. protocol "paper": a token that occurs twice in
    a text pools its gradients and has one score, as in the published code; "corrected": each place moves by itself.
    batch_size: rows at once, or memory such as "500MB".

    info: passes, gradient passes through each whole encoder: steps.
    """
    towers = clip.image, clip.text
    embeddings = [tower.encode(inputs) for tower, inputs in zip(towers, (pixels, ids))]
    with torch.no_grad():
        rows = [tower.rows(inputs) for tower, inputs in zip(towers, (pixels, ids))]
    same = same_tokens(ids, rows[1]) if protocol == "paper" else None
    at_once = [tower.rows_at_once(batch_size, row, 0) for tower, row in zip(towers, rows)]
    image = walk(clip.image, rows[0], embeddings[1], steps, step_size, at_once[0])
    text = walk(clip.text, rows[1], embeddings[0], steps, step_size, at_once[1], same)
    info = pd.DataFrame({"passes": np.full(len(ids), steps)})
    return Attribution.of(clip.image, image, text, ids, info)
