"""The paper's Table 1: which properties methods for image-text models have, tested in code where a method runs here.

Also COCOA, a related method that is small enough to run here; `textspan` has another.
"""

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ..methods import METHODS
from ..methods.nib import Bottleneck, Path, gauss
from ..metrics.stats import relative_difference
from .textspan import decompose, textspan

# --- COCOA: what makes a picture resemble a corpus rather than a foil? --------------------------------------------


def cocoa(
    clip, pixels: Tensor, corpus: Sequence[str], foil: Sequence[str], *, steps: int = 32, batch_size: int = 64
) -> Path:
    """Contrastive corpus attribution of B pictures against two sets of texts (Lin, Chen, Kim & Lee, ICLR 2023).

    Contrastive corpus similarity S(x) = mean over `corpus` of cos(x, text) - mean over `foil` of cos(x, text) is
    explained by integrated gradients on the pixels, from the blurred picture x0 (Gaussian of 21 pixels, sigma 5, as in
    their CLIP example) to x; `steps` Gauss-Legendre nodes. Pixel scores are summed per patch, which keeps their total.

    Returns a Path: scores (B, patches), signed, in cosine; `change` = S(x) - S(x0), `gap` what the scores miss of it.
    ValueError where either set is empty.
    """
    for name, texts in (("corpus", corpus), ("foil", foil)):
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"{name}={texts!r} is not a list of at least one text; COCOA contrasts two sets of texts")
    mean = [F.normalize(clip.embed_text(list(texts)), dim=-1).mean(0) for texts in (corpus, foil)]
    direction = mean[0] - mean[1]  # S is linear in the unit embedding

    def similarity(x: Tensor) -> Tensor:
        return F.normalize(clip.image.embed_rows(clip.image.rows(x)), dim=-1) @ direction

    blurred = gaussian_blur(pixels, [21, 21], [5.0, 5.0])
    nodes, weights = (x.to(pixels) for x in gauss(steps))
    found, ends = [], []
    for x, x0 in zip(pixels, blurred):
        total = torch.zeros_like(x)
        for lam, weight in zip(nodes.split(batch_size), weights.split(batch_size)):
            between = (x0 + lam[:, None, None, None] * (x - x0)).requires_grad_()
            (gradient,) = torch.autograd.grad(similarity(between).sum(), between)
            total += torch.einsum("n,nchw->chw", weight, gradient)
        per_pixel = ((x - x0) * total).sum(0)
        found.append(F.adaptive_avg_pool2d(per_pixel[None], clip.image.grid).flatten())
        with torch.no_grad():
            ends.append(similarity(torch.stack([x, x0])))
    area = pixels.shape[2] * pixels.shape[3] / len(found[0])
    opened, closed = torch.stack(ends, 1)
    return Path(area * torch.stack(found), opened, closed, torch.full((len(pixels),), steps))


# --- Table 1 -----------------------------------------------------------------------------------------------------

PROPERTIES = (
    "no extra examples", "no randomness", "no specific structure", "no information loss", "explains the current model",
    "no downstream task",
)  # fmt: skip
GIVEN = ("clip", "pixels", "ids")  # a model and a pair
LABELS = ("labels", "classes", "targets")
TOLERANCE = 0.02  # share of the match's change that scores may miss
SAME = 0.1  # of the largest score: rounding depends on the batch and flips the signs MFABA steps by (0.05 in one of 16 pairs)
FEW = 2  # pairs on which bits are compared; whether scores add up is asked of all


class Subject(NamedTuple):
    """A method to test.

    function: as its user calls it; its signature says what it asks for. run(clip, pixels, ids, seed) -> its scores, a
    list of arrays. gap(clip, pixels, ids) -> the largest share of the change it explains that its scores miss.
    """

    function: Callable
    run: Callable[..., list[np.ndarray]]
    gap: Callable[..., float]


class Opaque:
    """A block of which only the map from state to state is visible: no heads, no attention."""

    def __init__(self, block):
        self.at_row, self._call = block.at_row, block.__call__

    def __call__(self, x: Tensor, causal: bool = False) -> Tensor:
        return self._call(x, causal)


