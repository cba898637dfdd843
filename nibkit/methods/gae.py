"""Generic attention explainability: Chefer et al. (ICCV 2021) with its roll-out over all blocks of each encoder.

Relevance starts as the identity and every block mixes it along the attention that favours the match. With P_l the
probabilities of block l, G_l = ds/dP_l and s the logit, exp(logit_scale) times the pair's cosine (eq. 5 and 6 of the
paper):

    R <- R + mean_heads max(G_l * P_l, 0) R        l = 0, 1, ..., starting from R = I

The readout token's row of R (CLS, EOS) scores the tokens. Its own entry keeps the 1 that the identity put there
before any evidence; it is taken off, or else EOS outshines every word. Only that row is needed, so the product is
formed from the last block down.

To compare with the authors' notebook for CLIP: as it comes (`start_layer=-1`) it starts at the last block, which is
`chefer`; with `start_layer=0` it is this method.
"""

import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ._gradient import attention, explain
from .registry import method


@method(title="GAE", attention=True)
def gae(clip, pixels: Tensor, ids: list[Tensor], *, batch_size: int | str = "auto") -> Attribution:
    """Rolled-out attention relevance of B pairs, image and text (Chefer, Gur and Wolf, ICCV 2021, self-attention rule).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are >= 0, without unit; the logit's
    temperature weighs paths over many blocks against short ones, so it is part of the method. batch_size: rows at
    once, or memory such as "500MB": the attention of all blocks is held for the backward pass. info: passes.
    """

    def score(tower, state, layer, target):
        found = attention(tower, state, layer, target)
        start = F.one_hot(state.readout, found[-1].probabilities.shape[2]).to(state.tokens)[:, None]
        row = start
        for block in reversed(found):
            drawn = row @ (clip.logit_scale * block.gradient * block.probabilities).clamp(min=0).mean(1)
            row, start = (drawn, 0) if drawn.shape != row.shape else (row + drawn, start)  # nothing goes around a Pool
        return (row - start)[:, 0]

    return explain(clip, pixels, ids, score, (0, 0), batch_size)
