"""NIB in the shape that Captum's users know, and every method of nibkit for Quantus' metrics.

    NIB(clip, layer=9).attribute((pixels, ids), n_steps=10, return_convergence_delta=True)

    model = CaptionLogits(clip, ["a photo of a cat", "a photo of a dog"])  # a classifier: one class per caption
    quantus.PixelFlipping(...)(model, x, y, None, explain_func=explain_func, explain_func_kwargs={"method": "nib"})

Neither Captum nor Quantus is imported here: the extras `captum` and `quantus` of nibkit bring them.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import one_of, whole
from .methods import METHODS
from .methods.nib import PARTS, paths
from .models import Clip
from .models.modes import plain, recordable
from .models.towers import Layer, ragged

RULES = {"riemann_right": "riemann", "gausslegendre": "gauss"} | {rule: rule for rule in PARTS}  # Captum's name -> ours


class NIB:
    """The Narrowing Information Bottleneck with the calling convention of captum.attr.LayerIntegratedGradients.

    clip: from nibkit.load. layer: the state that enters this block is narrowed, in both encoders; see `Clip.layers`.

    >>> import nibkit
    >>> clip, pair = nibkit.load("scenes"), nibkit.data.load("cat-and-dog")[0]
    >>> inputs = clip.preprocess(pair.image), clip.tokenize("a cat")
    >>> (patches, words), deltas = NIB(clip).attribute(inputs, method="exact", return_convergence_delta=True)
    >>> patches.shape, [len(scores) for scores in words], max(float(delta.abs()) for delta in deltas) < 0.01
    (torch.Size([1, 50]), [4], True)
    """

    def __init__(self, clip: Clip, layer: Layer = None):
        self.clip, self.layer = clip, clip.layers(layer)

    def has_convergence_delta(self) -> bool:
        """True, as Captum asks: `attribute` can return what its scores miss."""
        return True

    def attribute(
        self,
        inputs: tuple[Tensor, Sequence[Tensor]],
        n_steps: int = 10,
        method: str = "riemann_right",
        internal_batch_size: int = 64,
        return_convergence_delta: bool = False,
    ) -> tuple:
        """Token scores of B pairs, one entry per input: image (B, T), CLS first, and a list of B texts' (len,).

        inputs: (pixels (B, 3, H, W), B 1-D id tensors). method: "riemann_right" (the paper's; `n_steps` nodes),
        "gausslegendre", or "exact", "carry" or "norm" (nodes until a pair is certified to 1 %, at most 128; see `nib`).
        internal_batch_size: rows that go through an encoder at once. Scores are signed, in units of cosine, summed
        over the channels; `clip.image.patches(image)` folds them to the patch grid.

        return_convergence_delta: return (scores, (delta of the image, delta of the text)) instead, (B,) each. As in
        Captum, delta = sum of the scores - (F(Z) - F(0)); by "carry" or "norm", that part's change. Errors: ValueError.
        """
        pixels, ids = inputs
        rule, n_steps = RULES[one_of("method", method, RULES)], whole("n_steps", n_steps)
        rows = whole("internal_batch_size", internal_batch_size)
        self.clip.check(pixels, ids)
        options = {"tol": 0.01, "max_passes": 128, "batch_size": rows}
        with plain(grad=True):
            pixels, ids = recordable(pixels), [recordable(i) for i in ids]
            image, text = paths(self.clip, pixels, ids, self.layer, (rule, rule), n_steps, **options)
        scores = image.scores, ragged(text.scores, ids)
        return (scores, (image.delta, text.delta)) if return_convergence_delta else scores


class CaptionLogits(torch.nn.Module):
    """A CLIP as a classifier of pictures, one class per caption: pixels (B, 3, H, W) -> logits (B, captions).

    A logit is the cosine times exp(logit_scale). Differentiable in the pixels. A deep copy (Quantus makes them to
    randomise weights) is a model of its own.
    """

    def __init__(self, clip: Clip, captions: Sequence[str]):
        super().__init__()
        self.clip, self.model, self.captions = clip, clip.model, list(captions)
        self.ids = clip.tokenize(self.captions)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> a logit per caption (B, captions)."""
        clip = self.clip
        with plain():
            image = clip.image.embed_rows(clip.image.rows(pixels))
        text = clip.embed_text(self.ids)  # anew at every call: somebody may have changed the weights
        return clip.logit_scale * F.normalize(image) @ F.normalize(text).T


def explain_func(model: CaptionLogits, inputs: np.ndarray, targets: np.ndarray, **kwargs) -> np.ndarray:
    """Quantus' `explain_func`: signed maps (B, 1, H, W) of a method of nibkit for class `targets` of a CaptionLogits.

    inputs (B, 3, H, W) normalised pixels, targets (B,) caption numbers. kwargs (Quantus' explain_func_kwargs): method
    (a name of METHODS, default "nib") and its options, such as layer=9, rule="exact". Errors: ValueError, TypeError.
    """
    options = {k: v for k, v in kwargs.items() if k not in ("method", "device")}  # Quantus may add a device
    name = one_of("method", kwargs.get("method", "nib"), METHODS)
    clip = model.clip
    pixels = torch.as_tensor(np.asarray(inputs), dtype=clip.text.embedding.dtype, device=clip.device)
    ids = [model.ids[int(k)] for k in np.asarray(targets)]
    return METHODS[name](clip, pixels, ids, **options).signed_map()[:, None]
