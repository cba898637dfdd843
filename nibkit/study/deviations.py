"""Where the paper and its published code part, and how much each difference matters, measured.

    table = measure(clip, data.load("scenes-captions")[:32])

The published form is what `protocol="paper"` computes (or, where that would be a defect of the program and not of its
numbers, what is said beside it); the corrected form is nibkit's own. Both are run on the same pairs.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..methods import DEFAULT, METHODS
from ..methods.nib import Bottleneck, fixed_rule, riemann
from ..methods.rise import word_masks
from ..metrics.confidence import confidence
from ..metrics.stats import mean_interval
from ..models.sharing import shared
from ..scenes import datasets
from ..scenes.datasets import describe
from .sanity import alike

BATCH = 32  # the published data loader's
Effects = Iterator[tuple[str, Iterable[float]]]  # what is measured, with its unit, and a value per pair


class Bench:
    """The pairs that all differences are measured on: inputs, and the maps that several of them need."""

    def __init__(self, clip, pairs: Sequence, rise_masks: int = 100, few: int = 4):
        self.clip, self.pairs, self.rise_masks, self.few = clip, pairs, rise_masks, min(few, len(pairs))
        self.pixels = clip.preprocess([pair.image for pair in pairs])
        self.ids = clip.tokenize([pair.text for pair in pairs])
        self._maps: dict[tuple, Attribution] = {}

    def explain(self, name: str, n: int | None = None, **options) -> Attribution:
        """Attribution of the first n pairs (None: all) by METHODS[name], computed once for each set of options."""
        key = (name, n, *sorted(options.items()))
        if key not in self._maps:
            self._maps[key] = METHODS[name](self.clip, self.pixels[:n], self.ids[:n], **options)
        return self._maps[key]

    def metrics(self, a: Attribution, **options) -> pd.DataFrame:
        """The confidence metrics of an Attribution of all pairs, a row each; options as in `metrics.confidence`."""
        return confidence(self.clip, self.pixels, self.ids, a.heatmap(), a.word_scores(), **options)

    def words(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What stands between BOS and EOS."""
        return [text[self.clip.text.before : -1] for text in texts]

    def cosine(self, images: Tensor, texts: Tensor) -> np.ndarray:
        """Cosines (B,) of embeddings (B, E), or of one with many."""
        return F.cosine_similarity(images, texts, dim=-1).cpu().numpy()


def _same(one: Iterable[np.ndarray], two: Iterable[np.ndarray]) -> list[float]:
    return [alike(a, b) for a, b in zip(one, two)]


# --- the differences, in the order of the table ----------------------------------------------------------------------


def ten_steps(bench: Bench) -> Effects:
    """The published sum of ten equal steps against the whole integral and against carry, the part that it comes
    near.
    """
    published, *integrals = (bench.explain("nib", rule=rule) for rule in ("riemann", "exact", "carry"))
    for part in ("image", "text"):
        for label, integral in zip(("the whole integral's", "carry's"), integrals):
            pairs = zip(getattr(published, part), getattr(integral, part))
            found = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs]
            yield f"{part}: correlation of the sum's scores with {label}", found
    for part in ("image", "text"):
        for label, a in (("the sum", published), ("the exact rule", integrals[0])):
            scale = np.maximum(a.info[f"change_{part}"].abs(), 0.05)
            yield f"{part}: what {label} misses of F(Z) - F(0), %", 100 * a.info[f"gap_{part}"] / scale


def _texts_against_batches(bench: Bench, size: int) -> list[np.ndarray]:
    """NIB's text scores with the published target: the mean cosine with all pictures of the batch."""
    clip, layer, found = bench.clip, bench.clip.layers()[1], []
    images = F.normalize(clip.embed_image(bench.pixels), dim=-1)
    for part in torch.arange(len(bench.ids)).split(size):
        ids, target = [bench.ids[k] for k in part], images[part].mean(0)  # a mean of cosines: |target| times one cosine
        state = clip.text.state(ids, layer)
        path = fixed_rule(Bottleneck(clip.text, state, layer, target.expand(len(ids), -1)), *riemann(10))
        rows = path.scores * target.norm()
        found += [row[: len(i)].cpu().numpy() for row, i in zip(rows, ids)]
    return found


