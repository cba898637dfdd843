"""What an explanation costs, counted in real runs: the paper's Table 8, and passes through whole encoders.

`PUBLISHED` has the paper's eight methods once more, as plain loops in the control flow of the authors' code: one pair,
one step at a time, nothing shared between the image's run and the text's. They compute the scores of `METHODS` and are
there to be counted, and to be compared with.

`calls` runs a method on towers whose blocks note every use. Table 8 counts the calls of *one* image block, batched
calls once and the evaluation's embedding included (`passes`); `whole_encoders` adds up all blocks of both encoders.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..checks import one_of
from ..methods import METHODS
from ..methods.rise import Masks, cell, last_place, word_masks
from ..models.towers import State, Tower

IMPLEMENTATIONS = ("published", "nibkit")

# --- the published control flow ------------------------------------------------------------------------------------


class Side(NamedTuple):
    """One encoder's part of a pair. `embedding` (1, E) is the evaluation's own; `noise` is one stream for both sides.

    `weights`: what every backward pass is to differentiate beside its inputs, only to throw it away.
    """

    tower: Tower
    inputs: Tensor | list[Tensor]
    embedding: Tensor
    noise: torch.Generator
    weights: tuple[Tensor, ...] = ()

    def rows(self) -> State:
        """The inputs' embedding rows (1, T, C)."""
        return self.tower.rows(self.inputs)

    def gradients(self, value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        """d value / d inputs, as autograd.grad has them; those of `weights` are computed and dropped."""
        return torch.autograd.grad(value, [*inputs, *self.weights], allow_unused=True)[: len(inputs)]


def read(tower: Tower, state: State, layer: int = 0) -> Tensor:
    """The embedding (B, E) behind a state that enters block `layer`: every block works on every token."""
    state = tower.run(state, layer, len(tower.blocks))
    return tower.head(state.tokens[torch.arange(len(state.readout), device=state.readout.device), state.readout])


def embed(tower: Tower, rows: State) -> Tensor:
    """The embedding (B, E) of embedding rows: every block works on every token."""
    return read(tower, tower.start(rows))


@torch.no_grad()
def embedding(side: Side) -> Tensor:
    """A side's embedding (1, E), computed anew and without gradients."""
    return embed(side.tower, side.rows())


def asking(side: Side, n: int = 1) -> State:
    """n copies of the rows, asking for a gradient: it passes every block, as on its way to the published weights."""
    rows = side.rows().repeat(n)
    return State(rows.tokens.detach().requires_grad_(), rows.readout)


def nib(own: Side, other: Side, *, layer: int = 9, steps: int = 10) -> Tensor:
    """Token scores (1, T): one forward and one backward for each of the `steps` terms of the sum."""
    target, h, scores = embedding(other), own.tower.state(own.inputs, layer), 0
    for k in range(1, steps + 1):
        x = (h.tokens * k / steps).requires_grad_()
        cosine = F.cosine_similarity(read(own.tower, State(x, h.readout), layer), target)
        scores = scores + (h.tokens * own.gradients(cosine, x)[0] / steps).sum(-1)
    return scores


def m2ib(
    own: Side, other: Side, *, layer: int = 9, steps: int = 10, beta: float = 0.1, lr: float = 1, samples: int = 10
) -> Tensor:
    """Both encoders run on `samples` copies at every step, and the gradient passes both, down to the first block."""
    tower, h = own.tower, own.tower.state(own.inputs, layer + 1)
    read(tower, h, layer + 1)  # the state comes out of a pass through the whole encoder
    alpha = torch.full_like(h.tokens, 5).requires_grad_()
    adam = torch.optim.Adam([alpha], lr)
    for _ in range(steps):
        mine, theirs = asking(own, samples), asking(other, samples)
        x = tower.run(tower.start(mine), 0, layer + 1)
        lam, noise = alpha.sigmoid(), torch.randn(x.tokens.shape, generator=own.noise).to(h.tokens)
        kl = -0.5 * (1 + 2 * F.logsigmoid(-alpha) - (lam * x.tokens) ** 2 - (1 - lam) ** 2)
        gated = State(lam * x.tokens + (1 - lam) * noise, x.readout)
        cosine = F.cosine_similarity(read(tower, gated, layer + 1), embed(other.tower, theirs))
        loss = beta * kl.mean() - cosine.mean()
        alpha.grad, *_ = own.gradients(loss, alpha, mine.tokens, theirs.tokens)
        adam.step()
    return kl.detach().mean(0, keepdim=True).sum(-1)  # of the last forward: its update comes too late


@torch.no_grad()
def rise(
    own: Side, other: Side, *, masks: int = 6000, text_masks: int = 200, probability: float = 0.1, batch: int = 20
) -> Tensor:
    """The target is the evaluation's embedding; the masks are those of nibkit.methods.rise, seed 0, grid 8."""
    rng, grid, tower, rows = np.random.RandomState(0), 8, own.tower, own.rows()
    if tower.name == "text":
        n, ids, length = text_masks, own.inputs[0].cpu(), rows.tokens.shape[1]
        drawn = word_masks(rng, n, min(length, len(ids)), probability, grid, tower.width)
        padding = (0, length - drawn.shape[1])  # which SigLIP sees: never hidden
        drawn, shown = F.pad(drawn, padding), F.pad(drawn[:, last_place(ids[:length])], padding, value=1.0)
    else:
        n, size = masks, tower.size
        opened, shift = rng.rand(n, grid, grid) < probability, rng.randint(0, cell(size, grid), (n, 2))
        pictures = Masks(opened, shift, size, own.inputs.device)
    scores = 0
    for k in (slice(start, min(n, start + batch)) for start in range(0, n, batch)):
        if tower.name == "text":
            m, seen = (part[k].to(rows.tokens) for part in (drawn, shown))
            hidden = State(rows.tokens * seen[..., None], rows.readout.repeat(len(m)))
        else:
            m = pictures[k].to(rows.tokens)
            hidden = tower.rows(own.inputs * m[:, None])
        cosine = F.cosine_similarity(embed(tower, hidden), other.embedding)
        scores = scores + torch.einsum("k,k...->...", cosine, m) / (n * probability)
    return scores[None]


def gradcam(own: Side, other: Side, *, layer: int = 9) -> Tensor:
    """The gradient passes both encoders, down to the first block."""
    tower, mine, theirs = own.tower, asking(own), asking(other)
    a = tower.run(tower.start(mine), 0, layer + 1)
    cosine = F.cosine_similarity(read(tower, a, layer + 1), embed(other.tower, theirs))
    gradient, *_ = own.gradients(cosine, a.tokens, mine.tokens, theirs.tokens)
    return (gradient * a.tokens).detach().sum(-1).clamp(min=0)


def attended(own: Side, other: Side) -> tuple[Tensor, Tensor]:
    """The last block's attention probabilities and d cosine / d probabilities at the readout row, (1, heads, T)
    each.
    """
    target, tower, last = embedding(other), own.tower, len(own.tower.blocks) - 1
    x, block = tower.state(own.inputs, last), tower.blocks[last]
    p, values = block.attention(x.tokens, tower.causal)
    out = block.from_attention(x.tokens, p.requires_grad_(), values)
    row = int(x.readout)
    (gradient,) = own.gradients(F.cosine_similarity(tower.head(out[:, row]), target), p)
    return p.detach()[:, :, row], gradient[:, :, row]


def chefer(own: Side, other: Side) -> Tensor:
    """Token scores (1, T), >= 0, of the last block's attention; see nibkit.methods.chefer."""
    p, gradient = attended(own, other)
    return (gradient * p).clamp(min=0).mean(1)


def saliency(own: Side, other: Side) -> Tensor:
    """Token scores (1, T), >= 0, of the last block's attention; see nibkit.methods.saliency."""
    return attended(own, other)[1].abs().mean(1)


def fastig(own: Side, other: Side) -> Tensor:
    """Token scores (1, T) of the last block's attention; see nibkit.methods.fastig."""
    p, gradient = attended(own, other)
    return (gradient * p).mean(1)


def mfaba(own: Side, other: Side, *, steps: int = 10, step_size: float = 0.01) -> Tensor:
    """The other encoder's input does not change, but it is embedded again at every step."""
    (h, readout), scores = own.rows(), 0
    for _ in range(steps):
        target, h = embedding(other), h.detach().requires_grad_()
        (gradient,) = own.gradients(F.cosine_similarity(embed(own.tower, State(h, readout)), target), h)
        if own.tower.name == "text":  # a token that occurs twice pools its gradients
            ids = own.inputs[0][: h.shape[1]]
            ids = torch.cat([ids, -torch.arange(1, h.shape[1] - len(ids) + 1).to(ids)])  # padding: each by itself
            gradient = (ids[:, None] == ids).to(gradient) @ gradient
        moved = h.detach() - step_size * gradient.sign()
        scores = scores - ((moved - h.detach()) * gradient).sum(-1)
        h = moved
    return scores


_ALL = (nib, m2ib, rise, gradcam, chefer, saliency, mfaba, fastig)
PUBLISHED: dict[str, Callable] = {function.__name__: function for function in _ALL}


def _evaluated(clip, pixels: Tensor, ids: list[Tensor], weights: tuple[Tensor, ...] = ()) -> list[Side]:
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return [Side(t, x, embed(t, t.rows(x)), noise, weights) for t, x in ((clip.image, pixels), (clip.text, ids))]


def _explained(name: str, image: Side, text: Side, options: dict) -> Attribution:
    scores, words = PUBLISHED[name](image, text, **options), PUBLISHED[name](text, image, **options)
    return Attribution.of(image.tower, scores, words, text.inputs, pd.DataFrame(index=[0]))


def published(clip, name: str, pixels: Tensor, ids: list[Tensor], weights: bool = False, **options) -> Attribution:
    """One pair by one of the paper's eight methods in the published control flow; scores as METHODS[name] has them.

    pixels (1, 3, H, W), ids one 1-D int64 tensor in a list. weights: compute the gradients of all weights too, as a
    loop does that leaves them switched on. options: the loop's own, such as layer, steps, masks.
    Errors: ValueError for an unknown name or more than one pair.
    """
    one_of("method", name, PUBLISHED)
    if len(pixels) != 1:
        raise ValueError(f"{len(pixels)} pairs, but the published loops take one at a time; call once per pair")
    clip.check(pixels, ids)
    parameters = tuple(clip.model.parameters()) if weights else ()
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        return _explained(name, *_evaluated(clip, pixels, ids, parameters), options)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


# --- counting ------------------------------------------------------------------------------------------------------


class Counted:
    """A block that logs (*place, direction, rows) for each application and each gradient back to its output."""

    def __init__(self, block, log: list[tuple], *place):
        self._block, self._log, self._place = block, log, place

    def __getattr__(self, name: str):
        return getattr(self._block, name)

    def __call__(self, *inputs) -> Tensor:
        return self._noted(self._block(*inputs))

    def at_row(self, *inputs) -> Tensor:
        """The block's own, noted."""
        return self._noted(self._block.at_row(*inputs))

    def from_attention(self, *inputs) -> Tensor:
        """The block's own, noted."""
        return self._noted(self._block.from_attention(*inputs))

    def _noted(self, out: Tensor) -> Tensor:
        self._log.append((*self._place, "forward", len(out)))
        if out.requires_grad:
            out.register_hook(lambda gradient: self._log.append((*self._place, "backward", len(gradient))))
        return out


def counted(clip, log: list[tuple]):
    """A copy of `clip`, the weights shared, whose blocks write (tower, block, direction, rows) to `log`."""
    clip = copy.copy(clip)
    for name in ("image", "text"):
        tower = copy.copy(getattr(clip, name))
        tower.blocks = [Counted(block, log, name, k) for k, block in enumerate(tower.blocks)]
        setattr(clip, name, tower)
    return clip


def calls(clip, name: str, implementation: str = "published", **options) -> pd.DataFrame:
    """One real run of a method on one pair (a grey picture and a word: counts are the same for any), call by call.

    implementation: "published" (this module's loops) or "nibkit" (METHODS). options: the method's own, as layer, masks.
    Columns: stage ("evaluation": the pair's own embeddings, which the published control flow has ready; "explanation"),
    tower, block (from 0), direction ("forward" or "backward"), rows (inputs in that call). Errors: ValueError.
    """
    one_of("method", name, PUBLISHED)
    one_of("implementation", implementation, IMPLEMENTATIONS)
    pixels, ids = torch.zeros(1, 3, clip.image.size, clip.image.size).to(clip.text.embedding), clip.tokenize(["grey"])
    before, during = [], []
    explaining = counted(clip, during)
    if implementation == "published":
        sides = _evaluated(counted(clip, before), pixels, ids)
        image, text = (side._replace(tower=t) for side, t in zip(sides, (explaining.image, explaining.text)))
        _explained(name, image, text, options)
    else:
        METHODS[name](explaining, pixels, ids, **options)
    stages = [("evaluation", *call) for call in before] + [("explanation", *call) for call in during]
    return pd.DataFrame(stages, columns=["stage", "tower", "block", "direction", "rows"])


def passes(log: pd.DataFrame, block_index: int = 9) -> dict[str, int]:
    """What `calls` found, by Table 8's convention: calls of *image* block `block_index`, forward and backward.

    The image's and the text's run count together, the evaluation's embedding too, a batched call once.
    """
    there = log[(log.tower == "image") & (log.block == block_index)]
    return {direction: int((there.direction == direction).sum()) for direction in ("forward", "backward")}


def whole_encoders(log: pd.DataFrame) -> pd.DataFrame:
    """What `calls` found in units of one whole encoder, the evaluation left out: index tower, columns forward,
    backward.

    Under "rows" one unit is one input through all blocks of the tower; under "calls" it is one batch, whatever its
    size. A block that works for its readout row alone, or whose attention alone gets a gradient, counts in full.
    """
    blocks = 1 + log.groupby("tower").block.max()  # any embedding takes the last one
    groups = log[log.stage == "explanation"].groupby(["tower", "direction"]).rows
    units = {"rows": groups.sum(), "calls": groups.count()}
    table = pd.concat({unit: n.unstack("direction").div(blocks, axis=0) for unit, n in units.items()}, axis=1)
    order = pd.MultiIndex.from_product([units, ["forward", "backward"]])
    return table.reindex(index=["image", "text"], columns=order).fillna(0)
