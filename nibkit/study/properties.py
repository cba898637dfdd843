"""Which properties does a method for image-text models have? Each is asked by an experiment with two ends.

A method is a `Subject`; `examine` asks it for the six properties of the paper's Table 1, and for a seventh: whether its
scores add up.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..metrics.stats import relative_difference
from ..models import checksum

PROPERTIES = (
    "no extra examples",
    "no randomness",
    "no specific structure",
    "no information loss",
    "explains the current model",
    "no downstream task",
    "complete",
)
TOLERANCE = 0.02  # share of the match's change that scores may miss
SAME = 0.1  # of the largest score: rounding depends on the batch and flips the signs that MFABA steps by
FEW = 2  # pairs that bits are compared on; whether scores add up is asked of all


class Explained(NamedTuple):
    """What a run of a method found: its scores, a list of arrays, and the Clip that they explain."""

    scores: list[np.ndarray]
    clip: object


@dataclass(frozen=True)
class Subject:
    """A method to examine.

    run: (clip, pixels, ids, seed, **extras) -> Explained. gap: (clip, pixels, ids, **extras) -> the largest share of
    what it explains that its scores miss. extras: what it asks for beside a model and a pair, name -> value; `labels`
    are those among them that label pictures for a task.
    """

    run: Callable[..., Explained]
    gap: Callable[..., float]
    extras: Mapping = field(default_factory=dict)
    labels: tuple[str, ...] = ()


def silenced(clip, side: int, keep: slice):
    """The same model with one embedding's coordinates outside `keep` at 0: side 0 is the picture's, 1 the text's."""
    backend = clip._backend

    def towers(model):
        pair = backend.towers(model)
        head = pair[side].head

        def quiet(row: Tensor) -> Tensor:
            embedding = head(row)
            mask = torch.zeros_like(embedding)
            mask[..., keep] = 1
            return embedding * mask

        pair[side].head = quiet
        return pair

    parts = SimpleNamespace(towers=towers), clip._transform, clip._tokenizer
    return type(clip)(clip.name, clip.model, *parts, clip.device, clip.dtype)


def fingerprint(clip, pixels: Tensor, ids: list[Tensor]) -> str:
    """Hash of what a method could leave behind: weights, gradients, flags, hooks, and the pairs' cosines."""
    digest = hashlib.sha256(clip.similarity(pixels, ids).cpu().numpy().tobytes())
    digest.update(checksum(clip).encode())
    flags = [(p.requires_grad, p.grad is None) for p in clip.model.parameters()]
    hooks = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for m in clip.model.modules()
    ]
    digest.update(repr((flags, hooks)).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def _seeded(seed: int):
    """The global generators started from `seed`, and put back after."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)


def _run(subject: Subject, clip, pixels: Tensor, ids: list[Tensor], seed: int = 0, **extras) -> Explained:
    with _seeded(seed):
        return subject.run(clip, pixels, ids, seed, **{**subject.extras, **extras})


def _differ(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """`relative_difference` of the worst; inf where the scores are not even of the same parts."""
    if [np.shape(a) for a in one] != [np.shape(b) for b in other]:
        return float("inf")
    return max(relative_difference(a, b) for a, b in zip(one, other))


def _refusal(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:160]


def _alone(subject: Subject, among: Explained, clip, pixels: Tensor, ids: list[Tensor]) -> tuple[bool, str]:
    try:
        found = _run(subject, clip, pixels[:1], ids[:1], **dict.fromkeys(subject.extras, ()))
    except Exception as error:  # whatever the reason: it does not run on a pair alone
        return False, f"with one pair and nothing else: {_refusal(error)}"
    apart = _differ(among.scores[:1], found.scores[:1])
    return apart < SAME, f"alone, a pair's scores differ by {apart:.1%} of the largest"


def _elsewhere(subject: Subject, models: Mapping, pixels: Tensor, ids: list[Tensor]) -> tuple[bool, str]:
    for name, model in models.items():
        try:
            scores = _run(subject, model, pixels, ids).scores
        except Exception as error:  # whatever the reason: it does not run on this structure
            return False, f"on {name}: {_refusal(error)}"
        if not all(np.isfinite(s).all() for s in scores):
            return False, f"on {name}: scores that are not finite"
    return True, "runs on " + " and ".join(models)


def _whole(subject: Subject, found: Explained, clip, pixels: Tensor, ids: list[Tensor]) -> tuple[bool, str]:
    half = clip.embed_image(pixels[:1]).shape[1] // 2
    parts = {
        "the second half of the picture's embedding": (0, slice(half)),
        "the first half of the picture's embedding": (0, slice(half, None)),
        "the text's embedding": (1, slice(0)),
    }
    for what, (side, keep) in parts.items():
        if _differ(found.scores, _run(subject, silenced(clip, side, keep), pixels, ids).scores) == 0:
            return False, f"same scores without {what}"
    return True, "scores change whichever part of the output is silenced"


def examine(subject: Subject, clip, pixels: Tensor, ids: list[Tensor], models: Mapping[str, object]) -> pd.DataFrame:
    """Ask a method for PROPERTIES on B >= 2 pairs: columns property, holds, evidence. Every answer could be the other.

    models: name -> Clip of another structure, that takes the same pixels and ids. All but "complete" are asked of the
    first FEW pairs.

    * no extra examples: it runs on one pair with all its `extras` empty, and scores it as among others, to SAME.
    * no randomness: other seeds, its own and the global ones, give the same bits.
    * no specific structure: it runs on each of `models`, and its scores are finite.
    * no information loss, which is the paper's "interpreting only a subset of the output": whichever part of the output
      is silenced, either half of the picture's embedding or the text's, its scores change.
    * explains the current model: the model it explains has the bits of the one it was given, and that is as it was.
    * no downstream task: it runs with all its `labels` empty.
    * complete: in the worst of all B pairs its scores add up to what they explain, to TOLERANCE.
    """
    if len(pixels) < 2:
        raise ValueError(f"{len(pixels)} pair: whether a score depends on other examples shows only with two or more")
    few = pixels[:FEW], ids[:FEW]
    before = fingerprint(clip, *few)
    one, other = (_run(subject, clip, *few, seed=seed) for seed in (0, 1))
    apart = _differ(one.scores, other.scores)
    found = {PROPERTIES[0]: _alone(subject, one, clip, *few)}
    found[PROPERTIES[1]] = apart == 0, f"two seeds differ by {apart:.0%} of the largest score"
    found[PROPERTIES[2]] = _elsewhere(subject, models, *few)
    found[PROPERTIES[3]] = _whole(subject, one, clip, *few)
    gap = subject.gap(clip, pixels, ids, **subject.extras)
    left, explained = fingerprint(clip, *few) == before, fingerprint(one.clip, *few) == before
    said = "same bits before and after" if explained else "the model that is explained has other weights"
    found[PROPERTIES[4]] = left and explained, said if left else "the run changed the model"
    found[PROPERTIES[5]] = True, "ran without any label"
    if subject.labels:
        try:
            _run(subject, clip, *few, **dict.fromkeys(subject.labels, ()))
        except Exception as error:  # whatever the reason: it does not run without
            found[PROPERTIES[5]] = False, f"without labels: {_refusal(error)}"
    missed = f"misses {f'{gap:.1%}' if gap < 10 else '>1,000%'} of what it explains, worst of {len(ids)} pairs"
    found[PROPERTIES[6]] = gap < TOLERANCE, missed
    rows = [(name, bool(holds), evidence) for name, (holds, evidence) in found.items()]
    return pd.DataFrame(rows, columns=["property", "holds", "evidence"])
