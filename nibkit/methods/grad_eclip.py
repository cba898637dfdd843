"""Grad-ECLIP: values weighted by the gradient of the attention's output, and by a loosened attention.

At a block's readout token r (CLS, EOS) let o_r be the attention's output, v_j the tokens' values (heads side by
side), c the pair's cosine, and lam_j in [0, 1] the min-max over tokens of cos(q_r, k_j), which is far less sparse
than softmax:

    score_j = ReLU( sum_blocks lam_j sum_channels (dc/do_r) v_j )        (Zhao et al., ICML 2024)

The image takes the last block, the text its last eight, summed before the ReLU. As o_r = sum_j P_rj v_j, the sum over
channels is the sum over heads of dc/dP_rj, and that is how it is computed. Where we part from the published code: it
runs the explained blocks as if they had one head, another model than the one explained, and its text min-max covers
the padding behind EOS.
"""

import torch
from torch import Tensor

from ..attribution import Attribution
from ..models.towers import Block
from ._gradient import at_readout, attention, explain, last, scored
from .registry import method

TEXT_BLOCKS = 8


def loosened(block: Block, tokens: Tensor, state, where: Tensor) -> Tensor:
    """Cosine of the readout's query with every key, min-max over the tokens `where` (B, T): (B, T)."""
    cosine = block.similarity(tokens, state.readout)
    low = cosine.masked_fill(~where, torch.inf).amin(1, keepdim=True)
    high = cosine.masked_fill(~where, -torch.inf).amax(1, keepdim=True)
    return (cosine - low) / (high - low).clamp(min=torch.finfo(cosine.dtype).tiny)  # a lone token has weight 0


@method(title="Grad-ECLIP", unit="cosine / attention", attention=True)
def grad_eclip(clip, pixels: Tensor, ids: list[Tensor], *, batch_size: int | str = "auto") -> Attribution:
    """Grad-ECLIP scores of B pairs, image and text (Zhao et al., ICML 2024, and arXiv 2502.18816 for the text).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are >= 0, in cosine per unit of attention;
    a map may be 0 everywhere. batch_size: rows at once, or memory such as "500MB". info: passes.
    """

    def score(tower, state, layer, target):
        where = scored(tower, state)
        return sum(
            at_readout(found.gradient.sum(1), state) * loosened(block, found.tokens, state, where)
            for block, found in zip(tower.blocks[layer:], attention(tower, state, layer, target))
        ).clamp(min=0)

    def first(tower):
        return max(0, len(tower.blocks) - TEXT_BLOCKS) if tower.name == "text" else last(tower)

    return explain(clip, pixels, ids, score, first, batch_size)
