"""Aerial scenes: fields, a river, a runway and houses seen from above, drawn on the spot with a mask for each.

They stand in for remote-sensing pictures where there are none: they show what notebook 08 draws, and nothing else. The
bundled model never saw such pictures. Pair i of a set is a function of (seed, i); no font and no artwork is needed.
"""

import functools

import numpy as np
from PIL import Image, ImageDraw

from ..data import Pair, PairDataset
from ..data.captions import words_of
from .world import SIZE

FINE = 2 * SIZE  # drawn at twice the size, so that edges come out smooth
SETS = (  # what lies on the fields, in turn
    ("river",), ("runway",), ("houses",), ("river", "houses"), ("runway", "houses"), ("river", "runway", "houses"),
)  # fmt: skip
CROPS = np.array([(98, 138, 62), (124, 158, 74), (70, 112, 58), (196, 176, 104), (150, 116, 78), (172, 182, 98)])
WATER, ASPHALT, PAINT, SHADOW = (62, 104, 132), (92, 94, 98), (236, 236, 230), (48, 60, 40)
ROOFS = np.array([(170, 78, 58), (146, 66, 52), (120, 112, 108), (188, 120, 84)])


def fields(rng: np.random.Generator, corners: np.ndarray, depth: int = 4) -> list[np.ndarray]:
    """Cut a four-sided field (4, 2) across its longer side, again and again: 2 ** depth four-sided fields."""
    a, b, c, d = corners
    if np.linalg.norm(a - b) < np.linalg.norm(b - c):
        a, b, c, d = b, c, d, a
    if not depth:
        return [np.array([a, b, c, d])]
    s, t = rng.uniform(0.35, 0.65, 2)
    p, q = a + s * (b - a), d + t * (c - d)
    return [f for half in ((a, p, q, d), (p, b, c, q)) for f in fields(rng, np.array(half), depth - 1)]


def _box(centre, length: float, width: float, angle: float) -> list[tuple[float, float]]:
    """Corners of a turned rectangle; `angle` in radians."""
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [tuple(centre + i * along * length / 2 + j * across * width / 2) for i, j in signs]


class _Canvas:
    """A picture and its label map, drawn together: label k is the k-th of `parts`, 0 the fields."""

    def __init__(self):
        self.picture, self.labels = Image.new("RGB", (FINE, FINE)), Image.new("L", (FINE, FINE))
        self._paint, self._mark = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.labels)

    def polygon(self, corners, colour, label: int = 0) -> None:
        corners, colour = [tuple(map(float, p)) for p in corners], tuple(int(c) for c in colour)
        self._paint.polygon(corners, colour)
        self._mark.polygon(corners, label)

    def line(self, ends, colour, width: int) -> None:
        self._paint.line([tuple(map(float, p)) for p in ends], tuple(int(c) for c in colour), width)


def _fields(canvas: _Canvas, rng: np.random.Generator, label: int) -> None:
    square = np.array([(0, 0), (FINE, 0), (FINE, FINE), (0, FINE)]) + rng.uniform(-60, 60, (4, 2))
    middle = FINE / 2
    for field in fields(rng, middle + 1.5 * (square - middle)):  # larger than the picture: no corner stays bare
        colour = CROPS[rng.integers(len(CROPS))] + rng.normal(0, 6, 3)
        canvas.polygon(field, colour, label)
        a, b, c, d = field
        for t in np.linspace(0, 1, rng.integers(8, 20)):  # furrows
            canvas.line((a + t * (b - a), d + t * (c - d)), colour - 9, 2)


def _river(canvas: _Canvas, rng: np.random.Generator, label: int) -> None:
    """A winding band through the upper third."""
    x = np.linspace(-20, FINE + 20, 80)
    phase, width = rng.uniform(0, 2 * np.pi), rng.uniform(44, 60)
    y = FINE * 0.2 + 26 * np.sin(x / FINE * 2 * np.pi * rng.uniform(0.8, 1.5) + phase)
    half = width / 2 * (1 + 0.25 * np.sin(x / 40 + phase))
    for margin, colour in ((9, (150, 142, 104)), (0, WATER)):  # banks, then water
        banks = [*zip(x, y - half - margin), *zip(x[::-1], (y + half + margin)[::-1])]
        canvas.polygon(banks, colour, label)


