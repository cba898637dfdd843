"""What the gradient methods share: one run over both encoders, and the gradient of the attention or of a state.

The target is always the cosine of a pair's two embeddings. A batch takes one forward and one backward per encoder,
without hooks.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..models.cut import cut
from ..models.devices import in_parts
from ..models.sharing import once
from ..models.towers import Layer, State, Tower, allowed


def last(tower: Tower) -> int:
    """Index of the tower's last block."""
    return len(tower.blocks) - 1


def at_readout(x: Tensor, state: State) -> Tensor:
    """Each pair's readout row: (B, T, ...) -> (B, ...)."""
    return x[torch.arange(len(x), device=x.device), state.readout]


def seen(tower: Tower, state: State) -> Tensor:
    """(B, T) bool: the tokens an embedding can depend on: all of a picture's, a text's up to its readout."""
    place = torch.arange(state.tokens.shape[1], device=state.tokens.device)
    return place <= state.readout[:, None] if tower.causal else (place >= 0).expand(len(state.tokens), -1)


def scored(tower: Tower, state: State) -> Tensor:
    """`seen` without CLS."""
    return seen(tower, state) & (torch.arange(state.tokens.shape[1], device=state.tokens.device) >= tower.prefix)


def explain(
    clip,
    pixels: Tensor,
    ids: list[Tensor],
    score: Callable,
    layer: tuple[int, int] | Callable[[Tower], int],
    batch_size: int | str,
) -> Attribution:
    """Both encoders by score(tower, state, layer, target) -> token scores (B, T).

    `state` enters block `layer`, a pair of numbers or a rule for each tower; `target` (B, E) is the other encoder's
    embedding of the same pair. Raw scores, signed, CLS dropped.
    """
    return _packed(clip, ids, *_each(clip, pixels, ids, score, layer, batch_size))


def explain_by_attention(
    clip, pixels: Tensor, ids: list[Tensor], score: Callable, batch_size: int | str
) -> Attribution:
    """Both encoders by score(P, G) -> (B, T), from the last block alone.

    P (B, heads, T): how much the readout attends to each token; G: d cosine / d P.

    Methods that differ in `score` alone share these two within `shared`.
    """

    def measure(tower, state, layer, target):
        [block] = attention(tower, state, layer, target)
        everyone = torch.arange(len(target), device=target.device)
        return torch.stack([x[everyone, :, state.readout] for x in (block.probabilities, block.gradient)], 1)

    key = clip.image, clip.text, pixels, ids, "readout's attention", batch_size
    found = once(key, lambda: _each(clip, pixels, ids, measure, last, batch_size))
    return _packed(clip, ids, *(score(*side.unbind(1)) for side in found))


def _each(clip, pixels, ids, measure, layer, batch_size) -> list[Tensor]:
    """measure(tower, state, layer, target) of both encoders, part by part."""
    layers = (layer(clip.image), layer(clip.text)) if callable(layer) else layer
    found = []
    for tower, state, layer, target in cut(clip, pixels, ids, layers):
        rows = tower.rows_at_once(batch_size, state, layer)
        work = partial(_part, measure, tower, state, layer, target)
        found.append(torch.cat([*in_parts(len(target), rows, work)]))
    return found


def _part(measure, tower: Tower, state: State, layer: int, target: Tensor, part: slice) -> Tensor:
    return measure(tower, state.pick(part), layer, target[part])


def _packed(clip, ids: list[Tensor], image: Tensor, text: Tensor) -> Attribution:
    return Attribution.of(clip.image, image, text, ids, pd.DataFrame({"passes": np.ones(len(ids), int)}))


class Attended(NamedTuple):
    """One block: its input (B, T, C), attention probabilities and d cosine / d probabilities, both (B, heads, T, T).

    A `Pool` has one row of them, (B, heads, 1, T).
    """

    tokens: Tensor
    probabilities: Tensor
    gradient: Tensor


def only_allowed(gradient: Tensor, tower: Tower, state: State) -> Tensor:
    """A mask fixes the probabilities of what a token cannot see at 0: they cannot vary, so their gradient counts as
    0.
    """
    mask = tower.mask(state)
    return gradient if mask is False else gradient.where(allowed(mask, state.tokens), 0)


def attention(tower: Tower, state: State, layer: int, target: Tensor) -> list[Attended]:
    """Of block `layer` and every one above: one forward and one backward for all of them and all pairs."""
    inputs, probabilities, tokens, mask = [], [], state.tokens, tower.mask(state)
    for block in tower.blocks[layer:]:
        p, values = block.attention(tokens, mask)
        inputs.append(tokens)
        probabilities.append(p.requires_grad_())
        tokens = block.from_attention(tokens, p, values)
    cosine = F.cosine_similarity(tower.head(at_readout(tokens, state)), target)
    gradients = torch.autograd.grad(cosine.sum(), probabilities)
    found = zip(inputs, probabilities, gradients)
    return [Attended(x.detach(), p.detach(), only_allowed(g, tower, state)) for x, p, g in found]


def behind(clip, layer: Layer) -> tuple[int, int]:
    """Blocks applied once block `layer` of each tower has put out its state; a ValueError where that ends an
    encoder.
    """
    layers = clip.layers(layer)
    for tower, layer in zip((clip.image, clip.text), layers):
        if layer == last(tower):
            raise ValueError(
                f"layer={layer} is the last block of the {tower.name} tower: no patch or word behind it reaches the "
                f"embedding; take a layer in 0..{layer - 1}"
            )
    return layers[0] + 1, layers[1] + 1


def slope(tower: Tower, state: State, layer: int, target: Tensor) -> Tensor:
    """d cosine / d state (B, T, C), for the state that enters block `layer`."""
    tokens = state.tokens.detach().requires_grad_()
    cosine = F.cosine_similarity(tower.embed(State(tokens, state.readout), layer), target)
    return torch.autograd.grad(cosine.sum(), tokens)[0]
