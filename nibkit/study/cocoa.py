"""COCOA: what makes a picture resemble a corpus of texts rather than a foil?

Contrastive corpus similarity, S(x) = mean over the corpus of cos(x, text) - mean over the foil, is explained by
integrated gradients from the blurred picture. S is linear in the picture's unit embedding, so it is |d| times the
cosine with one direction d, and the integral is that of `methods.ig`.

Lin, Chen, Kim & Lee, Contrastive Corpus Attribution for Explaining Representations, ICLR 2023.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from ..methods.ig import per_patch, straight
from ..methods.nib import Path


def cocoa(
    clip, pixels: Tensor, corpus: Sequence[str], foil: Sequence[str], *, steps: int = 32, batch_size: int = 64
) -> Path:
    """Contrastive corpus attribution of B pictures against two sets of texts (Lin et al., ICLR 2023).

    Integrated gradients of S on the pixels, from x0, the picture blurred as in their CLIP example (Gaussian of 21
    pixels, sigma 5), by `steps` Gauss-Legendre nodes (theirs: 50). Pixel scores are summed per patch, which keeps their
    total. Cost: `steps` gradient passes. batch_size: pictures at once.

    Returns a Path: scores (B, patches), signed, in cosine; `change` = S(x) - S(x0), `gap` what the scores miss of it.
    ValueError where either set is empty.
    """
    for name, texts in (("corpus", corpus), ("foil", foil)):
        if isinstance(texts, str) or not len(texts):
            raise ValueError(f"{name}={texts!r} is not a list of at least one text; COCOA contrasts two sets of texts")
    mean = [F.normalize(clip.embed_text(list(texts)), dim=-1).mean(0) for texts in (corpus, foil)]
    direction = mean[0] - mean[1]
    path = straight(
        lambda x, k: clip.image.embed_rows(clip.image.rows(x)),
        pixels,
        gaussian_blur(pixels, [21, 21], [5.0, 5.0]),
        direction.expand(len(pixels), -1),
        steps,
        batch_size,
    )
    size = direction.norm()
    patches = per_patch(path.scores.sum(1), clip.image.grid).flatten(1)
    return Path(size * patches, size * path.opened, size * path.closed, path.passes)
