"""The Narrowing Information Bottleneck (Zhu et al., ICLR 2025).

Let Z be the state that enters block `layer`, F(Z) the cosine of the embedding it leads to with the other encoder's. One
scalar lam narrows the whole layer from open (lam = 1) to closed (lam = 0), and each entry is credited with its part:

    F(Z) - F(0) = sum_i A_i,    A_i = integral_0^1 z_i dF/dz_i(lam Z) dlam        (Theorem 3)

A token's score is the sum over its channels. Negative scores are evidence against the match.

Block `layer` reads Z twice: as the stream that it adds to, and through its LayerNorm, h = norm1(Z). A LayerNorm
does not see scale, so along lam Z the two close one after the other: first the stream, at fixed h; then, where
LayerNorm's eps takes over (lam about 1e-3), h itself. With F(stream; h), and F(0+) = F(0; h), where the stream is
closed and h still open:

    F(Z) - F(0) = [F(Z; h) - F(0; h)] + [F(0; h) - F(0; norm1(0))]                carry + norm

carry: the stream is t Z, h is held. norm: the stream is 0, and h closes as eps would close it: a token's deviation from
norm1(0) by s = r v / sqrt(1 - (1 - r^2) v^2), r its standard deviation over the readout token's, v = t^2. Both are
smooth in t, from 0 to 1, and eps occurs in neither. Together they are Theorem 3's integral as eps / var(Z) goes to
0, complete to F(Z) - F(0) at any eps. The published sum of ten terms approximates carry. Where the block has no
LayerNorm (a stage of a ResNet), carry is all. The split is one of this path, and of pre-LayerNorm blocks; carry
leaves out what the block sees.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..checks import number, one_of, whole
from ..models.cut import cut
from ..models.devices import in_parts
from ..models.towers import Layer, State, Tower
from ._quadrature import Path, adaptive, gauss, riemann
from .registry import method

FIXED = {"riemann": riemann, "gauss": gauss}  # rules of given nodes, over lam
# rules of nodes where a pair's slopes bend -> the parts they integrate, from closed to open
PARTS = {"exact": ("norm", "carry"), "carry": ("carry",), "norm": ("norm",)}
RULES = (*FIXED, *PARTS)
BY_PROTOCOL = {"paper": ("riemann", "riemann"), "corrected": ("carry", "carry")}  # rules of the image and of the text
NOISE = 2.0**-13  # of all scores' sum: float32's rounding, and what eps leaves at the last block (measured 3e-5)


class Bottleneck:
    """F from closed (t = 0) to open (t = 1) for a batch of states, each with its own target embedding.

    part: "whole" is t Z, as in Theorem 3; "carry" and "norm" are its two parts, see above.
    """

    def __init__(self, tower: Tower, state: State, layer: int, target: Tensor, batch_size: int = 64):
        self.tower, self.state, self.layer, self.target, self.batch_size = tower, state, layer, target, batch_size

    def pick(self, rows) -> "Bottleneck":
        """The chosen pairs: `rows` is what a tensor's first axis takes."""
        return Bottleneck(self.tower, self.state.pick(rows), self.layer, self.target[rows], self.batch_size)

    def _narrowed(self, z: State, t: Tensor, part: str) -> tuple[Tensor, Tensor, Callable]:
        """What narrows, at t (N, 1, 1), its derivative in t, both (N, T, C), and the way from it to the embedding."""
        tower, layer, stream = self.tower, self.layer, z.tokens
        norm = None if part == "whole" else getattr(tower.blocks[layer], "norm1", None)
        if norm is None or isinstance(norm, torch.nn.Identity):
            stream = torch.zeros_like(stream) if part == "norm" else stream
            return t * stream, stream, lambda x: tower.embed(State(x, z.readout), layer)
        h = norm(stream)
        if part == "carry":
            return t * stream, stream, lambda x: tower.fed(layer, h).embed(State(x, z.readout), layer)
        shut, closed = norm(torch.zeros_like(h)), State(torch.zeros_like(stream), z.readout)
        spread = stream.std(-1, correction=0)
        r = (spread / spread.gather(1, z.readout[:, None]).clamp(min=1e-30)).clamp(1e-3, 1e3)[..., None]
        root = (1 - (1 - r**2) * t**4).sqrt()
        s, ds = r * t**2 / root, 2 * t * r / root**3
        return shut + s * (h - shut), ds * (h - shut), lambda x: tower.fed(layer, x).embed(closed, layer)

    def _chunks(self, t: Tensor, rows: Tensor, part: str, work: Callable) -> Iterator:
        """work(what narrows, its derivative in t, the way from it to F) of the rows, `batch_size` at a time."""
        t, rows = t.to(self.state.tokens), rows.to(self.target.device)

        def of(some: slice):
            with torch.no_grad():
                x, dx, embed = self._narrowed(self.state.pick(rows[some]), t[some, None, None], part)
            return work(x, dx, lambda x: F.cosine_similarity(embed(x), self.target[rows[some]]))

        return in_parts(len(rows), self.batch_size, of)

    @torch.no_grad()
    def value(self, t: Tensor, rows: Tensor, part: str = "whole") -> Tensor:
        """F of pairs `rows` (N,) at t (N,): forward only."""
        return torch.cat([*self._chunks(t, rows, part, lambda x, dx, match: match(x))])

    @torch.no_grad()
    def closed(self) -> Tensor:
        """F(0) (B,), from one row: where all tokens are alike, attention hands on what is there, whatever their
        number."""
        state = self.state.pick(slice(1))
        nothing = self.tower.embed(State(torch.zeros_like(state.tokens), state.readout), self.layer)
        return F.cosine_similarity(nothing.expand_as(self.target), self.target)

    def slope(self, t: Tensor, rows: Tensor, part: str = "whole") -> tuple[Tensor, Tensor]:
        """F (N,) of pairs `rows` at t, and its derivative in t by token (N, T): one forward and one backward per
        `batch_size` rows."""

        def work(x: Tensor, dx: Tensor, match: Callable) -> tuple[Tensor, Tensor]:
            value = match(x.requires_grad_())
            (gradient,) = torch.autograd.grad(value.sum(), x)
            return value.detach(), (dx * gradient).sum(-1)

        values, slopes = zip(*self._chunks(t, rows, part, work))
        return torch.cat(values), torch.cat(slopes)

    def slopes(self, t: Tensor, part: str = "whole") -> tuple[Tensor, Tensor]:
        """`slope` of every pair at each of t (n,): F (n, B), and per token (n, B, T)."""
        b = len(self.target)
        values, slopes = self.slope(t.repeat_interleave(b), torch.arange(b).repeat(len(t)), part)
        return values.unflatten(0, (-1, b)), slopes.unflatten(0, (-1, b))


