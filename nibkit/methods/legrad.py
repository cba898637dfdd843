"""LeGrad: how the attention of every block would have to change to raise the match, read right behind that block.

Let s_l be the cosine of the other encoder's embedding with the head applied to the *mean* token after block l, and
A_l the block's attention probabilities. A token's score is the mean over heads and rows of the positive gradient,
summed over blocks:

    score_j = sum_l mean_heads mean_i max(ds_l / dA_l,ij, 0)        (Bousselham et al., ICCV 2025)

Block l alone lies between A_l and s_l, so all blocks together cost one forward and one backward. The paper is about
images (a tower that pools attention is asked for its pool's attention to the state behind each block); for the text we
take the same rule over the tokens up to EOS, where a causal row i only has columns j <= i.
Their code defaults to the last two blocks; this is the paper's form, all of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..models.towers import Pool
from ._gradient import explain, only_allowed, seen
from .registry import method


@method(title="LeGrad", unit="cosine / attention", attention=True)
def legrad(clip, pixels: Tensor, ids: list[Tensor], *, batch_size: int | str = "auto") -> Attribution:
    """LeGrad scores of B pairs, image and text (Bousselham et al., ICCV 2025).

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are >= 0, in cosine per unit of attention.
    batch_size: rows at once, or memory such as "500MB". info: passes.
    """

    def score(tower, state, layer, target):
        where = seen(tower, state).to(state.tokens.dtype)
        share = where / where.sum(1, keepdim=True)  # (B, T): each token's part in the mean
        tokens, mask, total = state.tokens, tower.mask(state), torch.zeros_like(share)
        *blocks, pool = tower.blocks[layer:] if isinstance(tower.blocks[-1], Pool) else (*tower.blocks[layer:], None)
        for block in blocks:
            if pool:
                tokens = block(tokens, mask)
                probabilities, values = pool.attention(tokens)
                out = pool.from_attention(tokens, probabilities.requires_grad_(), values)[:, 0]
            else:
                probabilities, values = block.attention(tokens, mask)
                tokens = block.from_attention(tokens, probabilities.requires_grad_(), values)
                out = (share[..., None] * tokens).sum(1)
            similarity = F.cosine_similarity(tower.head(out), target)
            (gradient,) = torch.autograd.grad(similarity.sum(), probabilities)
            positive = only_allowed(gradient, tower, state).clamp(min=0).mean(1)  # (B, T, T); (B, 1, T) of the pool
            total = total + (positive[:, 0] if pool else (share[..., None] * positive).sum(1))
            tokens = tokens.detach()
        return total

    return explain(clip, pixels, ids, score, (0, 0), batch_size)
