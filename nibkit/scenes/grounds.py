"""The grounds that objects lie on: grass, sand, water, snow, night and brick, each in any number of textures."""

import functools

import numpy as np
from PIL import Image

SIZE = 224  # picture side, pixels

GROUNDS = {  # name -> how a caption says it
    "grass": "on grass",
    "sand": "on sand",
    "water": "on water",
    "snow": "in the snow",
    "night": "at night",
    "brick": "on brick",
}


def _smooth(rng, cells: int) -> np.ndarray:
    """Low-frequency noise in [-1, 1], (SIZE, SIZE): random values on a coarse grid, enlarged smoothly."""
    coarse = Image.fromarray((255 * rng.random((cells, cells))).astype(np.uint8))
    return np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1


@functools.lru_cache(maxsize=512)
def ground(name: str, texture: int = 0) -> np.ndarray:
    """The ground's picture, (SIZE, SIZE, 3) uint8."""
    if name not in GROUNDS:
        raise ValueError(f"ground {name!r} is not in this world; there are {', '.join(GROUNDS)}")
    rng = np.random.default_rng([list(GROUNDS).index(name), texture])
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    broad, mid, fine = _smooth(rng, 4), _smooth(rng, 16), _smooth(rng, 64)
    if name == "grass":
        colour, shade = (86, 150, 60), 14 * broad + 14 * mid + 22 * fine
    elif name == "sand":
        ripple = np.sin(y / 5 + 2.5 * broad + x / 60)
        colour, shade = (222, 196, 140), 8 * broad + 8 * ripple + 8 * fine
    elif name == "water":
        wave = np.sin(y / 7 + 3 * mid + broad)
        colour, shade = (64, 132, 190), 10 * broad + 18 * wave
    elif name == "snow":
        colour, shade = (236, 240, 246), 8 * broad + 5 * mid + 4 * fine
    elif name == "night":
        colour, shade = (22, 26, 58), 9 * broad + 4 * mid
        stars = rng.integers(0, SIZE, (60, 2))
        shade[stars[:, 0], stars[:, 1]] = 190
    else:  # brick
        row = (y // 20).astype(int)
        joint = (y % 20 < 2) | ((x + 20 * (row % 2)) % 40 < 2)
        tone = rng.normal(0, 10, (SIZE // 20 + 1, SIZE // 20 + 3)).astype(np.float32)
        colour, shade = (168, 82, 62), tone[row, ((x + 20 * (row % 2)) // 40).astype(int)] + 6 * fine
        shade = np.where(joint, 42 + 6 * fine, shade)
    tint = rng.normal(0, 5, 3)
    return np.clip(np.asarray(colour) + tint + shade[..., None], 0, 255).astype(np.uint8)
