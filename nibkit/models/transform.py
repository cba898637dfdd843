"""How a picture becomes a model's square of pixels, and how to look back from there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor


def square(size: int | Sequence[int]) -> int:
    """A side's length, which a library may give as (height, width); ValueError where it is not a square."""
    sides = {int(n) for n in size} if isinstance(size, Sequence) else {int(size)}
    if len(sides) != 1 or min(sides) < 1:
        raise ValueError(f"the model takes pictures, or cuts patches, of {size!r} pixels; nibkit knows squares")
    return sides.pop()


@dataclass
class Transform:
    """A backend's preprocessing: an RGB picture -> pixels (3, size, size), (value - mean) / std of each channel.

    fit: how it makes pictures square: "shortest" scales the short side and cuts the middle, "longest" scales the long
    side and pads, "squash" scales both, "none" cuts the middle without scaling. mean, std: of R, G, B, for values in
    [0, 1].
    share: how many rows and columns of the scaled square are kept, the crop's size by the resize's; above 1 they are
    padded. For "none", the crop's size itself.
    """

    apply: Callable[[Image.Image], Tensor]
    fit: str
    mean: Sequence[float]
    std: Sequence[float]
    share: tuple[float, float] = (1.0, 1.0)

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
        short, long = min(mask.shape), max(mask.shape)
        ends = {"shortest": (short, short), "longest": (long, long), "squash": mask.shape, "none": (1, 1)}
        for axis, (whole, share) in enumerate(zip(ends[self.fit], self.share)):
            have, want = mask.shape[axis], max(1, round(whole * share))
            before = abs(have - want) // 2
            if want <= have:
                mask = mask.take(range(before, before + want), axis)
            else:
                mask = np.pad(mask, [(before, want - have - before) if k == axis else (0, 0) for k in (0, 1)])
        return mask
