"""Grad-CAM with pooled gradients, as its own paper defines it, on a transformer's tokens.

With A the output of block `layer` and G = dc/dA the gradient of the pair's cosine c, channel k gets one weight for
all places, and a token scores by how much it holds of the channels that favour the match:

    alpha_k = mean_j G_jk,    score_j = max( sum_k alpha_k A_jk, 0 )        (Selvaraju et al., ICCV 2017, eq. 1 and 2)

The mean runs over the patches (CLS is no place in the picture), and over a text's tokens up to EOS.
"""

from torch import Tensor

from ..attribution import Attribution
from ..models.towers import Layer
from ._gradient import behind, explain, scored, slope
from .registry import method


@method(title="Grad-CAM, pooled", unit="cosine", layers=behind)
def gradcam_pooled(
    clip, pixels: Tensor, ids: list[Tensor], *, layer: Layer = None, batch_size: int | str = "auto"
) -> Attribution:
    """Grad-CAM of B pairs, image and text (Selvaraju et al., ICCV 2017).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are >= 0, in units of cosine. A map may be 0
    everywhere. layer: the block whose *output* is taken, one block later than NIB's state, so it must not be the
    last. batch_size: rows at once, or memory such as "500MB". info: passes.
    """

    def score(tower, state, layer, target):
        where = scored(tower, state)[..., None]
        gradient = slope(tower, state, layer, target)
        weights = (gradient * where).sum(1, keepdim=True) / where.sum(1, keepdim=True)
        return (weights * state.tokens * where).sum(-1).clamp(min=0)

    return explain(clip, pixels, ids, score, layer, batch_size)
