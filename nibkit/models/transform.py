"""How a picture becomes a model's square of pixels, and how to look back from there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor


@dataclass
class Transform:
    """A backend's preprocessing: an RGB picture -> pixels (3, size, size), (value - mean) / std of each channel.

    fit: how it makes pictures square: "shortest" scales the short side and cuts the middle, "longest" scales the long side
    and pads, "squash" scales both. mean, std: of R, G, B.
    """

    apply: Callable[[Image.Image], Tensor]
    fit: str
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, image: Image.Image) -> Tensor:
        return self.apply(image)

    def undo(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (3, H, W) as RGB to look at, (H, W, 3) in [0, 1]."""
        return np.clip(pixels.transpose(1, 2, 0) * np.float32(self.std) + np.float32(self.mean), 0, 1)

    def seen(self, mask: np.ndarray) -> np.ndarray:
        """The part of a picture's mask (H, W) that the model sees, at the mask's resolution.

        >>> Transform(None, "shortest", (), ()).seen(np.array([[1, 2, 3, 4], [5, 6, 7, 8]]))
        array([[2, 3],
               [6, 7]])
        """
        if self.fit == "longest":
            margins = [max(mask.shape) - n for n in mask.shape]
            return np.pad(mask, [(m // 2, m - m // 2) for m in margins])
        if self.fit == "squash":
            return mask
        side = min(mask.shape)
        top, left = ((n - side) // 2 for n in mask.shape)
        return mask[top : top + side, left : left + side]