def batch_target(bench: Bench) -> Effects:
    """Texts explained against the mean of their batch's pictures, against their own picture."""
    own = bench.explain("nib", rule="riemann", steps=10)
    batch, small = (_texts_against_batches(bench, size) for size in (BATCH, 8))
    yield f"Spearman of the words' scores, batch of {BATCH} against the own picture", _same(
        bench.words(batch), bench.words(own.text)
    )
    yield f"the same, batch of {BATCH} against batches of 8", _same(bench.words(batch), bench.words(small))
    published = bench.metrics(Attribution(own.image, batch, own.size)).text_drop
    yield "text drop, published minus corrected, points", published - bench.metrics(own).text_drop


def caption_choice(bench: Bench, captions: int = 5) -> Effects:
    """Five captions for each picture: the generator describes the scene again, leaving things out as people do."""
    rng, clip, changed, lost = np.random.default_rng(0), bench.clip, [], []
    drawn = {f"captions/{example.stem}": example.scene for example in datasets.captions()}
    images = clip.embed_image(bench.pixels)
    for k, pair in enumerate(bench.pairs):
        texts = clip.embed_text([describe(drawn[pair.id], rng, partial=0.5)[0] for _ in range(captions)])
        own, first = (bench.cosine(images[i, None], texts) for i in (k, k - k % BATCH))
        if k % BATCH:  # the first picture of a batch chooses for itself
            changed.append(100.0 * (own[first.argmax()] < own.max()))
            lost.append(100 * (own.max() - own[first.argmax()]))
    yield f"pictures that are given a caption which is not their best of {captions}, %", changed
    yield "cosine that this costs, points", lost


def text_metric(bench: Bench) -> Effects:
    """What cutting, reading at the largest id and multiplying the scores of repeated words do to the text metrics."""
    inner = bench.words([i.cpu().numpy() for i in bench.ids])
    a = bench.explain("nib", rule="riemann", steps=10)
    scores = bench.words(a.word_scores())
    yield "words that stand behind the largest id and have no effect, %", [
        100 * (len(i) - 1 - i.argmax()) / len(i) for i in inner
    ]
    repeated = [np.array([(i == token).sum() > 1 for token in i]) for i in inner]
    yield "captions in which a word occurs twice, %", [100.0 * r.any() for r in repeated]
    yield "how much lower a repeated word's factor is than its score, both in [0, 1]", [
        np.mean([s[place] - s[i == i[place]].prod() for place in np.flatnonzero(r)])
        for i, s, r in zip(inner, scores, repeated)
        if r.any()
    ]
    published, corrected = (bench.metrics(a, protocol=protocol) for protocol in ("paper", "corrected"))
    yield "text drop, published minus corrected, points", published.text_drop - corrected.text_drop
    yield "pairs whose text increase changes, %", 100.0 * (published.text_increase != corrected.text_increase)


def absolute_drop(bench: Bench) -> Effects:
    """Confidence drop as a difference of cosines, and relative to the whole pair's, in percent."""
    a, clip = bench.explain("nib", rule="riemann", steps=10), bench.clip
    for column in ("image_drop", "text_drop"):
        for label, relative in (("absolute, points of cosine", False), ("relative to c0, %", True)):
            table = bench.metrics(a, protocol="corrected", relative=relative)
            yield f"{column.replace('_', ' ')}, {label}", table[column]
    yield "cosine of the whole pair, c0", bench.cosine(clip.embed_image(bench.pixels), clip.embed_text(bench.ids))


