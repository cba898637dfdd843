"""LeGrad: how the attention of every block would have to change to raise the match, read right behind that block.

Let s_l be the cosine of the other encoder's embedding with the head applied to the *mean* token after block l, and
A_l the block's attention probabilities. A token's score is the mean over heads and rows of the positive gradient,
summed over blocks:

    score_j = sum_l mean_heads mean_i max(ds_l / dA_l,ij, 0)        (Bousselham et al., ICCV 2025)

Block l alone lies between A_l and s_l, so all blocks together cost one forward and one backward. The paper is about
images; for the text we take the same rule over the tokens up to EOS, where a causal row i only has columns j <= i.
Their code defaults to the last two blocks; this is the paper's form, all of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution, method
from ._gradient import allowed, explain, seen


@method
def legrad(clip, pixels: Tensor, ids: list[Tensor], *, batch_size: int = 64) -> Attribution:
    """LeGrad scores of B pairs, image and text (Bousselham et al., ICCV 2025).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are >= 0, in cosine per unit of attention.
    batch_size: pairs at once; bounds memory. info: passes.
    """

    def score(tower, state, layer, target):
        where = seen(tower, state).to(state.tokens.dtype)
        share = where / where.sum(1, keepdim=True)  # (B, T): each token's part in the mean
        tokens, total = state.tokens, torch.zeros_like(share)
        for block in tower.blocks[layer:]:
            probabilities, values = block.attention(tokens, tower.causal)
            after = block.from_attention(tokens, probabilities.requires_grad_(), values)
            similarity = F.cosine_similarity(tower.head((share[..., None] * after).sum(1)), target)
            (gradient,) = torch.autograd.grad(similarity.sum(), probabilities)
            positive = allowed(gradient, tower).clamp(min=0).mean(1)  # (B, T, T)
            total = total + (share[..., None] * positive).sum(1)
            tokens = after.detach()
        return total

    return explain(clip, pixels, ids, score, 0, batch_size)
