"""The Narrowing Information Bottleneck (Zhu et al., ICLR 2025).

Let Z be the state that enters block `layer`, F(Z) the cosine of the embedding it leads to with the other encoder's. One scalar
lam narrows the whole layer from open (lam = 1) to closed (lam = 0), and each entry is credited with its part of the change:

    F(Z) - F(0) = sum_i A_i,    A_i = integral_0^1 z_i dF/dz_i(lam Z) dlam        (Theorem 3)

A token's score is the sum over its channels. Negative scores are evidence against the match.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.interpolate import Akima1DInterpolator
from torch import Tensor

from .attribution import Attribution, as_arrays, method
from .towers import Layer, State, Tower, ragged


class Path(NamedTuple):
    """What the integration of one batch found, per pair: token scores (B, T), F(Z), F(0), and the gradient passes used."""

    scores: Tensor
    opened: Tensor
    closed: Tensor
    passes: Tensor

    @property
    def change(self) -> Tensor:
        return self.opened - self.closed

    @property
    def delta(self) -> Tensor:
        """What the scores add up to, less F(Z) - F(0)."""
        return self.scores.sum(1) - self.change

    @property
    def gap(self) -> Tensor:
        """How far the scores are from adding up to F(Z) - F(0), absolute."""
        return self.delta.abs()


class Bottleneck:
    """F along lam -> lam Z for a batch of states, each with its own target embedding."""

    def __init__(self, tower: Tower, state: State, layer: int, target: Tensor, batch_size: int = 64):
        self.tower, self.state, self.layer, self.target, self.batch_size = tower, state, layer, target, batch_size

    def _chunks(self, lam: Tensor, rows: Tensor):
        for part in torch.arange(len(rows), device=rows.device).split(self.batch_size):
            z = self.state.pick(rows[part])
            yield z, z.tokens * lam[part, None, None], self.target[rows[part]]

    @torch.no_grad()
    def value(self, lam: Tensor, rows: Tensor) -> Tensor:
        """F(lam Z) for pairs `rows` (N,) at `lam` (N,): forward only."""
        return torch.cat([self._similarity(*chunk) for chunk in self._chunks(lam, rows)])

    @torch.no_grad()
    def closed(self) -> Tensor:
        """F(0) (B,), from one row: where all tokens are alike, attention hands on what is there, whatever their number."""
        state = self.state.pick(slice(1))
        nothing = self.tower.embed(State(torch.zeros_like(state.tokens), state.readout), self.layer)
        return F.cosine_similarity(nothing.expand_as(self.target), self.target)

    def slope(self, lam: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """F(lam Z) (N,), and sum_c z dF/dz at lam Z per token (N, T): one forward and one backward per `batch_size` rows."""
        values, slopes = [], []
        for z, tokens, target in self._chunks(lam, rows):
            tokens.requires_grad_()
            value = self._similarity(z, tokens, target)
            (gradient,) = torch.autograd.grad(value.sum(), tokens)
            values.append(value.detach())
            slopes.append((z.tokens * gradient).sum(-1))
        return torch.cat(values), torch.cat(slopes)

    def _similarity(self, z: State, tokens: Tensor, target: Tensor) -> Tensor:
        return F.cosine_similarity(self.tower.embed(State(tokens, z.readout), self.layer), target)



def fixed_rule(bottleneck: Bottleneck, nodes: Tensor, weights: Tensor) -> Path:
    """Quadrature with the same nodes in (0, 1] for every pair."""
    b, n = len(bottleneck.target), len(nodes)
    everyone = torch.arange(b, device=bottleneck.target.device)
    lam = nodes.to(bottleneck.target).repeat_interleave(b)
    values, slopes = bottleneck.slope(lam, everyone.repeat(n))
    scores = torch.einsum("n,nbt->bt", weights.to(slopes), slopes.unflatten(0, (n, b)))
    opened = values[-b:] if nodes[-1] == 1 else bottleneck.value(torch.ones_like(lam[:b]), everyone)
    return Path(scores, opened, bottleneck.closed(), torch.full((b,), n))


def riemann(steps: int) -> tuple[Tensor, Tensor]:
    """The paper's right Riemann sum: lam = k / n, weights 1 / n."""
    return torch.arange(1, steps + 1, dtype=torch.float64) / steps, torch.full((steps,), 1 / steps, dtype=torch.float64)


