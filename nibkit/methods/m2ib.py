"""Multi-modal information bottleneck: how many nats of each token must pass a noisy gate for the match to survive?

The output h of block `layer` is gated by lam = sigmoid(alpha), one value per token and channel, with e ~ N(0, 1):

    t = lam h + (1 - lam) e,    alpha = argmin  beta mean KL(t || N(0, 1)) - mean_e cos(embedding(t), other embedding)
    KL = -1/2 (1 + log (1 - lam)^2 - (lam h)^2 - (1 - lam)^2)

A token's score is its KL summed over the channels (nats, never negative). alpha starts at 5 (open); Adam finds it.

Wang, Rudner & Wilson, Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck
Attribution, NeurIPS 2023.
"""

from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution, as_arrays
from ..checks import number, whole
from ..models.towers import Layer, State, Tower, ragged
from ._gradient import behind, seen
from .registry import method

OPEN = 5.0  # alpha at the start


def divergence(alpha: Tensor, h: Tensor) -> Tensor:
    """KL(N(lam h, (1 - lam)^2) || N(0, 1)) of every entry, lam = sigmoid(alpha), in nats."""
    log_var = 2 * F.logsigmoid(-alpha)  # finite where 1 - lam would round to 0
    return -0.5 * (1 + log_var - (alpha.sigmoid() * h) ** 2 - log_var.exp())


class Noise:
    """Draws (B, samples, T, C) of e in which every pair has the stream it would have alone, whatever the batch.

    `rng` holds where that stream starts. A step draws (samples, own length, C): one generator per length is enough.
    """

    def __init__(self, rng: torch.Generator, lengths: list[int], samples: int, width: int):
        self.lengths, self.shape = lengths, (samples, width)
        self.streams = {n: rng.clone_state() for n in set(lengths)}

    def draw(self) -> Tensor:
        """The next e, (B, samples, T, C), zero behind a pair's own length."""
        samples, width = self.shape
        drawn = {n: torch.randn(samples, n, width, generator=rng) for n, rng in self.streams.items()}
        longest = max(self.lengths)
        return torch.stack([F.pad(drawn[n], (0, 0, 0, longest - n)) for n in self.lengths])


def optimise(
    tower: Tower, state: State, layer: int, target: Tensor, noise: Noise, updates: int, beta: float, lr: float
) -> Tensor:
    """Token scores (B, T) after `updates` steps of Adam; `state` enters block `layer`."""
    h, lengths = state.tokens, torch.tensor(noise.lengths, device=target.device)
    alive = (torch.arange(h.shape[1], device=h.device) < lengths[:, None])[..., None]
    samples = noise.shape[0]
    readout, target = state.readout.repeat_interleave(samples), target.repeat_interleave(samples, 0)
    alpha = torch.full_like(h, OPEN).requires_grad_()
    adam = torch.optim.Adam([alpha], lr=lr)
    for _ in range(updates):
        lam = alpha.sigmoid()
        t = (lam * h)[:, None] + (1 - lam)[:, None] * noise.draw().to(h)  # (B, samples, T, C)
        cosine = F.cosine_similarity(tower.embed(State(t.flatten(0, 1), readout), layer), target)
        kl = (divergence(alpha, h) * alive).sum((1, 2)) / (lengths * h.shape[2])
        loss = beta * kl - cosine.unflatten(0, (-1, samples)).mean(1)
        (alpha.grad,) = torch.autograd.grad(loss.sum(), alpha)  # Adam is element-wise: the pairs of a batch stay apart
        adam.step()
    return (divergence(alpha.detach(), h) * alive).sum(2)


@method(unit="nats", layers=behind, beta=number, lr=partial(number, zero=False), samples=whole)
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
    from it, so no map depends on the batch. batch_size: rows at once, or memory such as "500MB".

    info: passes, gradient passes per encoder, from the gated block upwards: (steps - 1) x samples.
    """
    towers = clip.image, clip.text
    states = [tower.state(x, k) for tower, x, k in zip(towers, (pixels, ids), layer)]
    embeddings = [tower.encode(x) for tower, x in zip(towers, (pixels, ids))]
    places = states[0].tokens.shape[1:]
    starts = [torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)]
    for _ in range(steps):  # a pair's one stream serves the picture first: the text's part begins behind that
        torch.randn(samples, *places, generator=starts[1])
    lengths = [places[0]] * len(ids), seen(clip.text, states[1]).sum(1).tolist()
    images, texts = [], []
    for tower, state, first, target, n, rng, scores in zip(
        towers, states, layer, embeddings[::-1], lengths, starts, (images, texts)
    ):
        rows = tower.rows_at_once(batch_size, state, first)
        for part in torch.arange(len(ids)).split(max(1, rows // samples)):
            noise = Noise(rng, [n[k] for k in part], samples, state.tokens.shape[2])
            some = State(state.tokens[part, : max(noise.lengths)], state.readout[part])
            scores.extend(optimise(tower, some, first, target[part], noise, steps - 1, beta, lr))
    info = pd.DataFrame({"passes": np.full(len(ids), (steps - 1) * samples)})
    patches = clip.image.patches(torch.stack(images)).float().cpu().numpy()
    return Attribution(patches, as_arrays(ragged(texts, ids)), clip.image.size, info)
