"""Aerial scenes: fields, and on them a river, a runway, houses and the like, seen from above, with a mask for each.

They stand in for remote-sensing pictures where there are none. A picture is a function of its parts and a seed; no font
and no artwork is needed. Another part in a part's place leaves the rest of the picture as it is.
"""

from collections.abc import Collection

import numpy as np
from PIL import Image, ImageDraw

from .grounds import SIZE

FINE = 2 * SIZE  # drawn at twice the size, so that edges come out smooth
BANDS = np.array([0.2, 0.5, 0.8]) * FINE  # a picture has room for three parts, one below the other
CROPS = np.array([(98, 138, 62), (124, 158, 74), (70, 112, 58), (196, 176, 104), (150, 116, 78), (172, 182, 98)])
WATER, ASPHALT, PAINT, SHADOW = (62, 104, 132), (92, 94, 98), (236, 236, 230), (48, 60, 40)
BANK, EARTH, STANDS, TRACK, LAWN = (150, 142, 104), (186, 176, 158), (198, 198, 204), (182, 88, 62), (76, 154, 72)
ROOFS = np.array([(170, 78, 58), (146, 66, 52), (120, 112, 108), (188, 120, 84)])
PHRASES = (  # how a caption says it; the second half also claims the fields
    "an aerial view of {}",
    "a satellite picture of {}",
    "{} seen from above",
    "{} from the air",
    "an aerial view of {} among fields",
    "a satellite picture of fields with {}",
    "{} among fields seen from above",
    "fields and {} from the air",
)


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
    """A picture and its label map, drawn together; label 0 is the fields."""

    def __init__(self):
        self.picture, self.labels = Image.new("RGB", (FINE, FINE)), Image.new("L", (FINE, FINE))
        self._paint, self._mark = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.labels)

    def polygon(self, corners, colour, label: int = 0) -> None:
        corners, colour = [tuple(map(float, p)) for p in corners], tuple(int(c) for c in colour)
        self._paint.polygon(corners, colour)
        self._mark.polygon(corners, label)

    def disc(self, centre, size: tuple[float, float], colour, label: int) -> None:
        """An upright ellipse, `size` across."""
        (x, y), (w, h) = centre, size
        box, colour = (x - w / 2, y - h / 2, x + w / 2, y + h / 2), tuple(int(c) for c in colour)
        self._paint.ellipse(box, colour)
        self._mark.ellipse(box, label)

    def line(self, ends, colour, width: int) -> None:
        self._paint.line([tuple(map(float, p)) for p in ends], tuple(int(c) for c in colour), width)


def _fields(canvas: _Canvas, rng: np.random.Generator) -> None:
    square = np.array([(0, 0), (FINE, 0), (FINE, FINE), (0, FINE)]) + rng.uniform(-60, 60, (4, 2))
    middle = FINE / 2
    for field in fields(rng, middle + 1.5 * (square - middle)):  # larger than the picture: no corner stays bare
        colour = CROPS[rng.integers(len(CROPS))] + rng.normal(0, 6, 3)
        canvas.polygon(field, colour)
        a, b, c, d = field
        for t in np.linspace(0, 1, rng.integers(8, 20)):  # furrows
            canvas.line((a + t * (b - a), d + t * (c - d)), colour - 9, 2)


def _river(canvas: _Canvas, rng: np.random.Generator, y: float, label: int) -> None:
    """A winding band from side to side."""
    x = np.linspace(-20, FINE + 20, 80)
    phase, width = rng.uniform(0, 2 * np.pi), rng.uniform(44, 60)
    y = y + 26 * np.sin(x / FINE * 2 * np.pi * rng.uniform(0.8, 1.5) + phase)
    half = width / 2 * (1 + 0.25 * np.sin(x / 40 + phase))
    for margin, colour in ((9, BANK), (0, WATER)):  # banks, then water
        banks = [*zip(x, y - half - margin), *zip(x[::-1], (y + half + margin)[::-1])]
        canvas.polygon(banks, colour, label)


