"""Attention saliency: how steeply the match depends on the last block's attention, whichever way.

With G = dc/dP the gradient of the pair's cosine c by the last block's attention probabilities P, at the readout token
r (CLS, EOS):

    score_j = mean_heads |G_rj|

The saliency map of Simonyan et al. (2014) is |dc / d pixel|; the NIB paper's code takes attention in place of pixels.
"""

from torch import Tensor

from ..attribution import Attribution
from ._gradient import explain_by_attention
from .registry import method


@method(title="Saliency Map", unit="cosine / attention", attention=True)
def saliency(clip, pixels: Tensor, ids: list[Tensor], *, batch_size: int | str = "auto") -> Attribution:
    """Attention saliency of B pairs, image and text, as the NIB paper's code computes it.

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are >= 0, in cosine per unit of attention:
    they say how much a token matters, not for or against. batch_size: rows at once, or memory such as "500MB".
    info: passes.
    """
    return explain_by_attention(clip, pixels, ids, lambda p, g: g.abs().mean(1), batch_size)