def fixed_rule(bottleneck: Bottleneck, nodes: Tensor, weights: Tensor) -> Path:
    """Quadrature of Theorem 3's integral with the same nodes in (0, 1] for every pair."""
    values, slopes = bottleneck.slopes(nodes)
    scores = torch.einsum("n,nbt->bt", weights.to(slopes), slopes)
    b, last = len(scores), values[-1]
    opened = last if nodes[-1] == 1 else bottleneck.value(torch.ones_like(last), torch.arange(b))
    return Path(scores, opened, bottleneck.closed(), torch.full((b,), len(nodes)))


def path(bottleneck: Bottleneck, rule: str, n: int, tol: float = 0.0) -> Path:
    """The integral by a rule of RULES: "riemann" and "gauss" take n gradient passes; the others, whose nodes go
    where each pair's slopes bend, at most n, and no more where a pair is `Path.certified` at tol."""
    if one_of("rule", rule, RULES) in FIXED:
        return fixed_rule(bottleneck, *FIXED[rule](n))
    parts, tol = PARTS[rule], number("tol", tol)
    found = adaptive(bottleneck.slope, len(bottleneck.target), parts, tol, whole("max_passes", n, 5 * len(parts)))
    like = {name: getattr(found, name).to(bottleneck.target) for name in ("scores", "opened", "closed", "error")}
    return found._replace(**like)


def guarded(bottleneck: Bottleneck, path: Path, tol: float) -> Path:
    """Where a pair is not certified, and the published sum of ten terms adds up better to the same change: that sum.

    It costs those pairs ten passes more, which are counted, and is said in a warning.
    """
    rows = (~path.certified(tol)).nonzero()[:, 0]
    fell, scores, passes = torch.zeros_like(path.gap, dtype=torch.bool), path.scores.clone(), path.passes.clone()
    if len(rows):
        published = fixed_rule(bottleneck.pick(rows), *riemann(10)).scores
        worse = ~(path.gap[rows] <= (published.sum(1) - path.change[rows]).abs())  # also where the gap is nan
        scores[rows[worse]], fell[rows[worse]] = published[worse], True
        passes[rows.cpu()] += 10
    if fell.any():
        side, of = bottleneck.tower.name, f"{fell.sum()} of {len(fell)} pairs"
        said = f"NIB: the {side} scores of {of} added up worse than the published sum's, and are the published sum's"
        warnings.warn(f"{said} (info.stopped_{side})", stacklevel=2)
    return path._replace(scores=scores, passes=passes, fell=fell, error=path.error.masked_fill(fell, torch.nan))