def mask_cache(bench: Bench) -> Effects:
    """How far RISE's maps depend on the masks that the published code draws once and for one width."""
    one, two = (bench.explain("rise", bench.few, masks=bench.rise_masks, seed=seed) for seed in (0, 1))
    what = f"Spearman of RISE's maps from two seeds, {bench.rise_masks} masks (from the cache: 1)"
    yield what, _same(one.image, two.image)
    yield "the same for the words, 200 masks", _same(bench.words(one.text), bench.words(two.text))
    narrow, wide = (word_masks(np.random.RandomState(0), 200, 10, 0.1, 8, width) for width in (512, 768))
    yield "text masks that differ between a width of 512 and ViT-L's 768, %", 100.0 * (narrow != wide).any(1).numpy()


def left_behind(bench: Bench) -> Effects:
    """Hooks left on the model, and flat maps that the published min-max divides 0 by 0."""
    clip = copy.deepcopy(bench.clip)
    with shared():
        for name in DEFAULT:
            METHODS[name](clip, bench.pixels[:2], bench.ids[:2], **({"masks": 8} if name == "rise" else {}))
    yield "hooks on a module of the model after all methods ran", hooks(clip.model)
    a = bench.explain("gradcam")
    yield "Grad-CAM maps that are flat, so that the published min-max divides 0 by 0, %", [
        100.0 * (np.ptp(scores) == 0) for scores in (*a.image, *a.text)
    ]
    yield "nibkit's heat maps and word scores of Grad-CAM that are not numbers, %", [
        100.0 * np.isnan(scores).any() for scores in (*a.heatmap(), *a.word_scores())
    ]


def hooks(model: torch.nn.Module) -> list[int]:
    """Hooks on each module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [sum(len(getattr(module, kind)) for kind in kinds) for module in model.modules()]


def names(bench: Bench) -> Effects:
    """Each baseline as the published code has it, against the method of the paper it is named after."""
    for called, defined in (("fastig", "xgrad"), ("chefer", "gae"), ("gradcam", "gradcam_pooled")):
        one, two = bench.explain(called), bench.explain(defined)
        yield f"{called} and {defined}, image: Spearman", _same(one.image, two.image)
        yield f"{called} and {defined}, words: Spearman", _same(bench.words(one.text), bench.words(two.text))
        difference = bench.metrics(one) - bench.metrics(two)
        for column in ("image_drop", "text_drop"):
            yield f"{called} minus {defined}, {column.replace('_', ' ')}, points", difference[column]


# --- the table -------------------------------------------------------------------------------------------------------


DEVIATIONS = {  # name -> what measures its effect; notebook 11 says what is published, and what nibkit does instead
    "ten steps": ten_steps,
    "text target": batch_target,
    "caption choice": caption_choice,
    "text metric": text_metric,
    "drop": absolute_drop,
    "RISE's masks": mask_cache,
    "left behind": left_behind,
    "names": names,
}


def measure(clip, pairs: Sequence, *, rise_masks: int = 100, few: int = 4) -> pd.DataFrame:
    """The size of every difference: columns deviation, measure (with its unit), n, mean, low, high.

    pairs: of `scenes-captions` (whose scenes can be described anew for "caption choice"), best more than one BATCH.
    rise_masks, few: masks of RISE, and the pairs that it is run on (it is slow). low, high: 95 % interval of the
    mean over n pairs (n modules for hooks, n masks for masks). Errors: ValueError.
    """
    if len(pairs) < 2 or few < 1 or rise_masks < 1:
        raise ValueError(f"{len(pairs)} pairs, few={few}, rise_masks={rise_masks}: at least 2, 1 and 1 are needed")
    if strange := [pair.id for pair in pairs if not pair.id.startswith("captions/")]:
        raise ValueError(f"pair {strange[0]!r} is not of scenes-captions; load that set: data.load('scenes-captions')")
    bench, table = Bench(clip, pairs, rise_masks, few), []
    for name, effects in DEVIATIONS.items():
        for what, values in effects(bench):
            table.append({"deviation": name, "measure": what, **mean_interval(list(values))})
    return pd.DataFrame(table)
