"""TEXTSPAN: what does each attention head write into the embedding, and which texts span it?

Gandelsman, Efros & Steinhardt, Interpreting CLIP's Image Representation via Text-Based Decomposition, ICLR 2024.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import one_of
from ..models.towers import ImageTower

EPS = 1e-5  # LayerNorm's
SHARES = ("centred", "authors")


class Parts(NamedTuple):
    """Direct contributions to B embeddings: all of them add up to the embedding, whose length `decompose` decides.

    heads (B, blocks, heads, E), mlps (B, blocks, E), start (B, E): the CLS row before any block, constant (E,): what
    the final LayerNorm's bias adds.
    """

    heads: Tensor
    mlps: Tensor
    start: Tensor
    constant: Tensor

    def total(self) -> Tensor:
        """(B, E): the embeddings again."""
        return self.heads.sum((1, 2)) + self.mlps.sum(1) + self.start + self.constant


def _linear_head(tower: ImageTower, x: Tensor) -> tuple[Tensor, Tensor]:
    """head(x) = (x @ matrix) / std(x) + constant: LayerNorm's centring and weight join the projection."""
    constant = tower.head(torch.zeros_like(x[:1]))[0]
    unit = tower.width * torch.eye(tower.width).to(x)  # scaled: LayerNorm's eps does not count
    return (tower.head(unit) - constant) * _std(unit) / tower.width, constant


def _std(x: Tensor) -> Tensor:
    return (x.var(-1, correction=0, keepdim=True) + EPS).sqrt()


def _level(tower: ImageTower) -> Tensor:
    """(E,): what a row that is 1 in every channel would write if LayerNorm did not centre it."""
    try:
        if hasattr(tower, "_visual"):
            return tower._visual.ln_post.weight @ tower._visual.proj
        return tower._projection(tower._vision.post_layernorm.weight)
    except AttributeError as error:
        raise ValueError(
            f"share='authors' needs a final LayerNorm and a projection behind it; this {type(tower).__name__} has none "
            "that TEXTSPAN knows: take share='centred'"
        ) from error


@torch.no_grad()
def decompose(tower: ImageTower, pixels: Tensor, share: str = "centred") -> Parts:
    """What every attention head and MLP adds to the embeddings of B pictures (Gandelsman et al., ICLR 2024).

    The CLS row is a sum of what every block adds to it, and the head is linear once LayerNorm's standard deviation is
    held at its value; so the embedding is a sum. As in the paper an attention's output bias is shared evenly among its
    heads. share: how LayerNorm's mean and bias are.

    * "centred": each part is centred by itself, the bias stands alone, and the parts add up to the embedding.
    * "authors": as the authors' code has it, mean and bias of the whole are shared evenly among the start, the
      attentions (and there among the heads) and the MLPs; then all is divided by the embedding's norm, so the parts add
      up to the unit embedding and `constant` is 0.

    Cost: one forward pass. Errors: ValueError for another share, or a tower whose LayerNorm is not known;
    AttributeError for a tower whose blocks have no attention.
    """
    one_of("share", share, SHARES)
    x = tower.start(tower.rows(pixels)).tokens
    start, heads, mlps = x[:, 0], [], []
    for block in tower.blocks:
        probabilities, values = block.attention(x)
        attended = (probabilities[:, :, :1] @ values)[:, :, 0]  # (B, heads, C / heads), what CLS gathers
        apart = (torch.eye(block.heads).to(x)[..., None] * attended[:, :, None]).flatten(2)  # one head a row
        bias = block.out(torch.zeros_like(apart))
        written = block.out(apart) - bias + bias / block.heads
        between = x[:, 0] + written.sum(1)
        x = block.from_attention(x, probabilities, values)
        heads.append(written)
        mlps.append(x[:, 0] - between)
    row = x[:, 0]
    matrix, constant = _linear_head(tower, row)
    std, parts = _std(row), (torch.stack(heads, 1), torch.stack(mlps, 1), start)
    wide = [std.view(-1, *[1] * (raw.ndim - 1)) for raw in parts]
    found = [raw @ matrix / by for raw, by in zip(parts, wide)]
    if share == "centred":
        return Parts(*found, constant)
    level, blocks = _level(tower), 2 * len(tower.blocks) + 1
    norm = tower.head(row).norm(dim=-1, keepdim=True)
    for n, (raw, by, among) in enumerate(zip(parts, wide, (blocks * parts[0].shape[2], blocks, blocks))):
        mean, size = (whole.view_as(by) for whole in (row.mean(-1, keepdim=True), norm))
        uncentred = (raw.mean(-1, keepdim=True) - mean / among) * level / by
        found[n] = (found[n] + uncentred + constant / among) / size
    return Parts(*found, torch.zeros_like(constant))


def basis(outputs: Tensor, texts: Tensor, n: int) -> tuple[list[int], list[float]]:
    """TEXTSPAN's greedy step for one head: the `n` texts whose directions span its outputs best (Algorithm 1).

    outputs (N, E): the head's contributions for N pictures; texts (M, E): unit embeddings. The texts are projected onto
    the span of the centred outputs; then the text along which the outputs vary most is taken, and its direction removed
    from outputs and texts alike. Returns the texts' numbers in order, and after each the share of variance explained,
    in [0, 1]; fewer than `n` where fewer span the outputs.
    """
    rest = outputs - outputs.mean(0)
    whole = rest.square().sum()
    _, size, directions = torch.linalg.svd(rest, full_matrices=False)
    span = directions[size > 1e-5 * size[0]]
    texts = texts @ span.T @ span
    smallest = 1e-4 * texts.norm(dim=1).max()  # what is left of a text that was taken is rounding
    chosen, explained = [], []
    for _ in range(min(n, len(span), len(texts))):
        spread = (rest @ texts.T).square().sum(0).masked_fill(texts.norm(dim=1) <= smallest, -1)
        best = int(spread.argmax())
        direction = F.normalize(texts[best], dim=0)
        rest, texts = (x - torch.outer(x @ direction, direction) for x in (rest, texts))
        chosen.append(best)
        explained.append(float(1 - rest.square().sum() / whole))
    return chosen, explained


def textspan(
    clip, pixels: Tensor, texts: Sequence[str], *, heads: int = 4, n: int = 4, share: str = "centred"
) -> pd.DataFrame:
    """The `heads` attention heads whose contributions vary most over the pictures, and the `n` texts that span each.

    share: of LayerNorm's mean and bias, see `decompose`. Columns: block, head, share (of the heads' summed variance),
    place (1 = first text taken), text, explained (share of the head's variance). Errors: ValueError for fewer than two
    pictures, or no text.
    """
    if len(pixels) < 2:
        raise ValueError(f"{len(pixels)} picture: TEXTSPAN describes how a head varies; give at least two pictures")
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"texts={texts!r} is not a list of at least one text; TEXTSPAN chooses among them")
    outputs = decompose(clip.image, pixels, share).heads
    embedded = F.normalize(clip.embed_text(list(texts)), dim=-1)
    variance = outputs.var(0, correction=0).sum(-1)  # (blocks, heads)
    rows = []
    for k in variance.flatten().argsort(descending=True, stable=True)[:heads].tolist():
        block, head = divmod(k, variance.shape[1])
        found = zip(*basis(outputs[:, block, head], embedded, n))
        part = float(variance[block, head] / variance.sum())
        rows += [(block, head, part, place, texts[t], e) for place, (t, e) in enumerate(found, 1)]
    return pd.DataFrame(rows, columns=["block", "head", "share", "place", "text", "explained"])
