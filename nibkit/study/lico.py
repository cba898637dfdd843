"""LICO: an image encoder trained to be explainable by language; what is explained is then another model.

The image tower learns to name pictures among class texts, with two terms that tie its features to the frozen text
encoder's:

    manifold   KL between how near the batch's pictures are to each other and how near their class texts are
    transport  the entropic optimal-transport cost between a picture's patches and its text's tokens

Grad-CAM explains the result. `moved` says how far model and maps are from those one had, and from another seed's.

Where we deviate: the paper trains a classifier from scratch, or from ImageNet, for many epochs, with context tokens
that are learnt and shuffled; here a CLIP's own image tower takes a few hundred steps, and class texts are plain
captions. Patches are projected as CLS is, tokens as EOS is. The transport plan is POT's, held fixed for the gradient,
which at the optimum changes nothing but the entropy's part.

Lei, Li, Li, Zhang & Shan, LICO: Explainable Models with Language-Image Consistency, NeurIPS 2023.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import number, whole
from ..methods import METHODS
from ..metrics.roar import finetune
from ..paths import install


def manifold(pictures: Tensor, texts: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(texts || pictures) of the two batches' neighbourhoods, a scalar >= 0: embeddings (B, E) and (B, E').

    A neighbourhood is, for each item, the softmax over the batch of minus its distances (L2, unit embeddings) /
    temperature.
    """
    near = [
        (-torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / temperature).log_softmax(1)
        for x in (F.normalize(pictures, dim=-1), F.normalize(texts, dim=-1))
    ]
    return F.kl_div(near[0], near[1], reduction="batchmean", log_target=True)


def transport(patches: Tensor, tokens: Tensor, entropy: float = 0.1) -> Tensor:
    """Cost of carrying patches (P, E), all of equal weight, onto tokens (T, E): a scalar in [0, 2].

    The cost of a pair is 1 - cosine; the plan is POT's Sinkhorn with regularisation `entropy`. Errors: ImportError
    without POT.
    """
    try:
        import ot
    except ImportError as error:
        raise ImportError(f"LICO needs POT: {install('lico')}") from error
    cost = 1 - F.normalize(patches, dim=-1) @ F.normalize(tokens, dim=-1).T
    a, b = (np.full(n, 1 / n) for n in cost.shape)
    plan = ot.sinkhorn(a, b, cost.detach().double().cpu().numpy(), entropy, numItermax=200, warn=False)
    return (torch.as_tensor(plan).to(cost) * cost).sum()


def _features(tower, inputs) -> tuple[Tensor, Tensor, Tensor]:
    """What leaves the last block, projected: embeddings (B, E), all tokens (B, T, E), and the readout rows (B,)."""
    state = tower.start(tower.rows(inputs))
    state = tower.run(state, 0, len(tower.blocks))
    tokens = tower.head(state.tokens.flatten(0, 1)).unflatten(0, state.tokens.shape[:2])
    return tokens[torch.arange(len(tokens), device=tokens.device), state.readout], tokens, state.readout


def lico(
    clip,
    pixels: Tensor,
    labels: Sequence[str],
    *,
    steps: int = 200,
    batch: int = 16,
    rate: float = 1e-4,
    alpha: float = 1.0,
    beta: float = 1.0,
    seed: int = 0,
) -> tuple[object, pd.DataFrame]:
    """Train a copy of the image encoder with LICO's losses (Lei et al., NeurIPS 2023); returns (Clip, losses).

    pixels (N, 3, H, W), labels: the class text of each, "a photo of a cat"; at least two classes. The loss of a step is
    the cross-entropy of naming the picture + alpha manifold + beta transport. rate: Adam's. seed: which pictures make a
    batch.

    losses: a row per step, columns naming, manifold, transport (before alpha and beta). Cost: `steps` gradient passes
    of `batch` pictures through the whole encoder, and the POT plans. The Clip given is left as it is. Errors:
    ValueError.
    """
    steps, batch = whole("steps", steps), whole("batch", batch, 2)
    alpha, beta = number("alpha", alpha), number("beta", beta)
    classes = sorted(set(labels))
    if len(classes) < 2 or len(labels) != len(pixels):
        raise ValueError(
            f"{len(pixels)} pictures with {len(labels)} labels of {len(classes)} classes: LICO trains a classifier of "
            "pictures; give each picture its class text, of two classes or more"
        )
    with torch.no_grad():
        names, tokens, ends = _features(clip.text, ids := clip.tokenize(classes))
    tokens = [row[clip.text.before : min(len(i) - 1, int(end)) + 1] for row, i, end in zip(tokens, ids, ends)]
    truth, rows = torch.tensor([classes.index(label) for label in labels]).to(names.device), []

    def loss(tower, k: Tensor) -> Tensor:
        pictures, patches, _ = _features(tower, pixels[k])
        patches, own = patches[:, tower.prefix :] if patches.shape[1] > tower.prefix else patches, truth[k]
        naming = F.cross_entropy(clip.logit_scale * F.normalize(pictures, dim=-1) @ F.normalize(names, dim=-1).T, own)
        alike = manifold(pictures, names[own])
        carried = torch.stack([transport(row, tokens[n]) for row, n in zip(patches, own.tolist())]).mean()
        rows.append((float(naming.detach()), float(alike.detach()), float(carried.detach())))
        return naming + alpha * alike + beta * carried

    trained = finetune(clip, loss, len(pixels), steps=steps, batch=batch, rate=rate, seed=seed)
    return trained, pd.DataFrame(rows, columns=["naming", "manifold", "transport"])


def moved(one, other, pixels: Tensor, ids: list[Tensor], **options) -> dict[str, float]:
    """How far apart two Clips of one architecture are, on B pairs, as numbers that are 0, 1, 1 for the same model.

    weights: L2 distance of all weights, as a share of the first's length; embeddings: mean cosine between the two
    models' picture embeddings; maps: mean correlation between their Grad-CAM maps (pairs whose maps are flat in one
    left out; nan if all are). options: Grad-CAM's. Cost: two Grad-CAMs.
    """
    pairs = list(zip(one.model.parameters(), other.model.parameters(), strict=True))
    apart = sum(float((a - b).double().square().sum()) for a, b in pairs) ** 0.5
    length = sum(float(a.double().square().sum()) for a, _ in pairs) ** 0.5
    maps = [METHODS["gradcam"](clip, pixels, ids, **options).image.reshape(len(ids), -1) for clip in (one, other)]
    alike = [np.corrcoef(a, b)[0, 1] for a, b in zip(*maps) if np.ptp(a) and np.ptp(b)]
    return {
        "weights": apart / length,
        "embeddings": float(F.cosine_similarity(one.embed_image(pixels), other.embed_image(pixels)).mean()),
        "maps": float(np.mean(alike)) if alike else float("nan"),
    }
