"""Attention x gradient of the last block, signed: what the NIB paper's code calls "Fast-IG".

Fast-IG (Hesse et al., NeurIPS 2021) is input x gradient, which equals integrated gradients where a network is
homogeneous of degree one. The published baseline multiplies the last block's attention P, not the input, by its
gradient G = dc/dP; at the readout token r (CLS, EOS):

    score_j = mean_heads G_rj P_rj

Input x gradient proper is `xgrad`.
"""

from torch import Tensor

from ..attribution import Attribution
from ._gradient import explain_by_attention
from .registry import method


@method(title="FastIG", unit="cosine", attention=True)
def fastig(clip, pixels: Tensor, ids: list[Tensor], *, batch_size: int | str = "auto") -> Attribution:
    """Attention x gradient of B pairs, image and text, as the NIB paper's code computes its Fast-IG baseline.

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are signed, in units of cosine: a positive
    token speaks for the match. batch_size: rows at once, or memory such as "500MB". info: passes.
    """
    return explain_by_attention(clip, pixels, ids, lambda p, g: (g * p).mean(1), batch_size)