def hide(clip):
    """The same model with opaque blocks; `clip` is not touched."""
    hidden = copy.copy(clip)
    for name in ("image", "text"):
        tower = copy.copy(getattr(clip, name))
        tower.blocks = [Opaque(block) for block in tower.blocks]
        setattr(hidden, name, tower)
    return hidden


def fingerprint(clip, pixels: Tensor, ids: list[Tensor]) -> str:
    """Hash of what a method could leave behind: weights, gradients, flags, hooks, and the pairs' cosines."""
    digest = hashlib.sha256(clip.similarity(pixels, ids).cpu().numpy().tobytes())
    for name, tensor in clip.model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    flags = [(p.requires_grad, p.grad is None) for p in clip.model.parameters()]
    hooks = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in clip.model.modules()
    ]
    digest.update(repr((flags, hooks)).encode())
    return digest.hexdigest()


def _seeded(run: Callable, seed: int) -> list[np.ndarray]:
    """run(seed) with the global generators started from `seed` too, and put back after."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            return run(seed)
        finally:
            np.random.set_state(numpy_state)


def _differ(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    return max(relative_difference(a, b) for a, b in zip(one, other))


def examine(subject: Subject, clip, pixels: Tensor, ids: list[Tensor]) -> pd.DataFrame:
    """Test a method for the six properties on B >= 2 pairs: columns property, holds, how ("tested"), evidence.

    All but "no information loss" are asked of the first FEW pairs.

    * no extra examples: it asks for nothing but a model and a pair, and a pair alone scores as among others, to SAME.
    * no randomness: other seeds, its own and the global ones, give the same bits.
    * no specific structure: it gives the same scores on a model whose blocks hide their attention. That a model has
      tokens, and layers to cut at, is granted to all.
    * no information loss: in the worst of all B pairs its scores add up to the change they explain, to TOLERANCE.
    * explains the current model: weights, flags, hooks and outputs are the same bits after as before.
    * no downstream task: it asks for no labels.
    """
    if len(pixels) < 2:
        raise ValueError(f"{len(pixels)} pair: whether a score depends on other examples shows only with two or more")
    arguments = inspect.signature(subject.function).parameters.values()
    extras = [p.name for p in arguments if p.default is p.empty and p.name not in GIVEN and p.kind is not p.VAR_KEYWORD]
    few = pixels[:FEW], ids[:FEW]
    before = fingerprint(clip, *few)
    scores, others = (_seeded(functools.partial(subject.run, clip, *few), seed) for seed in (0, 1))
    found = {}
    if extras:
        found[PROPERTIES[0]] = False, f"asks for {', '.join(extras)}"
    else:
        apart = _differ(scores[:1], _seeded(functools.partial(subject.run, clip, pixels[:1], ids[:1]), 0)[:1])
        found[PROPERTIES[0]] = apart < SAME, f"alone, a pair's scores differ by {apart:.1%} of the largest"
    same = all(np.array_equal(a, b) for a, b in zip(scores, others, strict=True))
    apart = _differ(scores, others)
    found[PROPERTIES[1]] = same, f"two seeds differ by {apart:.0%} of the largest score"
    try:
        apart = _differ(scores, _seeded(functools.partial(subject.run, hide(clip), *few), 0))
        found[PROPERTIES[2]] = apart == 0, "same scores on blocks that hide their attention"
    except AttributeError as error:
        found[PROPERTIES[2]] = False, f"reads a block's {error.name}"
    gap = subject.gap(clip, pixels, ids)
    missed = f"misses {f'{gap:.1%}' if gap < 10 else '>1,000%'} of the change, worst of {len(ids)} pairs"
    found[PROPERTIES[3]] = gap < TOLERANCE, missed
    unchanged = fingerprint(clip, *few) == before
    found[PROPERTIES[4]] = unchanged, "same bits before and after" if unchanged else "the run changed the model"
    labels = [name for name in extras if name in LABELS]
    found[PROPERTIES[5]] = not labels, f"asks for {', '.join(labels)}" if labels else "ran without any label"
    rows = [(name, holds, "tested", evidence) for name, (holds, evidence) in found.items()]
    return pd.DataFrame(rows, columns=["property", "holds", "how", "evidence"])


def attribution_subject(function: Callable, **options) -> Subject:
    """A method of nibkit. Its gap is that of the text scores, at the layer where they add up best."""

    def run(clip, pixels, ids, seed):
        a = function(clip, pixels, ids, seed=seed, **options)
        return [np.concatenate([image.ravel(), text]) for image, text in zip(a.image, a.text)]

    def gap(clip, pixels, ids):
        sums = torch.tensor([float(t.sum()) for t in function(clip, pixels, ids, **options).text])
        target, everyone = clip.embed_image(pixels), torch.arange(len(ids), device=clip.device)
        ends = (torch.ones(len(ids), device=clip.device), torch.zeros(len(ids), device=clip.device))
        missed = []
        for layer in range(len(clip.text.blocks)):
            path = Bottleneck(clip.text, clip.text.state(ids, layer), layer, target)
            change = (path.value(ends[0], everyone) - path.value(ends[1], everyone)).cpu()
            missed.append(float(((sums - change) / change).abs().max()))
        return min(missed)

    return Subject(function, run, gap)


def cocoa_subject(foil: Sequence[str], **options) -> Subject:
    """COCOA with each pair's own caption as its corpus."""

    def explain(clip, pixels, ids):
        texts = ["".join(clip.decode(i[clip.text.before : -1])).strip() for i in ids]
        return [cocoa(clip, x[None], [text], foil, **options) for x, text in zip(pixels, texts)]

    def run(clip, pixels, ids, seed):
        return [path.scores[0].cpu().numpy() for path in explain(clip, pixels, ids)]

    def gap(clip, pixels, ids):
        return max(float(path.gap / path.change.abs()) for path in explain(clip, pixels, ids))

    return Subject(cocoa, run, gap)


