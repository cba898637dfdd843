"""Attention x gradient, positive part, of the last block: what the NIB paper's code calls "Chefer".

With P the attention probabilities of the last block and G = dc/dP the gradient of the pair's cosine c, a token's
score is what the readout token r (CLS, EOS) draws from it in favour of the match:

    score_j = mean_heads max(G_rj P_rj, 0)

Chefer et al. (ICCV 2021) roll this out over all blocks; the published baseline stops at the last. Their own form is
`gae`; their notebook for CLIP, as it comes (`start_layer=-1`), takes the last block alone, too.
"""

from torch import Tensor

from ..attribution import Attribution
from ._gradient import explain_by_attention
from .registry import method


@method(title="Chefer et al.", unit="cosine", attention=True)
def chefer(clip, pixels: Tensor, ids: list[Tensor], *, batch_size: int | str = "auto") -> Attribution:
    """Chefer scores of B pairs as the NIB paper's code computes them: last block only, no roll-out.

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are >= 0, in units of cosine (the published
    code scales them by the temperature, which its min-max removes). batch_size: rows at once, or memory such as
    "500MB".
    info: passes.
    """
    return explain_by_attention(clip, pixels, ids, lambda p, g: (g * p).clamp(min=0).mean(1), batch_size)
