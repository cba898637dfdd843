"""Integrated gradients of the input: from a baseline to the picture's pixels, and to the text's token rows.

With c the pair's cosine, x the input and x0 a baseline of the same shape, entry i is credited with

    A_i = (x_i - x0_i) integral_0^1 dc/dx_i(x0 + lam (x - x0)) dlam,    sum_i A_i = c(x) - c(x0)

NIB is the same integral at a layer, with 0 as its baseline. Here the baseline has a name:

    mean  picture: the data's mean colour (0 after normalising). Text: the mean row of all tokens the model knows
    blur  picture: Gaussian, sigma an eighth of the side. Text: Gaussian over places, sigma 2 tokens
    zero  picture: black. Text: rows of zeros

BOS and EOS of a text stay as they are, so they score 0.

Sundararajan, Taly & Yan, Axiomatic Attribution for Deep Networks, ICML 2017.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from torch import Tensor

from ..attribution import Attribution, as_arrays
from ..checks import one_of
from ..models.devices import in_parts, onto
from ..models.towers import State, ragged
from .nib import Path, gauss
from .registry import method

BASELINES = ("mean", "blur", "zero")
# sigma of "blur", of the picture's side and in tokens; the usual 5 pixels of 224 hide nothing that CLIP reads
SIDE, PLACES = 1 / 8, 2.0


def places_of_words(clip, ids: list[Tensor], rows: State) -> Tensor:
    """(B, T) bool: the tokens between BOS and EOS, of the texts whose token rows are `rows`."""
    place = torch.arange(rows.tokens.shape[1], device=rows.tokens.device)
    last = torch.minimum(onto(place.device, torch.tensor([len(i) - 1 for i in ids])), rows.readout)
    return (place >= clip.text.before) & (place < last[:, None])


def mean_row(clip) -> Tensor:
    """The mean of all token rows that the model knows, (C,); those it never trained are 0 in the bundled one."""
    known = clip.text.embedding
    return known[known.any(1)].mean(0)


def picture_baseline(clip, pixels: Tensor, name: str) -> Tensor:
    """A baseline of BASELINES for pixels (B, 3, H, W), of the same shape."""
    if name == "blur":
        blurred = gaussian_filter(pixels.cpu().numpy(), SIDE * pixels.shape[-1], axes=(2, 3))
        return torch.as_tensor(blurred).to(pixels)
    black = (
        clip.preprocess(Image.new("RGB", (clip.image.size,) * 2)) if name == "zero" else torch.zeros_like(pixels[:1])
    )
    return black.expand_as(pixels)


def text_baseline(clip, rows: Tensor, words: Tensor, name: str) -> Tensor:
    """A baseline of BASELINES for token rows (B, T, C); what is not one of `words` (B, T) stays."""
    if name == "mean":
        instead = mean_row(clip).expand_as(rows)
    elif name == "zero":
        instead = torch.zeros_like(rows)
    else:
        weights = gaussian_filter1d(np.eye(rows.shape[1]), PLACES, axis=0, mode="nearest")
        weights = torch.as_tensor(weights).to(rows) * words[:, None]  # only words lend their rows
        instead = weights @ rows / weights.sum(-1, keepdim=True).clamp_min(1e-12)
    return torch.where(words[..., None], instead, rows)


def straight(
    embed: Callable[[Tensor, Tensor], Tensor], x: Tensor, x0: Tensor, target: Tensor, steps: int, at_once: int
) -> Path:
    """The module's integral for B inputs x, x0 (B, ...), by Gauss-Legendre with `steps` nodes; scores like x, signed.

    embed(inputs (N, ...), pairs (N,)) -> embeddings (N, E) of inputs that belong to these pairs. target (B, E): c is
    the cosine with it. at_once: inputs that go forward and backward together.
    """
    b, (nodes, weights) = len(x), (part.to(x) for part in gauss(steps))
    pairs, lam, weights = torch.arange(b, device=x.device).repeat_interleave(steps), nodes.repeat(b), weights.repeat(b)

    def slope(part: slice) -> Tensor:
        k = pairs[part]
        between = torch.lerp(x0[k], x[k], lam[part].view(-1, *[1] * (x.ndim - 1))).requires_grad_()
        cosine = F.cosine_similarity(embed(between, k), target[k])
        (gradient,) = torch.autograd.grad(cosine.sum(), between)
        return torch.einsum("nb,n...->b...", F.one_hot(k, b).to(x) * weights[part, None], gradient)

    @torch.no_grad()
    def match(of: Tensor) -> Tensor:
        k = torch.arange(b, device=x.device)
        return torch.cat(
            [*in_parts(b, at_once, lambda part: F.cosine_similarity(embed(of[part], k[part]), target[part]))]
        )

    total, ends = sum(in_parts(len(pairs), at_once, slope)), [match(x), match(x0)]
    return Path((x - x0) * total, *ends, torch.full((b,), steps))


def per_patch(scores: Tensor, grid: tuple[int, int]) -> Tensor:
    """Scores of pixels (B, H, W), added up within each cell of the patch grid: (B, rows, columns), the same total.

    >>> per_patch(torch.ones(1, 4, 6), (2, 2)).tolist()
    [[[6.0, 6.0], [6.0, 6.0]]]
    """
    cells = [
        (torch.arange(n, device=scores.device) * m).div(n, rounding_mode="floor")
        for n, m in zip(scores.shape[1:], grid)
    ]
    rows, columns = (F.one_hot(cell, m).to(scores) for cell, m in zip(cells, grid))
    return rows.T @ scores @ columns


def gaps(**sides: Path) -> dict[str, np.ndarray]:
    """gap_NAME and change_NAME of each Path, whatever the shape of its scores: columns of an Attribution's `info`."""
    found = {}
    for name, path in sides.items():
        found[f"gap_{name}"] = (path.scores.flatten(1).sum(1) - path.change).abs().cpu().numpy()
        found[f"change_{name}"] = path.change.cpu().numpy()
    return found