def _runway(canvas: _Canvas, rng: np.random.Generator, label: int) -> None:
    """A straight strip with its centre line and threshold bars, in the lower third."""
    centre = np.array([FINE / 2 + rng.uniform(-20, 20), FINE * 0.8])
    angle, length, width = rng.uniform(-0.12, 0.12), rng.uniform(0.8, 0.9) * FINE, rng.uniform(46, 58)
    along = np.array([np.cos(angle), np.sin(angle)])
    canvas.polygon(_box(centre, length, width, angle), ASPHALT, label)
    for t in np.linspace(-0.36, 0.36, 13):
        canvas.polygon(_box(centre + t * length * along, length / 26, 4, angle), PAINT, label)
    for end in (-0.46, 0.46):
        for side in np.linspace(-0.34, 0.34, 6):
            across = np.array([-along[1], along[0]])
            canvas.polygon(_box(centre + end * length * along + side * width * across, 20, 4, angle), PAINT, label)


def _houses(canvas: _Canvas, rng: np.random.Generator, label: int) -> None:
    """Two rows of gable roofs along a lane, across the middle; each roof has a sunny and a shady side."""
    angle = rng.uniform(-0.1, 0.1)
    along = np.array([np.cos(angle), np.sin(angle)])
    across, centre = np.array([-along[1], along[0]]), np.array([FINE / 2, FINE / 2])
    canvas.line((centre - FINE * along, centre + FINE * along), (186, 176, 158), 10)
    for place in np.linspace(-0.34, 0.34, 5) * FINE:
        for side in (-36, 36):
            if rng.random() < 0.15:  # an empty plot
                continue
            spot = centre + (place + rng.uniform(-12, 12)) * along + side * across
            length, width, turn = rng.uniform(44, 58), rng.uniform(30, 38), angle + rng.normal(0, 0.1)
            roof, ridge = ROOFS[rng.integers(len(ROOFS))], np.array([-np.sin(turn), np.cos(turn)])
            canvas.polygon(_box(spot + 6, length, width, turn), SHADOW, label)
            for half, light in ((-1, 22), (1, -14)):
                canvas.polygon(_box(spot + half * width / 4 * ridge, length, width / 2, turn), roof + light, label)


PARTS = {"fields": _fields, "river": _river, "runway": _runway, "houses": _houses}  # drawn in this order


def draw(parts: tuple[str, ...], seed: list[int]) -> tuple[Image.Image, dict[str, np.ndarray]]:
    """Draw `parts` of PARTS on fields.

    Returns the RGB picture (SIZE x SIZE) and, per part, "fields" included, the boolean mask (SIZE, SIZE) of its visible
    pixels; masks are disjoint and cover the picture. ValueError for an unknown part.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"part {sorted(unknown)[0]!r} is not in this world; there are {', '.join(PARTS)}")
    rng, canvas = np.random.default_rng(seed), _Canvas()
    names = [name for name in PARTS if name == "fields" or name in parts]
    for label, name in enumerate(names):
        PARTS[name](canvas, rng, label)
    picture = np.asarray(canvas.picture.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
    picture = np.clip(picture + rng.normal(0, 4, (SIZE, SIZE, 1)), 0, 255).astype(np.uint8)
    labels = np.asarray(canvas.labels)[::2, ::2]
    turns, mirror = int(rng.integers(4)), slice(None, None, rng.choice([-1, 1]))  # north is anywhere
    picture, labels = (np.ascontiguousarray(np.rot90(x, turns)[:, mirror]) for x in (picture, labels))
    return Image.fromarray(picture), {name: labels == k for k, name in enumerate(names)}


def describe(parts: tuple[str, ...]) -> str:
    """The caption: "an aerial view of a river and houses among fields"."""
    things = [name if name == "houses" else f"a {name}" for name in parts]
    listed = things[0] if len(things) == 1 else f"{', '.join(things[:-1])} and {things[-1]}"
    return f"an aerial view of {listed} among fields"


def _image(parts: tuple[str, ...], seed: list[int]) -> Image.Image:
    return draw(parts, seed)[0]


def _masks(parts: tuple[str, ...], seed: list[int]) -> dict[str, np.ndarray]:
    return draw(parts, seed)[1]


def dataset(n: int = 6, seed: int = 0) -> PairDataset:
    """`n` drawn pairs, the kinds of SETS in turn, each drawn when it is asked for."""
    pairs = []
    for i in range(n):
        parts, text = SETS[i % len(SETS)], describe(SETS[i % len(SETS)])
        how = {"parts": parts, "seed": [seed, i]}
        read = functools.partial(_image, **how), functools.partial(_masks, **how)
        pairs.append(Pair(f"aerial/{i:04d}", text, *read, words_of(text, PARTS)))
    return PairDataset("aerial", pairs)
