"""Multi-modal information bottleneck: how many nats of each token must pass a noisy gate for the match to survive?

The output h of block `layer` is gated by lam = sigmoid(alpha), one value per token and channel, with e ~ N(0, 1):

    t = lam h + (1 - lam) e,    alpha = argmin  beta mean KL(t || N(0, 1)) - mean_e cos(embedding(t), other embedding)
    KL = -1/2 (1 + log (1 - lam)^2 - (lam h)^2 - (1 - lam)^2)

A token's score is its KL summed over the channels (nats, never negative). alpha starts at 5 (open); Adam finds it.

Wang, Rudner & Wilson, Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck
Attribution, NeurIPS 2023.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..checks import number, whole
from ..models.cut import cut
from ..models.devices import in_parts, onto
from ..models.towers import Layer, State, Tower
from ._gradient import behind, seen
from .registry import method

OPEN = 5.0  # alpha at the start


def divergence(alpha: Tensor, h: Tensor) -> Tensor:
    """KL(N(lam h, (1 - lam)^2) || N(0, 1)) of every entry, lam = sigmoid(alpha), in nats."""
    log_var = 2 * F.logsigmoid(-alpha)  # finite where 1 - lam would round to 0
    return -0.5 * (1 + log_var - (alpha.sigmoid() * h) ** 2 - log_var.exp())


class Stream(NamedTuple):
    """Where a pair's noise comes from: the CPU's generator on every device, so that a seed means one map. It draws
    `before`, a shape, at each of `steps` steps, then its own.
    """

    seed: int
    steps: int
    samples: int
    before: tuple[int, ...] = ()


@lru_cache(maxsize=8)
def _start(stream: Stream) -> Tensor:
    rng = torch.Generator().manual_seed(stream.seed)
    for _ in range(stream.steps if stream.before else 0):
        torch.randn(stream.samples, *stream.before, generator=rng)
    return rng.get_state()


def draws(stream: Stream, length: int, width: int) -> Iterator[Tensor]:
    """e of one step after the other, (samples, length, C): pairs of one length have one stream."""
    rng = torch.Generator()
    rng.set_state(_start(stream))
    while True:
        yield torch.randn(stream.samples, length, width, generator=rng)


@lru_cache(maxsize=128)
def _kept(device: torch.device, stream: Stream, length: int, width: int) -> tuple[Tensor, ...]:
    """`draws` of all steps on a GPU, for this batch and the next: drawing took longer than what is done with them."""
    return onto(device, torch.stack(list(islice(draws(stream, length, width), stream.steps)))).unbind()


def noise(stream: Stream, lengths: list[int], width: int, device: torch.device) -> Iterator[Tensor]:
    """e of one step after the other, (B, samples, T, C), zero behind a pair's own length; (1, samples, T, C) for all
    pairs where their lengths are one.
    """
    known = sorted(set(lengths))
    of = draws if device.type == "cpu" else partial(_kept, device)
    kind = onto(device, torch.tensor([known.index(n) for n in lengths]))
    for step in zip(*(of(stream, n, width) for n in known)):
        drawn = torch.stack([F.pad(e, (0, 0, 0, known[-1] - n)) for n, e in zip(known, step)])
        yield drawn if len(known) == 1 else drawn[kind]


def optimise(
    tower: Tower, state: State, layer: int, target: Tensor, lengths: list[int], stream: Stream, beta: float, lr: float
) -> Tensor:
    """Token scores (B, T) after steps - 1 steps of Adam; `state` enters block `layer`."""
    h, samples, device = state.tokens, stream.samples, state.tokens.device
    n = onto(device, torch.tensor(lengths))
    alive = (torch.arange(h.shape[1], device=device) < n[:, None])[..., None]
    readout, target = state.readout.repeat_interleave(samples), target.repeat_interleave(samples, 0)
    alpha = torch.full_like(h, OPEN).requires_grad_()
    adam = torch.optim.Adam([alpha], lr=lr)
    for e in islice(noise(stream, lengths, h.shape[2], device), stream.steps - 1):
        lam = alpha.sigmoid()
        t = (lam * h)[:, None] + (1 - lam)[:, None] * e.to(h)  # (B, samples, T, C)
        cosine = F.cosine_similarity(tower.embed(State(t.flatten(0, 1), readout), layer), target)
        kl = (divergence(alpha, h) * alive).sum((1, 2)) / (n * h.shape[2])
        loss = beta * kl - cosine.unflatten(0, (-1, samples)).mean(1)
        (alpha.grad,) = torch.autograd.grad(loss.sum(), alpha)  # Adam is element-wise: the pairs of a batch stay apart
        adam.step()
    return (divergence(alpha.detach(), h) * alive).sum(2)


@method(title="M2IB", unit="nats", layers=behind, beta=number, lr=partial(number, zero=False), samples=whole)
def m2ib(
    clip,
    pixels: Tensor,
    ids: list[Tensor],
    *,
    layer: Layer = None,
    steps: int = 10,
    beta: float = 0.1,
    lr: float = 1.0,
    samples: int = 10,
    seed: int = 0,
    batch_size: int | str = "auto",
) -> Attribution:
    """M2IB scores of B pairs, image and text, in nats, >= 0 (Wang et al., NeurIPS 2023).

    layer: the *output* of this block is gated (one block later than NIB's), so not the last one. steps: forwards of
    the published loop; the map is what the last one sees, after steps - 1 updates, so that one need not run here.
    beta: price of a nat against a unit of cosine; lr: Adam's; samples: noisy copies per step. seed: every pair starts
    from it, so no map depends on the batch, and noise is the same on a GPU as on a CPU. batch_size: rows at once, or
    memory such as "500MB".

    info: passes, gradient passes per encoder, from the gated block upwards: (steps - 1) x samples.
    """
    sides = cut(clip, pixels, ids, layer)
    places = sides[0].state.tokens.shape[1:]
    lengths = [places[0]] * len(ids), seen(clip.text, sides[1].state).sum(1).tolist()
    streams = Stream(seed, steps, samples), Stream(seed, steps, samples, tuple(places))  # one serves the picture first
    scores = []
    for (tower, state, first, target), n, stream in zip(sides, lengths, streams):

        def part_of(part: slice) -> Tensor:
            some = State(state.tokens[part, : max(n[part])], state.readout[part])
            found = optimise(tower, some, first, target[part], n[part], stream, beta, lr)
            return F.pad(found, (0, max(n) - found.shape[1]))

        rows = tower.rows_at_once(batch_size, state, first)
        scores.append(torch.cat([*in_parts(len(ids), max(1, rows // samples), part_of)]))
    info = pd.DataFrame({"passes": np.full(len(ids), (steps - 1) * samples)})
    return Attribution.of(clip.image, *scores, ids, info)
