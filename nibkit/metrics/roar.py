"""Remove and retrain: is the match lost for good when what a map marks first is gone?

A model that was never shown pictures with holes may fail because of the holes. So the top share of every picture's
pixels, in the training set and in the test set, is replaced by the mean colour, the model is trained on what is left,
and asked again: the more retrieval it has lost beyond what removing random patches costs, the more the map had found.
Two ways to train, both on CLIP's contrastive loss:

    head      frozen encoders, a linear map of the picture's embedding: what the embedding still tells
    finetune  the image encoder itself: ROAR+, as the M2IB paper calls the form for a trained CLIP; ROAR proper trains
    anew

Insertion, deletion and the confidence metrics ask the model as it is and cost a few forward passes a map; this costs a
training run for every method, share and seed, which is why the NIB paper leaves it out.

Hooker, Erhan, Kindermans & Kim, A Benchmark for Interpretability Methods in Deep Neural Networks, NeurIPS 2019.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import upsample
from ..checks import one_of, whole

KINDS = ("head", "finetune")
RATES = {"head": 1e-3, "finetune": 1e-4}  # Adam's
CONTROL = "random patches"  # of the grain of maps: pixels at random leave every object recognisable


def removed(pixels: Tensor, heat: np.ndarray, share: float) -> Tensor:
    """Pixels (B, 3, H, W) with each picture's round(share H W) highest of `heat` (B, H, W) set to the mean colour, 0.

    Of equal heat, the earlier pixel goes first.
    """
    flat = torch.as_tensor(np.nan_to_num(np.asarray(heat))).flatten(1)
    gone = flat.argsort(dim=1, descending=True, stable=True)[:, : round(share * flat.shape[1])]
    stays = torch.ones_like(flat, dtype=pixels.dtype).scatter_(1, gone, 0).to(pixels.device)
    return pixels * stays.unflatten(1, pixels.shape[2:])[:, None]


def finetune(clip, loss: Callable[[object, Tensor], Tensor], n: int, *, steps: int, batch: int, rate: float, seed: int):
    """A copy of the Clip whose image encoder was trained; the one given stays as it is.

    loss(tower, rows): a scalar of the image tower in training and the numbers (<= batch,) of the examples, out of n,
    that a seeded generator draws for the step. Only what the loss depends on is trained. Adam, normalisation in eval
    mode.
    """
    trained, draw = copy.deepcopy(clip), torch.Generator().manual_seed(seed)
    model = trained.model.requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    with torch.enable_grad():
        for _ in range(steps):
            tower = clip._backend.towers(model)[0]  # anew: the copy's own towers were made of frozen weights
            value = loss(tower, torch.randperm(n, generator=draw)[:batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    model.requires_grad_(False).zero_grad(set_to_none=True)
    return trained


def contrastive(pictures: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy of B pairs, embeddings (B, E): a scalar; `scale` multiplies the cosines."""
    logits = scale * F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).T
    truth = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def retrieval(pictures: Tensor, texts: Tensor) -> float:
    """Share of pictures whose own text is the nearest of all by cosine, in [0, 1]; embeddings (B, E), in the same
    order.

    >>> retrieval(torch.eye(3), torch.eye(3)[[0, 2, 1]])
    0.3333333333333333
    """
    nearest = (F.normalize(pictures, dim=-1) @ F.normalize(texts, dim=-1).T).argmax(1)
    return int((nearest == torch.arange(len(texts), device=texts.device)).sum()) / len(texts)


def _retrained(clip, kind: str, train: Tensor, test: Tensor, texts: tuple[Tensor, Tensor], options: dict) -> float:
    """Retrieval on `test` after training on `train`; texts: embeddings of both sets' captions."""
    if kind == "finetune":
        learnt = finetune(
            clip,
            lambda tower, k: contrastive(tower.embed_rows(tower.rows(train[k])), texts[0][k], clip.logit_scale),
            len(train),
            **options,
        )
        return retrieval(learnt.embed_image(test), texts[1])
    seen, asked = clip.embed_image(train), clip.embed_image(test)
    linear = torch.eye(seen.shape[1]).to(seen).requires_grad_()
    optimizer, draw = torch.optim.Adam([linear], options["rate"]), torch.Generator().manual_seed(options["seed"])
    with torch.enable_grad():
        for _ in range(options["steps"]):
            k = torch.randperm(len(seen), generator=draw)[: options["batch"]]
            optimizer.zero_grad()
            contrastive(seen[k] @ linear, texts[0][k], clip.logit_scale).backward()
            optimizer.step()
    return retrieval(asked @ linear.detach(), texts[1])


def roar(
    clip,
    pixels: Tensor,
    ids: list[Tensor],
    maps: Mapping[str, np.ndarray],
    *,
    test: int,
    kind: str = "head",
    shares: Sequence[float] = (0.25, 0.5, 0.75),
    steps: int = 60,
    batch: int = 32,
    seeds: Sequence[int] = (0, 1),
) -> pd.DataFrame:
    """Retrieval lost after retraining, against the share of pixels removed (Hooker et al., NeurIPS 2019).

    pixels (N, 3, H, W) and ids of N pairs, of which the last `test` are asked and the others trained on. maps: label ->
    heat (N, H, W) of all of them, such as `Attribution.heatmap()`. kind: "head" or "finetune", see the module. steps,
    batch: of training. seeds: of the training's draws and of the control, CONTROL, a random map on the patch grid.

    Columns: kind, method, share (0 is there once a seed: trained alike, nothing removed), seed, retrieval (share of the
    test pictures whose own caption is nearest, [0, 1]), lost (retrieval at share 0 of that seed, less this), seconds
    (of this training). Higher lost, above the control's, is better. Cost: len(seeds) (1 + (len(maps) + 1) len(shares))
    trainings. The Clip given is left as it is. Errors: ValueError.
    """
    one_of("kind", kind, KINDS)
    test, steps, batch = whole("test", test, 2, len(ids) - 2), whole("steps", steps), whole("batch", batch, 2)
    for label, heat in maps.items():
        if heat.shape != (len(ids), *pixels.shape[2:]):
            raise ValueError(
                f"maps[{label!r}] is {heat.shape}, not {(len(ids), *pixels.shape[2:])}: one map for each picture"
            )
    if wrong := [share for share in shares if not 0 < share <= 1]:
        raise ValueError(f"shares holds {wrong[0]}; a share of removed pixels is in (0, 1]")
    clip.check(pixels, ids)
    texts, cut = clip.embed_text(ids), len(ids) - test
    rows = []
    for seed in seeds:
        chance = upsample(
            np.random.default_rng(seed).random((len(ids), *clip.image.grid), np.float32), pixels.shape[2:]
        )
        plan = [("nothing", chance, 0.0)]
        plan += [(label, heat, share) for label, heat in {**maps, CONTROL: chance}.items() for share in shares]
        for label, heat, share in plan:
            left, started = removed(pixels, heat, share), time.perf_counter()
            options = {"steps": steps, "batch": batch, "rate": RATES[kind], "seed": seed}
            found = _retrained(clip, kind, left[:cut], left[cut:], (texts[:cut], texts[cut:]), options)
            whole_ = rows[-1]["whole"] if share else found
            rows.append(
                {
                    "kind": kind,
                    "method": label,
                    "share": share,
                    "seed": seed,
                    "retrieval": found,
                    "lost": whole_ - found,
                    "seconds": time.perf_counter() - started,
                    "whole": whole_,
                }
            )
    return pd.DataFrame(rows).drop(columns="whole")