def paths(clip, pixels, ids, layers, rules, steps, tol, max_passes, batch_size) -> list[Path]:
    """The integrals of both encoders, image and text, a layer and a rule for each; options as in `nib`. Scores are
    of all tokens, CLS and padding too."""
    found = []
    for (tower, state, layer, target), rule in zip(cut(clip, pixels, ids, layers), rules):
        bottleneck = Bottleneck(tower, state, layer, target, tower.rows_at_once(batch_size, state, layer))
        got = path(bottleneck, rule, steps if rule in FIXED else max_passes, tol)
        found.append(got if rule in FIXED else guarded(bottleneck, got, tol))
    return found


def pair_of_rules(name: str, value: object) -> tuple[str, str] | None:
    """A rule for both sides, or two, (image, text), as two that are known. None stays None."""
    rules = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    return value if value is None else tuple(one_of(name, rule, RULES) for rule in rules)


def reported(tower: Tower, layer: int, path: Path, rule: str, tol: float) -> dict[str, np.ndarray]:
    """The columns of `info` about one encoder; warns where all its scores but one are noise."""
    scores, certified = path.scores.abs(), path.certified(tol)
    noise = scores.topk(2, 1).values[:, 1] <= NOISE * scores.sum(1)
    if noise.any():
        said = f"NIB: the {tower.name} scores of {noise.sum()} of {len(noise)} pairs at layer {layer}"
        why = "what enters the last block reaches the embedding only through a LayerNorm, which does not see scale"
        flat = f"are 0 or rounding noise, and count as flat (info.noise_{tower.name})"
        warnings.warn(f"{said} {flat}: {why}; explain a lower layer", stacklevel=2)
    columns = {"change": path.change, "gap": path.gap, "error": path.error.expand_as(path.gap), "passes": path.passes}
    columns = {name: x.cpu().numpy() for name, x in (columns | {"converged": certified, "noise": noise}).items()}
    stopped = np.select([path.fell.cpu(), certified.cpu()], ["fell back", "tol"], "max_passes")
    columns |= {"rule": rule, "stopped": "steps" if rule in FIXED else stopped}
    return {f"{name}_{tower.name}": column for name, column in columns.items()}


@method(title="NIB", unit="cosine", rule=pair_of_rules, tol=number, max_passes=partial(whole, least=10))
def nib(
    clip,
    pixels: Tensor,
    ids: list[Tensor],
    *,
    layer: Layer = None,
    steps: int = 10,
    rule: str | tuple[str, str] | None = None,
    protocol: str = "paper",
    tol: float = 0.01,
    max_passes: int = 128,
    batch_size: int | str = "auto",
) -> Attribution:
    """Narrowing Information Bottleneck scores of B pairs, image and text (Zhu et al., ICLR 2025, Theorem 3).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are signed, in units of cosine similarity: a
    positive token speaks for the match, a negative one against it.

    layer: the state that enters this block is narrowed; see `Clip.layers` for its default and for a pair.
    rule: "riemann" (the paper's sum of `steps` terms) or "gauss" (Gauss-Legendre, `steps` nodes), both over lam;
        or, with nodes where the slopes bend, "carry", "norm" or "exact", which is both (see `nibkit.methods.nib`):
        the scores of all tokens together, CLS included, are F(Z) - F(0+), F(0+) - F(0) or F(Z) - F(0). Or two
        rules, (image, text).
    protocol: chooses the rule where none is given. "paper": "riemann". "corrected": "carry", which comes near the
        published sum in pictures, is certified token by token, and takes fewer passes than "exact"; which of the two
        marks better what a text names is open (notebook 12).
    tol, max_passes: "carry", "norm" and "exact" add nodes until a pair is certified, its gap at most tol of the
        change and the error of every token at most tol of the largest score; or the next 4 would be over max_passes
        >= 10.
    batch_size: rows at once, or memory such as "500MB".
    Each text is scored against its own picture (the published code: against the mean of the batch's pictures).

    info: passes (gradient passes per encoder, the larger of the two), converged (both sides are certified), and for
    each side, as gap_image and gap_text: rule; passes; change (what the scores are to add up to); gap (what they miss,
    absolute); error (estimate for the worst token; nan by "riemann" and "gauss", which know none, so that converged is
    False); converged; stopped ("steps", "tol", "max_passes", or "fell back": these are the published sum's scores,
    because the rule's own added up worse); noise (no token but one scores more than rounding does: `heatmap` and
    `word_scores` are flat). A warning says where a pair fell back or is noise.
    """
    rules, layers = rule or BY_PROTOCOL[protocol], clip.layers(layer)
    options = {"tol": tol, "max_passes": max_passes, "batch_size": batch_size}
    found = paths(clip, pixels, ids, layers, rules, steps, **options)
    image, text = (reported(*about, tol) for about in zip((clip.image, clip.text), layers, found, rules))
    info = pd.DataFrame(image | text)
    info.insert(0, "passes", info[["passes_image", "passes_text"]].max(axis=1))
    info.insert(1, "converged", info.converged_image & info.converged_text)
    return Attribution.of(clip.image, found[0].scores, found[1].scores, ids, info)
