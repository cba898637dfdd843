"""The rows of Table 1: every method of nibkit and every system that the paper's table names, as `Subject`s."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..methods import METHODS
from ..methods.ig import BASELINES
from ..methods.nib import Bottleneck
from .cocoa import cocoa
from .exemplars import exemplars
from .falcon import describe, falcon
from .lico import lico
from .properties import Explained, Subject
from .textspan import decompose, textspan


def captions(clip, ids: list[Tensor]) -> list[str]:
    """The texts again, without BOS and EOS."""
    return ["".join(clip.decode(i[clip.text.before : -1])).strip() for i in ids]


def _changes(clip, pixels: Tensor, ids: list[Tensor]) -> list[np.ndarray]:
    """Changes of the match that text scores could add up to, (B,) each: closing a layer, ig's way to a baseline."""
    target, everyone = clip.embed_image(pixels), torch.arange(len(ids), device=clip.device)
    found, opened = [], torch.ones(len(ids), device=clip.device)
    for layer in range(len(clip.text.blocks)):
        path = Bottleneck(clip.text, clip.text.state(ids, layer), layer, target)
        found.append((path.value(opened, everyone) - path.value(0 * opened, everyone)).cpu().numpy())
    return found + [
        METHODS["ig"](clip, pixels, ids, steps=1, baseline=b).info.change_text.to_numpy() for b in BASELINES
    ]


def attribution(function: Callable, extras: dict | None = None, certain: dict | None = None, **options) -> Subject:
    """A method of METHODS. Its gap: that of its text scores, against the change that they come nearest to adding up to.

    certain: options for the gap alone, where it takes more passes.
    """

    def run(clip, pixels, ids, seed, **extras) -> Explained:
        a = function(clip, pixels, ids, seed=seed, **options, **extras)
        return Explained([np.concatenate([image.ravel(), text]) for image, text in zip(a.image, a.text)], clip)

    def gap(clip, pixels, ids, **extras) -> float:
        a = function(clip, pixels, ids, **options | (certain or {}), **extras)
        changes = _changes(clip, pixels, ids)
        if "change_text" in a.info:
            changes.append(a.info.change_text.to_numpy())
        sums = np.array([t.sum() for t in a.text])
        return min(float(np.abs((sums - change) / np.where(change, change, 1e-30)).max()) for change in changes)

    return Subject(run, gap, extras or {})


def _of_cosine(scores: Callable) -> Callable[..., float]:
    """The gap of a method that claims no sum: how far its scores of B pairs are from adding up to their cosine."""

    def gap(clip, pixels, ids, **extras) -> float:
        cosine = clip.similarity(pixels, ids).cpu().numpy()
        return float(np.abs((scores(clip, pixels, ids, 0, **extras).scores[0].sum() - cosine) / cosine).max())

    return gap


def cocoa_subject(foil: Sequence[str], **options) -> Subject:
    """COCOA, each pair's own caption as its corpus; it asks for the foil."""

    def explain(clip, pixels, ids, foil):
        pairs = zip(pixels, captions(clip, ids))
        return [cocoa(clip, x[None], [text], foil, **options) for x, text in pairs]

    def run(clip, pixels, ids, seed, foil) -> Explained:
        return Explained([path.scores[0].cpu().numpy() for path in explain(clip, pixels, ids, foil)], clip)

    def gap(clip, pixels, ids, foil) -> float:
        return max(float(path.gap / path.change.abs()) for path in explain(clip, pixels, ids, foil))

    return Subject(run, gap, {"foil": foil})


def textspan_subject(pictures: Tensor, texts: Sequence[str], **options) -> Subject:
    """TEXTSPAN over the pairs' pictures and others; it asks for these and for texts. Its gap is that of its parts."""

    def run(clip, pixels, ids, seed, pictures, texts) -> Explained:
        together = torch.cat([pixels, pictures]) if len(pictures) else pixels
        return Explained([textspan(clip, together, texts, **options)["explained"].to_numpy()], clip)

    def gap(clip, pixels, ids, pictures, texts) -> float:
        embedding = clip.embed_image(pixels)
        return float((decompose(clip.image, pixels).total() - embedding).norm() / embedding.norm())

    return Subject(run, gap, {"pictures": pictures, "texts": texts})


def falcon_subject(clip, pictures: Tensor, texts: Sequence[str], feature: int = 0, **options) -> Subject:
    """FALCON of one coordinate of the explained model's embedding; `clip` describes the pictures it asks for."""
    describer = clip

    def run(clip, pixels, ids, seed, pictures, texts) -> Explained:
        together = torch.cat([pixels, pictures]) if len(pictures) else pixels
        words = describe(describer, together, texts)
        table = falcon(words, clip.embed_image(together)[:, feature], **options)
        return Explained([table.sort_values("word")["separation"].to_numpy()], clip)

    return Subject(run, _of_cosine(run), {"pictures": pictures, "texts": texts})


def hossain_subject(train: Tensor, texts: Sequence[str], **options) -> Subject:
    """Exemplars; it asks for training pairs. Its scores are the distances to them."""

    def run(clip, pixels, ids, seed, train, texts) -> Explained:
        return Explained([np.array(exemplars(clip, pixels, train, texts, **options)["distances"].tolist())], clip)

    return Subject(run, _of_cosine(run), {"train": train, "texts": texts})


def lico_subject(train: Tensor, labels: Sequence[str], **options) -> Subject:
    """LICO, Grad-CAM after it; it asks for training pictures and their class texts, which are labels."""

    def trained(clip, seed, train, labels):
        return lico(clip, train, labels, seed=seed, **options)[0]

    def run(clip, pixels, ids, seed, train, labels) -> Explained:
        found = trained(clip, seed, train, labels)
        return attribution(METHODS["gradcam"]).run(found, pixels, ids, seed)._replace(clip=found)

    def gap(clip, pixels, ids, train, labels) -> float:
        return attribution(METHODS["gradcam"]).gap(trained(clip, 0, train, labels), pixels, ids)

    return Subject(run, gap, {"train": train, "labels": labels}, ("labels",))


def subjects(clip, train: Tensor, labels: Sequence[str], texts: Sequence[str]) -> dict[str, Subject]:
    """NIB by both rules, METHODS, then COCOA, TEXTSPAN, LICO, FALCON and Hossain et al.'s exemplars, kept small.

    train (N >= 16, 3, H, W), labels: labelled pictures, for those that need them; texts: the foil, the captions and the
    texts to choose from.
    """
    small = {
        "rise": {"masks": 24, "text_masks": 24},
        "ig": {"baseline": "blur", "steps": 4, "certain": {"steps": 48}},
        "lime": {"samples": 48},
        "agi": {"k": 2, "steps": 4, "extras": {"others": None}},
    }
    found = {
        "nib, exact": attribution(
            METHODS["nib"], certain={"tol": 1e-3, "max_passes": 512}, rule="exact", tol=0.05, max_passes=32
        ),
        "nib, 10 steps": attribution(METHODS["nib"], rule="riemann"),
    }
    for name in [name for name in METHODS if name != "nib"]:
        found[name] = attribution(METHODS[name], **small.get(name, {}))
    return found | {
        "cocoa": cocoa_subject(texts, steps=16),
        "textspan": textspan_subject(train, texts),
        "lico": lico_subject(train, labels, steps=2, batch=4),
        "falcon": falcon_subject(clip, train, texts),
        "hossain": hossain_subject(train, labels),
    }
