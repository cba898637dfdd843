"""Linear surrogates: which patches, segments or words does a linear model of the match around this pair rely on?

A picture's parts (patches, or SLIC segments) and a text's words are shown or hidden at random, z in {0, 1}^d, hidden
ones replaced by the mean colour or the mean token row. A linear model of the cosine c(z) is fitted, weighted by how
near z is to the whole pair; its coefficients are the scores:

    kernel="lime"  exp(-(1 - cos(z, 1))^2 / (2 width^2)), ridge regression                  (Ribeiro et al., KDD 2016)
    kernel="shap"  Shapley's weights, no ridge: estimates of Shapley values     (Lundberg & Lee, NeurIPS 2017)

Sampling, weighting and the loop are Captum's `Lime` and `KernelShap`, SLIC is scikit-image's.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from skimage.segmentation import slic
from torch import Tensor

from ..attribution import Attribution, as_arrays
from ..checks import number, one_of, whole
from ..models.devices import in_parts
from ..models.towers import State, at_least_single, ragged
from ..paths import install
from .ig import places_of_words, text_baseline
from .registry import method

KERNELS = ("lime", "shap")
PARTS = ("patches", "slic")


class _Linear:
    """The surrogate in the shape that Captum asks for, fitted in float64; `quality`: its weighted R^2."""

    def __init__(self, ridge: float):
        from sklearn.linear_model import LinearRegression, Ridge

        self.model, self.quality = Ridge(ridge) if ridge else LinearRegression(), float("nan")

    def fit(self, loader) -> None:
        x, y, weights = (part.double().cpu().numpy() for part in next(iter(loader)))
        self.model.fit(x, y, weights)
        inner = weights < 1e5  # KernelShap pins the empty and the whole pair by a huge weight; they would hide the rest
        if inner.sum() > 1:
            self.quality = self.model.score(x[inner], y[inner], weights[inner])

    def representation(self) -> Tensor:
        return torch.tensor(self.model.coef_)


def surrogate(
    match: Callable[[Tensor], Tensor],
    parts: int,
    *,
    samples: int,
    kernel: str,
    width: float,
    ridge: float,
    seed: int,
    at_once: int,
) -> tuple[np.ndarray, float]:
    """Coefficients (parts,) of a linear model of match(z (N, parts) of zeros and ones) -> (N,), and its weighted R^2.

    The module's equations over `samples` draws, on the CPU, by a generator of its own. One part alone needs no model:
    its coefficient is match(1) - match(0). Errors: ImportError without Captum and scikit-learn.
    """
    try:
        from captum.attr import KernelShap, Lime
        from captum.attr._core.lime import get_exp_kernel_similarity_function as near
    except ImportError as error:
        raise ImportError(f"lime needs Captum and scikit-learn: {install('captum')}") from error
    if parts < 2:
        z = torch.arange(2.0)[:, None].expand(-1, parts)
        return np.diff(match(z).double().cpu().numpy())[:parts], float("nan")

    def in_memory(z: Tensor) -> Tensor:
        return torch.cat([*in_parts(len(z), at_once, lambda part: match(z[part]))])

    linear = _Linear(0 if kernel == "shap" else ridge)
    explainer = KernelShap(in_memory) if kernel == "shap" else Lime(in_memory, linear, near("cosine", width))
    explainer.interpretable_model = linear
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        found = explainer.attribute(
            torch.ones(1, parts), torch.zeros(1, parts), n_samples=samples, perturbations_per_eval=at_once
        )
    return found[0].double().numpy(), linear.quality


def segments(clip, pixels: Tensor, parts: str) -> np.ndarray:
    """The part 0, 1, ... that each pixel of a picture (3, H, W) belongs to, (H, W): patches, or as many segments."""
    rows, columns = clip.image.grid
    if parts == "slic":
        return slic(clip.picture(pixels), rows * columns, start_label=0)
    cells = [np.arange(n) * m // n for n, m in zip(pixels.shape[1:], (rows, columns))]
    return cells[0][:, None] * columns + cells[1]


def pieces_of_words(clip, ids: Tensor, places: np.ndarray) -> list[np.ndarray]:
    """The tokens of each word of a text: an array of places per word; `places`: those between BOS and EOS."""
    pieces = clip.decode(ids)
    starts = [n for n, place in enumerate(places) if n == 0 or pieces[places[n - 1]].endswith(" ")]
    return np.split(places, starts[1:]) if len(places) else []


def _picture(clip, pixels: Tensor, target: Tensor, of_pixel: np.ndarray) -> Callable[[Tensor], Tensor]:
    """match(z) of one picture (3, H, W) whose hidden parts show the mean colour, 0."""

    @torch.no_grad()
    def match(z: Tensor) -> Tensor:
        with clip.image.forward_only():
            rows = clip.image.rows(z[:, of_pixel][:, None].to(pixels) * pixels)
            return F.cosine_similarity(at_least_single(clip.image.embed_rows(rows)), target[None]).cpu()

    return match


def _text(clip, rows: State, hidden: Tensor, target: Tensor, in_word: np.ndarray) -> Callable[[Tensor], Tensor]:
    """match(z) of one text, `rows` (1, T, C), hidden words as in `hidden`; in_word (words, T) of 0 and 1."""

    @torch.no_grad()
    def match(z: Tensor) -> Tensor:
        shown = (z.float() @ torch.as_tensor(in_word)).to(hidden)[..., None]
        mixed = State(hidden + shown * (rows.tokens - hidden), rows.readout.expand(len(z)))
        with clip.text.forward_only():
            return F.cosine_similarity(at_least_single(clip.text.embed_rows(mixed)), target[None]).cpu()

    return match


@method(
    title="LIME",
    unit="cosine",
    colour="#8db600",
    samples=partial(whole, least=2),
    kernel=partial(one_of, allowed=KERNELS),
    parts=partial(one_of, allowed=PARTS),
    width=partial(number, zero=False),
    ridge=number,
)
def lime(
    clip,
    pixels: Tensor,
    ids: list[Tensor],
    *,
    samples: int = 200,
    kernel: str = "lime",
    parts: str = "patches",
    width: float = 0.25,
    ridge: float = 1.0,
    seed: int = 0,
    batch_size: int | str = "auto",
) -> Attribution:
    """LIME, or KernelSHAP, of B pairs: coefficients of a linear model of the match (Ribeiro et al., KDD 2016).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are signed, in units of cosine similarity per
    part shown: per patch, or with parts="slic" per pixel (B, H, W), every pixel its segment's coefficient; a word's
    coefficient is shared by its tokens; BOS and EOS always show and score 0. kernel, width, ridge: see the module; the
    defaults are those of the authors' code. seed: pair k's draws do not depend on its batch. batch_size: rows at once,
    or memory such as "500MB". Errors: ImportError without Captum (the extra `captum`).

    info: passes (forward passes per encoder: samples), fit_image, fit_text: R^2 of the linear model on its weighted
    samples, 1 where it is exact; nan for a text of one word, which needs none.
    """
    image, text, rows = clip.image, clip.text, clip.text.rows(ids)
    pictures, texts = clip.embed_image(pixels), clip.embed_text(ids)
    words = places_of_words(clip, ids, rows)
    hidden = text_baseline(clip, rows.tokens, words, "mean")
    towers = (image, image.rows(pixels[:1])), (text, rows)  # no gradient: as if for the last block alone
    at_once = [tower.rows_at_once(batch_size, row, len(tower.blocks) - 1) for tower, row in towers]
    fit = partial(surrogate, samples=samples, kernel=kernel, width=width, ridge=ridge)
    maps, scores, info = [], [], []
    for k, i in enumerate(ids):
        draws = int(np.random.SeedSequence([seed, *i.tolist()]).generate_state(1)[0])
        of_pixel = segments(clip, pixels[k], parts)
        by_part, seen = fit(
            _picture(clip, pixels[k], texts[k], of_pixel), int(of_pixel.max()) + 1, seed=draws, at_once=at_once[0]
        )
        found = pieces_of_words(clip, i, np.flatnonzero(words[k].cpu().numpy()))
        in_word = np.zeros((len(found), rows.tokens.shape[1]), np.float32)
        for n, places in enumerate(found):
            in_word[n, places] = 1
        by_word, read = fit(
            _text(clip, rows.pick([k]), hidden[k], pictures[k], in_word), len(found), seed=draws, at_once=at_once[1]
        )
        maps.append(by_part[of_pixel] if parts == "slic" else by_part.reshape(image.grid))
        scores.append(torch.as_tensor((by_word / in_word.sum(1)) @ in_word))
        info.append({"passes": samples, "fit_image": seen, "fit_text": read})
    return Attribution(np.float32(maps), as_arrays(ragged(torch.stack(scores), ids)), image.size, pd.DataFrame(info))