def gauss(steps: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre on (0, 1)."""
    x, w = np.polynomial.legendre.leggauss(steps)
    return torch.tensor((x + 1) / 2), torch.tensor(w / 2)


EPS = 1e-5  # LayerNorm's
START = 9  # nodes of the first round
ROUND = 3  # intervals halved in each further round


def exact_rule(bottleneck: Bottleneck, tol: float, max_passes: int) -> Path:
    """The integral itself: nodes where F moves, until the scores of each pair add up to F(Z) - F(0).

    F bends on a log scale in lam (LayerNorm sees the state only relative to eps and to the blocks' own output), so the
    variable is u with lam = lam0 sinh(u), lam0 = eps / rms(Z). Every node yields F and its slope, so the error of every
    interval is known: |integral of the slope - difference of F|. The worst intervals are halved until the gap is at most
    tol * |F(Z) - F(0)| or `max_passes` gradient passes are spent.
    """
    tokens, device = bottleneck.state.tokens, bottleneck.target.device
    lam0 = EPS / tokens.double().square().mean((1, 2)).sqrt().cpu().numpy()
    nodes = [np.linspace(0, u, START) for u in np.arcsinh(1 / lam0)]
    values, slopes = [np.empty(0)] * len(nodes), [np.empty((0, tokens.shape[1]))] * len(nodes)
    new, scores = [u.copy() for u in nodes], [None] * len(nodes)
    while any(map(len, new)):
        rows = np.repeat(np.arange(len(nodes)), [len(u) for u in new])
        lam = torch.as_tensor(lam0[rows] * np.sinh(np.concatenate(new)), dtype=tokens.dtype, device=device)
        value, slope = bottleneck.slope(lam, torch.as_tensor(rows, device=device))
        value, slope = value.double().cpu().numpy(), slope.double().cpu().numpy()
        for b in set(rows):
            mine = rows == b
            u = np.concatenate([nodes[b], new[b]]) if len(values[b]) else nodes[b]
            order = np.argsort(u)
            nodes[b] = u[order]
            values[b] = np.concatenate([values[b], value[mine]])[order]
            slopes[b] = np.concatenate([slopes[b], slope[mine]])[order]
            along = slopes[b] * (lam0[b] * np.cosh(nodes[b]))[:, None]
            parts = np.diff(Akima1DInterpolator(nodes[b], along).antiderivative()(nodes[b]), axis=0)  # (intervals, T)
            error = parts.sum(1) - np.diff(values[b])
            scores[b] = parts.sum(0)
            spare = min(ROUND, max_passes - len(nodes[b]))
            done = abs(error.sum()) <= tol * abs(values[b][-1] - values[b][0])
            worst = [] if done or spare <= 0 else np.argsort(-np.abs(error))[:spare]
            new[b] = (nodes[b][worst] + nodes[b][np.add(worst, 1)]) / 2 if len(worst) else np.empty(0)
    as_tensor = lambda x: torch.as_tensor(np.array(x), dtype=tokens.dtype, device=device)  # noqa: E731
    ends = as_tensor([[v[-1], v[0]] for v in values])
    return Path(as_tensor(scores), ends[:, 0], ends[:, 1], torch.tensor([len(u) for u in nodes]))


RULES = ("riemann", "gauss", "exact")


def paths(
    clip,
    pixels: Tensor,
    ids: list[Tensor],
    layer: Layer,
    rule: str,
    steps: int,
    *,
    tol: float,
    max_passes: int,
    batch_size: int | str,
) -> tuple[Path, Path]:
    """The integrals of both encoders, image and text; options as in `nib`. Scores of all tokens, CLS and padding too."""
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is not one of: {', '.join(RULES)}")
    towers, found = (clip.image, clip.text), []
    layers = clip.layers(layer)
    states = [tower.state(inputs, k) for tower, inputs, k in zip(towers, (pixels, ids), layers)]
    embeddings = [tower.encode(inputs) for tower, inputs in zip(towers, (pixels, ids))]
    for tower, state, k, target in zip(towers, states, layers, reversed(embeddings)):
        bottleneck = Bottleneck(tower, state, k, target, tower.rows_at_once(batch_size, state, k))
        if rule == "exact":
            found.append(exact_rule(bottleneck, tol, max_passes))
        else:
            found.append(fixed_rule(bottleneck, *(riemann if rule == "riemann" else gauss)(steps)))
    return found[0], found[1]


@method
def nib(
    clip,
    pixels: Tensor,
    ids: list[Tensor],
    *,
    layer: Layer = None,
    steps: int = 10,
    rule: str | None = None,
    protocol: str = "paper",
    tol: float = 0.01,
    max_passes: int = 64,
    batch_size: int | str = "auto",
) -> Attribution:
    """Narrowing Information Bottleneck scores of B pairs, image and text (Zhu et al., ICLR 2025, Theorem 3).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are signed, in units of cosine similarity: a
    positive token speaks for the match, a negative one against it; all tokens together (CLS included) add up to F(Z) - F(0).

    layer: the state that enters this block is narrowed; see `Clip.layers` for its default and for a pair. rule: "riemann"
    (the paper's sum of `steps` terms), "gauss" (Gauss-Legendre, `steps` nodes) or "exact" (`tol`, `max_passes`: see
    `exact_rule`); by default "riemann" under protocol="paper" and "exact" under "corrected". batch_size: rows at once, or
    memory such as "500MB".
    Each text is scored against its own picture (the published code: against the mean of the batch's pictures).

    info: passes (gradient passes per encoder, the larger of the two), gap_image, gap_text (absolute completeness gaps),
    change_image, change_text (F(Z) - F(0)), converged (both gaps within tol of their change), stopped ("steps", "tol" or
    "max_passes").
    """
    rule = rule or ("riemann" if protocol == "paper" else "exact")
    options = {"tol": tol, "max_passes": max_passes, "batch_size": batch_size}
    image, text = paths(clip, pixels, ids, layer, rule, steps, **options)
    info = pd.DataFrame({"passes": torch.maximum(image.passes, text.passes).numpy()})
    for name, path in (("image", image), ("text", text)):
        info[f"gap_{name}"], info[f"change_{name}"] = path.gap.cpu().numpy(), path.change.cpu().numpy()
    info["converged"] = (info.gap_image <= tol * info.change_image.abs()) & (info.gap_text <= tol * info.change_text.abs())
    info["stopped"] = np.where(info.converged, "tol", "max_passes") if rule == "exact" else "steps"
    patches = clip.image.patches(image.scores).float().cpu().numpy()
    return Attribution(patches, as_arrays(ragged(text.scores, ids)), clip.image.size, info)
