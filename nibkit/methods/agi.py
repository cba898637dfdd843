"""Adversarial gradient integration: credit along the steepest ways to matches that the pair does not make.

From the input h_0 (pixels; token rows) of a pair with cosine c(h), k other partners are drawn: other captions for the
picture, other pictures for the text, with cosines o(h). Each is walked to, until it matches better than the pair's own,

    h_{j+1} = h_j + step sign(d(o - c)/dh_j),    A = -sum_j (h_{j+1} - h_j) dc/dh_j,

and the k results are averaged; so no baseline is chosen, but other examples are. The sign is that of the gradient of
the softmax over the two partners. Scores add up to c(h_0) - c(h_end), averaged, as far as `steps` short steps do.

Where we deviate: the paper explains a class probability among all classes, and adds up; here it is the cosine, and two
partners, since a CLIP has no classes, and the mean, whose unit is the cosine. Steps are shares of the input's own
spread, without clipping to [0, 1]. Words walk, BOS and EOS stay.

Pan, Li & Zhu, Explaining Deep Neural Network Models with Adversarial Gradient Integration, IJCAI 2021.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import data
from ..attribution import Attribution, as_arrays
from ..checks import number, whole
from ..models.devices import at_hand, in_parts
from ..models.towers import State, ragged
from .ig import gaps, per_patch, places_of_words
from .nib import Path
from .registry import method


class Walk(NamedTuple):
    """k walks from each of B inputs, averaged: a Path whose passes are steps taken, and the share that arrived (B,)."""

    path: Path
    arrived: Tensor


def steepest(
    embed: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    own: Tensor,
    others: Tensor,
    steps: int,
    step: Tensor,
    at_once: int,
) -> Walk:
    """The module's walks from inputs x (B, ...), scores like x. `embed` and `at_once` as in `ig.straight`.

    own (B, E), others (B, k, E): embeddings of the pair's own partner and of the others. step, that broadcasts to x:
    how far an entry moves, 0 for those that stay. At most `steps` steps; an input whose own partner is not the better
    one to begin with does not move, and scores 0.
    """
    b, k = others.shape[:2]
    pairs, step, wide = torch.arange(b, device=x.device).repeat_interleave(k), step.expand_as(x), [1] * (x.ndim - 1)

    def walked(part: slice) -> tuple[Tensor, Tensor]:
        n, other = pairs[part], others.flatten(0, 1)[part]
        h, scores, target = x[n], torch.zeros_like(x[n]), own[n]
        walking, taken, start = torch.ones(len(n), dtype=torch.bool, device=x.device), torch.zeros(len(n)).to(own), None
        for done in range(steps + 1):
            h = h.detach().requires_grad_()
            embedding = embed(h, n)
            mine, theirs = (F.cosine_similarity(embedding, partner) for partner in (target, other))
            walking = walking & (theirs < mine).detach()
            start = mine.detach() if start is None else start
            if done == steps or not walking.any():
                break
            (slope,) = torch.autograd.grad(mine.sum(), h, retain_graph=True)
            (away,) = torch.autograd.grad(theirs.sum(), h)
            moved = step[n] * (away - slope).sign() * walking.view(-1, *wide)
            scores = scores - moved * slope
            h, taken = h.detach() + moved, taken + walking
        found = torch.stack([start, mine.detach(), taken, (~walking).to(own)])
        return torch.einsum("nb,n...->b...", F.one_hot(n, b).to(x) / k, scores), found

    scores, found = zip(*in_parts(b * k, at_once, walked))
    start, end, taken, arrived = torch.cat(found, 1).unflatten(1, (b, k)).mean(2)
    return Walk(Path(sum(scores), start, end, taken), arrived)


def drawn(clip, ids: list[Tensor], others: tuple | None, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """Embeddings (B, k, E) of the pictures and of the texts of k pairs drawn for each of B texts, none of that text.

    others: (pixels (M, 3, H, W), M texts' ids) to draw from; None for the bundled `scenes-captions`. Text k's draws do
    not depend on its batch. Errors: ValueError where fewer than `k` other texts are there.
    """
    if others is None:
        pool = data.load("scenes-captions")
        texts = clip.tokenize([pair.text for pair in pool])
    else:
        pixels, texts = others or ((), ())
    picks, texts_here = [], at_hand(list(texts)) if len(texts) else []
    for i in at_hand(ids):
        known = [n for n, text in enumerate(texts_here) if not torch.equal(text, i)]
        if len(known) < k:
            raise ValueError(
                f"k={k} other pairs are asked for and {len(known)} are there: AGI walks from a pair to other captions "
                "and pictures, so it cannot do without; give more, others=(pixels, ids), or a smaller k"
            )
        picks.append(np.random.default_rng([seed, *i.tolist()]).choice(known, k, replace=False))
    used, place = np.unique(picks, return_inverse=True)
    place = torch.as_tensor(place.reshape(len(ids), k)).to(clip.device)
    pictures = clip.preprocess([pool[int(n)].image for n in used]) if others is None else pixels[torch.as_tensor(used)]
    return clip.embed_image(pictures)[place], clip.embed_text([texts[n] for n in used])[place]


@method(title="AGI", unit="cosine", colour="#a0522d", k=whole, step_size=partial(number, zero=False))
def agi(
    clip,
    pixels: Tensor,
    ids: list[Tensor],
    *,
    k: int = 5,
    others: tuple | None = None,
    steps: int = 20,
    step_size: float = 0.05,
    seed: int = 0,
    batch_size: int | str = "auto",
) -> Attribution:
    """Adversarial gradient integration of B pairs, from pixels and token rows (Pan et al., IJCAI 2021).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are signed, in units of cosine similarity: a
    positive token gave way when another partner took the pair's place. Those of pixels are added up per patch. k: other
    pairs drawn by seed from `others`, (pixels, ids) as above, by default the bundled `scenes-captions`: AGI needs them.
    step_size: of one step, as a share of the spread (root mean square) of the pixels, or of the words' rows.
    batch_size: rows at once, or memory such as "500MB". Errors: ValueError where there are fewer than k others.

    info: passes (gradient passes per encoder: two a step of each of the k walks, the larger of the two), gap_image,
    gap_text (absolute completeness gaps), change_image, change_text (mean cosine lost on the way), arrived_image,
    arrived_text (share of the walks that ended where another partner matches better).
    """
    image, text, rows = clip.image, clip.text, clip.text.rows(ids)
    pictures, texts = clip.embed_image(pixels), clip.embed_text(ids)
    other_pictures, other_texts = drawn(clip, ids, others, k, seed)
    words = places_of_words(clip, ids, rows)[..., None]
    spread = (rows.tokens.square() * words).mean((1, 2)) / words.float().mean((1, 2)).clamp_min(1e-12)
    step = step_size * spread.sqrt()[:, None, None] * words
    at_once = image.rows_at_once(batch_size, image.rows(pixels[:1]), 0), text.rows_at_once(batch_size, rows, 0)
    seen = steepest(
        lambda x, n: image.embed_rows(image.rows(x)),
        pixels,
        texts,
        other_texts,
        steps,
        step_size * pixels.square().mean((1, 2, 3), keepdim=True).sqrt(),
        at_once[0],
    )
    read = steepest(
        lambda x, n: text.embed_rows(State(x, rows.readout[n])),
        rows.tokens,
        pictures,
        other_pictures,
        steps,
        step,
        at_once[1],
    )
    taken = torch.maximum(seen.path.passes, read.path.passes)
    info = pd.DataFrame(
        {"passes": (2 * k * taken).round().int().cpu().numpy(), **gaps(image=seen.path, text=read.path)}
    )
    info["arrived_image"], info["arrived_text"] = (walk.arrived.cpu().numpy() for walk in (seen, read))
    patches = per_patch(seen.path.scores.sum(1), image.grid).float().cpu().numpy()
    return Attribution(patches, as_arrays(ragged(read.path.scores.sum(-1), ids)), image.size, info)