@method(title="Integrated gradients", unit="cosine", colour="#1b9e9e", baseline=partial(one_of, allowed=BASELINES))
def ig(
    clip, pixels: Tensor, ids: list[Tensor], *, baseline: str = "mean", steps: int = 32, batch_size: int | str = "auto"
) -> Attribution:
    """Integrated gradients of B pairs, from pixels and token rows (Sundararajan et al., ICML 2017).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are signed, in units of cosine similarity, and
    add up to c(x) - c(x0) as well as `steps` Gauss-Legendre nodes do; those of pixels are added up per patch. baseline:
    "mean", "blur" or "zero", see the module. batch_size: rows at once, or memory such as "500MB".

    info: passes (gradient passes per encoder: steps), gap_image, gap_text (absolute completeness gaps), change_image,
    change_text (c(x) - c(x0)).
    """
    image, text, rows = clip.image, clip.text, clip.text.rows(ids)
    targets = [tower.encode(inputs) for tower, inputs in zip((text, image), (ids, pixels))]
    words = places_of_words(clip, ids, rows)
    at_once = image.rows_at_once(batch_size, image.rows(pixels[:1]), 0), text.rows_at_once(batch_size, rows, 0)
    seen = straight(
        lambda x, k: image.embed_rows(image.rows(x)),
        pixels,
        picture_baseline(clip, pixels, baseline),
        targets[0],
        steps,
        at_once[0],
    )
    read = straight(
        lambda x, k: text.embed_rows(State(x, rows.readout[k])),
        rows.tokens,
        text_baseline(clip, rows.tokens, words, baseline),
        targets[1],
        steps,
        at_once[1],
    )
    info = pd.DataFrame({"passes": np.full(len(ids), steps), **gaps(image=seen, text=read)})
    patches = per_patch(seen.scores.sum(1), image.grid).float().cpu().numpy()
    return Attribution(patches, as_arrays(ragged(read.scores.sum(-1), ids)), image.size, info)