def _lake(canvas: _Canvas, rng: np.random.Generator, y: float, label: int) -> None:
    """A rounded water with bays."""
    centre, turn = np.array([FINE * rng.uniform(0.35, 0.65), y]), np.linspace(0, 2 * np.pi, 60, endpoint=False)
    shore = 1 + sum(rng.uniform(0.04, 0.14) * np.sin(k * turn + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    radii = np.array([rng.uniform(88, 120), rng.uniform(46, 60)])
    for margin, colour in ((8, BANK), (0, WATER)):
        edge = np.stack([np.cos(turn), np.sin(turn)], 1) * shore[:, None] * (radii + margin)
        canvas.polygon(centre + edge, colour, label)


def _forest(canvas: _Canvas, rng: np.random.Generator, y: float, label: int) -> None:
    """Crowns of trees, close together, each with a shade below it and light on it."""
    middle, spread = FINE * rng.uniform(0.35, 0.65), rng.uniform(80, 110)
    spots = rng.uniform(-1, 1, (150, 2))
    spots = spots[(spots**2).sum(1) < 1] * (spread, 48) + (middle, y)
    for spot in spots[np.argsort(spots[:, 1])]:
        size, green = rng.uniform(18, 28), np.array([36, 84, 40]) + rng.normal(0, 7)
        canvas.disc(spot + 3, (size, size), (22, 46, 26), label)
        canvas.disc(spot, (size, size), green, label)
        canvas.disc(spot - size / 8, (size / 2, size / 2), green + 18, label)


def _road(canvas: _Canvas, rng: np.random.Generator, y: float, label: int) -> None:
    """A bending strip from side to side with a dashed line, and cars on it."""
    x = np.linspace(-20, FINE + 20, 61)
    y = y + rng.uniform(10, 34) * np.sin(x / FINE * np.pi * rng.uniform(0.7, 1.3) + rng.uniform(0, 2 * np.pi))
    for half, colour in ((22, EARTH), (17, ASPHALT)):
        canvas.polygon([*zip(x, y - half), *zip(x[::-1], (y + half)[::-1])], colour, label)
    for k in range(0, 60, 2):
        canvas.line(((x[k], y[k]), (x[k + 1], y[k + 1])), PAINT, 3)
    for k in rng.choice(np.arange(4, 57), 6, replace=False):
        side, angle = rng.choice([-9, 9]), np.arctan2(y[k + 1] - y[k], x[k + 1] - x[k])
        canvas.polygon(_box(np.array([x[k], y[k] + side]), 18, 9, angle), rng.integers(30, 240, 3), label)


def _runway(canvas: _Canvas, rng: np.random.Generator, y: float, label: int) -> None:
    """A straight strip with its centre line and threshold bars."""
    centre = np.array([FINE / 2 + rng.uniform(-20, 20), y])
    angle, length, width = rng.uniform(-0.12, 0.12), rng.uniform(0.8, 0.9) * FINE, rng.uniform(46, 58)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    canvas.polygon(_box(centre, length, width, angle), ASPHALT, label)
    for t in np.linspace(-0.36, 0.36, 13):
        canvas.polygon(_box(centre + t * length * along, length / 26, 4, angle), PAINT, label)
    for end in (-0.46, 0.46):
        for side in np.linspace(-0.34, 0.34, 6):
            canvas.polygon(_box(centre + end * length * along + side * width * across, 20, 4, angle), PAINT, label)


def _houses(canvas: _Canvas, rng: np.random.Generator, y: float, label: int) -> None:
    """Two rows of gable roofs along a lane; each roof has a sunny and a shady side."""
    angle = rng.uniform(-0.1, 0.1)
    along = np.array([np.cos(angle), np.sin(angle)])
    across, centre = np.array([-along[1], along[0]]), np.array([FINE / 2, y])
    canvas.line((centre - FINE * along, centre + FINE * along), EARTH, 10)
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


def _stadium(canvas: _Canvas, rng: np.random.Generator, y: float, label: int) -> None:
    """Stands around a running track around a lawn with its lines."""
    centre, w, h = np.array([FINE * rng.uniform(0.35, 0.65), y]), rng.uniform(190, 220), rng.uniform(116, 130)
    canvas.disc(centre + 5, (w, h), SHADOW, label)
    for less, colour in ((0, STANDS), (10, STANDS - np.array(30)), (20, STANDS), (32, TRACK), (52, LAWN)):
        canvas.disc(centre, (w - less, h - less), colour, label)
    length, width = w * 0.46, h * 0.36
    x, top = centre - (length / 2, width / 2)
    lines = [(0, 0), (length, 0), (length, width), (0, width), (0, 0)]
    canvas.line([(x + dx, top + dy) for dx, dy in lines], PAINT, 3)
    canvas.line([(centre[0], top), (centre[0], top + width)], PAINT, 3)


def _tanks(canvas: _Canvas, rng: np.random.Generator, y: float, label: int) -> None:
    """Two rows of round white tanks, as at a refinery, on bare earth."""
    n, size, left = int(rng.integers(3, 6)), rng.uniform(44, 52), FINE * rng.uniform(0.1, 0.2)
    middle = np.array([left + (n - 1) * (size + 12) / 2, y])
    canvas.polygon(_box(middle, n * (size + 12) + 16, 2 * size + 32, 0), EARTH, label)
    for k in range(2 * n):
        spot = np.array([left + k // 2 * (size + 12), y + (k % 2 - 0.5) * (size + 10)])
        canvas.disc(spot + 7, (size, size), SHADOW, label)
        canvas.disc(spot, (size, size), (206, 208, 210), label)
        canvas.disc(spot - 2, (size - 12, size - 12), PAINT, label)


PARTS = {
    "river": _river,
    "runway": _runway,
    "houses": _houses,
    "lake": _lake,
    "forest": _forest,
    "road": _road,
    "stadium": _stadium,
    "tanks": _tanks,
}
MANY = ("houses", "tanks", "fields")  # what a caption says without "a"


def draw(parts: tuple[str, ...], seed: list[int]) -> tuple[Image.Image, dict[str, np.ndarray]]:
    """Draw up to three different `parts` of PARTS on fields.

    Returns the RGB picture (SIZE x SIZE) and, per part, "fields" first, the boolean mask (SIZE, SIZE) of its visible
    pixels; masks are disjoint and cover the picture. ValueError for an unknown part, for one twice and for a fourth.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise ValueError(f"part {unknown[0]!r} is not in this world; there are {', '.join(PARTS)}")
    if len(set(parts)) < len(parts) or len(parts) > len(BANDS):
        raise ValueError(f"parts {', '.join(parts)}: give up to {len(BANDS)} different ones")
    rng, canvas = np.random.default_rng(seed), _Canvas()
    _fields(canvas, rng)
    for label, (part, y) in enumerate(zip(parts, rng.permutation(BANDS)), 1):
        PARTS[part](canvas, np.random.default_rng([*seed, label]), y, label)
    picture = np.asarray(canvas.picture.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
    picture = np.clip(picture + rng.normal(0, 4, (SIZE, SIZE, 1)), 0, 255).astype(np.uint8)
    labels = np.asarray(canvas.labels)[::2, ::2]
    turns, mirror = int(rng.integers(4)), slice(None, None, rng.choice([-1, 1]))  # north is anywhere
    picture, labels = (np.ascontiguousarray(np.rot90(x, turns)[:, mirror]) for x in (picture, labels))
    return Image.fromarray(picture), {name: labels == k for k, name in enumerate(("fields", *parts))}


def describe(parts: tuple[str, ...], rng: np.random.Generator, about: Collection[str] = (), partial: float = 0.15):
    """A caption, such as "an aerial view of a river and houses among fields", and the facts that it claims.

    about: parts of which one is named. With probability `partial` one part of several is left out, as people do.
    """
    named = [parts[k] for k in rng.permutation(len(parts))]
    named.sort(key=lambda part: part in about)  # what it is about is not left out
    if len(named) > 1 and rng.random() < partial:
        named = named[1:]
    k = int(rng.integers(len(PHRASES)))
    things = [name if name in MANY else f"a {name}" for name in named]
    text = " and ".join(filter(None, [", ".join(things[:-1]), things[-1]]))
    claimed = [*named, "fields"] if k >= len(PHRASES) // 2 else named
    return PHRASES[k].format(text), frozenset(["aerial", *(f"aerial {name}" for name in claimed)])
