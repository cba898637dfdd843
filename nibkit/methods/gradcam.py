"""Activation x gradient, positive part: what the NIB paper's code calls "Grad-CAM".

With A the output of block `layer` and G = dc/dA the gradient of the pair's cosine c:

    score_j = max( sum_channels G_jc A_jc, 0 )

Grad-CAM (Selvaraju et al., ICCV 2017) pools G over all places first; the published baseline does not. Their form is
`gradcam_pooled`.
"""

from torch import Tensor

from ..attribution import Attribution
from ..models.towers import Layer
from ._gradient import behind, explain, slope
from .registry import method


@method(title="Grad-CAM", unit="cosine", layers=behind)
def gradcam(
    clip, pixels: Tensor, ids: list[Tensor], *, layer: Layer = None, batch_size: int | str = "auto"
) -> Attribution:
    """Element-wise Grad-CAM of B pairs, image and text, as the NIB paper's code computes it.

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are >= 0, in units of cosine (the published
    code scales them by the temperature, which its min-max removes). A map may be 0 everywhere. layer: the block whose
    *output* is taken, one block later than NIB's state, so it must not be the last. batch_size: rows at once, or
    memory such as "500MB". info: passes.
    """

    def score(tower, state, layer, target):
        return (slope(tower, state, layer, target) * state.tokens).sum(-1).clamp(min=0)

    return explain(clip, pixels, ids, score, layer, batch_size)
