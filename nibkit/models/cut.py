"""Both encoders of some pairs, cut at a block: what enters it, and what the embedding behind it is compared with."""

from typing import NamedTuple

from torch import Tensor

from .towers import State, Tower


class Cut(NamedTuple):
    """One encoder of B pairs: `state` enters block `layer`; `target` (B, E) is the other encoder's embedding."""

    tower: Tower
    state: State
    layer: int
    target: Tensor


def cut(clip, pixels: Tensor, ids: list[Tensor], layers: tuple[int, int]) -> tuple[Cut, Cut]:
    """The image's and the text's encoder, cut at these blocks; without gradients, and within `shared` done once."""
    sides = list(zip((clip.image, clip.text), (pixels, ids), layers))
    states = [tower.state(inputs, layer) for tower, inputs, layer in sides]
    image, text = (tower.encode(inputs) for tower, inputs, _ in sides)
    return Cut(clip.image, states[0], layers[0], text), Cut(clip.text, states[1], layers[1], image)