def textspan_subject(texts: Sequence[str], **options) -> Subject:
    """TEXTSPAN over the pairs' pictures; its gap is that of the parts it decomposes the embedding into."""

    def run(clip, pixels, ids, seed):
        return [textspan(clip, pixels, texts, **options)["explained"].to_numpy()]

    def gap(clip, pixels, ids):
        embedding = clip.embed_image(pixels)
        return float((decompose(clip.image, pixels).total() - embedding).norm() / embedding.norm())

    return Subject(textspan, run, gap)


def subjects(texts: Sequence[str], rise_masks: int = 64) -> dict[str, Subject]:
    """NIB by both rules, METHODS, COCOA with `texts` as its foil, and TEXTSPAN with them to choose from."""
    rise = {"masks": rise_masks, "text_masks": rise_masks}
    found = {
        "nib, exact": attribution_subject(METHODS["nib"], rule="exact", tol=1e-3, max_passes=512),
        "nib, 10 steps": attribution_subject(METHODS["nib"], rule="riemann"),
    }
    for name in [name for name in METHODS if name != "nib"]:
        found[name] = attribution_subject(METHODS[name], **(rise if name == "rise" else {}))
    return found | {"cocoa": cocoa_subject(texts), "textspan": textspan_subject(texts)}


def matrix(
    found: Mapping[str, Subject], clip, pixels: Tensor, ids: list[Tensor], argued: Mapping[str, tuple[str, Mapping]] = {}
) -> pd.DataFrame:
    """Every subject examined, then those argued about: columns method, property, holds, how, evidence; tidy.

    argued: method -> (sentence, {property that it settles: whether it holds}); a property that is not settled has no row.
    """
    tested = [examine(subject, clip, pixels, ids).assign(method=name) for name, subject in found.items()]
    columns = ["method", "property", "holds", "how", "evidence"]
    rows = [(name, p, holds, "argued", why) for name, (why, settled) in argued.items() for p, holds in settled.items()]
    tables = [*tested, pd.DataFrame(rows, columns=columns)] if rows else tested
    return pd.concat(tables, ignore_index=True)[columns]


def marks(table: pd.DataFrame) -> pd.DataFrame:
    """The matrix to read: methods x properties; ✓ or ✗ as tested, (✓) or (✗) as argued, empty where neither."""
    mark = table["holds"].map({True: "✓", False: "✗"})
    mark = mark.where(table["how"] == "tested", "(" + mark + ")")
    wide = table.assign(mark=mark).pivot(index="method", columns="property", values="mark")
    return wide.reindex(index=table["method"].unique(), columns=PROPERTIES).fillna("")
