"""Input x gradient at a layer: the first-order share of every token in the match.

With Z the state that enters block `layer` and c the pair's cosine:

    score_j = sum_channels Z_jk dc/dZ_jk        (Shrikumar et al., 2016)

It is the end point of NIB's path: NIB with one Riemann step. Unlike NIB it does not add up to anything: it knows the
slope at Z alone.
"""

from torch import Tensor

from ..attribution import Attribution
from ..models.towers import Layer
from ._gradient import explain, slope
from .registry import method


@method(title="Input x gradient", unit="cosine")
def xgrad(
    clip, pixels: Tensor, ids: list[Tensor], *, layer: Layer = None, batch_size: int | str = "auto"
) -> Attribution:
    """Input x gradient of B pairs at the state that enters block `layer`, image and text.

    pixels (B, 3, H, W) float, ids B 1-D int64 tensors BOS .. EOS. Scores are signed, in units of cosine: a positive
    token speaks for the match, to first order. batch_size: rows at once, or memory such as "500MB". info: passes.
    """

    def score(tower, state, layer, target):
        return (slope(tower, state, layer, target) * state.tokens).sum(-1)

    return explain(clip, pixels, ids, score, layer, batch_size)
