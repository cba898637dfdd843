"""The scenes world: emoji objects on textured grounds, with a pixel mask for every object.

A `Scene` says what is where; `render` draws it; `describe` writes a caption. Everything is a function of a seeded
generator, so the same seed gives the same pictures byte for byte. The sprites in data/scenes/sprites were taken once
from the Noto Color Emoji font (see NOTICE) by `python -m nibkit.scenes sprites`; no font is needed after that.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..data.captions import article
from ..paths import bundled

SIZE = 224  # picture side, pixels

OBJECTS = {
    "cat": "🐈", "dog": "🐕", "horse": "🐎", "cow": "🐄", "pig": "🐖", "elephant": "🐘", "lion": "🦁", "panda": "🐼",
    "frog": "🐸", "fish": "🐠", "duck": "🦆", "owl": "🦉", "penguin": "🐧", "butterfly": "🦋", "turtle": "🐢",
    "bus": "🚌", "car": "🚗", "bicycle": "🚲", "boat": "⛵", "plane": "✈️", "tree": "🌳", "flower": "🌻",
    "mushroom": "🍄", "banana": "🍌", "pizza": "🍕", "cake": "🎂", "ball": "⚽", "guitar": "🎸", "umbrella": "☂️",
    "house": "🏠", "camera": "📷", "clock": "⏰",
}  # fmt: skip

GROUNDS = {  # name -> how a caption says it
    "grass": "on grass",
    "sand": "on sand",
    "water": "on water",
    "snow": "in the snow",
    "night": "at night",
    "brick": "on brick",
}


@dataclass(frozen=True)
class Placed:
    """One object in a scene: centre (x, y) and longer side `size` in pixels, `tilt` in degrees."""

    name: str
    x: float
    y: float
    size: float
    tilt: float = 0.0
    flip: bool = False


@dataclass(frozen=True)
class Scene:
    """A ground and the objects on it, drawn in order; `texture` seeds the ground's pattern."""

    ground: str
    objects: tuple[Placed, ...]
    texture: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The objects' names, in the order they are drawn."""
        return tuple(o.name for o in self.objects)


# --- drawing -----------------------------------------------------------------------------------------------------


@functools.cache
def sprite(name: str) -> Image.Image:
    """The object's artwork, RGBA, cropped to its outline."""
    if name not in OBJECTS:
        raise ValueError(f"object {name!r} is not in this world; there are {', '.join(OBJECTS)}")
    return Image.open(bundled("scenes/sprites") / f"{name}.png").convert("RGBA")


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


def _stamp(o: Placed) -> tuple[Image.Image, tuple[int, int]]:
    art = sprite(o.name)
    scale = o.size / max(art.size)
    art = art.resize([max(1, round(s * scale)) for s in art.size], Image.Resampling.BILINEAR, reducing_gap=2)
    if o.flip:
        art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    art = art.rotate(o.tilt, Image.Resampling.BILINEAR, expand=True)
    return art, (round(o.x - art.width / 2), round(o.y - art.height / 2))


def render(scene: Scene) -> tuple[Image.Image, dict[str, np.ndarray]]:
    """Draw a scene.

    Returns the RGB picture (SIZE x SIZE) and, per object name, the boolean mask (SIZE, SIZE) of its visible pixels.
    """
    picture = Image.fromarray(ground(scene.ground, scene.texture))
    masks: dict[str, np.ndarray] = {}
    for o in scene.objects:
        art, corner = _stamp(o)
        picture.paste(art, corner, art)
        alpha = Image.new("L", picture.size)
        alpha.paste(art.getchannel("A"), corner)
        mine = np.asarray(alpha) > 127
        for other in masks.values():
            other &= ~mine
        masks[o.name] = masks.get(o.name, False) | mine
    return picture, masks


# --- inventing ---------------------------------------------------------------------------------------------------


def random_scene(rng: np.random.Generator, n: int = 1, textures: range = range(48)) -> Scene:
    """A random scene of `n` different objects (1 to 3) that stay inside the picture and overlap little."""
    names = rng.choice(list(OBJECTS), n, replace=False)
    low, high = {1: (88, 170), 2: (76, 112), 3: (66, 92)}[n]
    placed: list[Placed] = []
    for name in names:
        size = rng.uniform(low, high)
        for _ in range(40):  # the last try stands even where it overlaps a little
            x, y = rng.uniform(size / 2, SIZE - size / 2, 2)
            if all(max(abs(x - p.x), abs(y - p.y)) > 0.8 * (size + p.size) / 2 for p in placed):
                break
        placed.append(Placed(str(name), x, y, size, rng.uniform(-25, 25), bool(rng.random() < 0.5)))
    return Scene(str(rng.choice(list(GROUNDS))), tuple(placed), int(rng.integers(textures.start, textures.stop)))


def describe(scene: Scene, rng: np.random.Generator, partial: float = 0.0) -> tuple[str, frozenset[str]]:
    """A caption of the scene, and what it claims: the object names and, if mentioned, the ground.

    With probability `partial` one object of several is left out, as people do.
    """
    names = [scene.names[i] for i in rng.permutation(len(scene.names))]
    if len(names) > 1 and rng.random() < partial:
        names = names[:-1]
    opening = str(rng.choice(["", "", "a photo of ", "a picture of ", "there is "]))
    joint = str(rng.choice([" and ", " and ", " next to ", " with "]))
    if len(names) > 2:
        joint = " and "
    things = [article(n) for n in names]
    text = things[0] if len(things) == 1 else joint.join([", ".join(things[:-1]), things[-1]])
    if rng.random() < 0.5:
        return f"{opening}{text}", frozenset(names)
    return f"{opening}{text} {GROUNDS[scene.ground]}", frozenset([*names, scene.ground])


def is_true(claims: frozenset[str], scene: Scene) -> bool:
    """Whether everything a caption claims is in the scene."""
    return claims <= {*scene.names, scene.ground}


CAT_AND_DOG = Scene("grass", (Placed("cat", 62, 118, 100), Placed("dog", 160, 116, 104, flip=True)), texture=7)


def counterpart(scene: Scene, name: str) -> Scene:
    """The same scene with one object taken away: what a caption naming it should no longer fit.

    >>> counterpart(CAT_AND_DOG, "cat").names
    ('dog',)
    """
    return replace(scene, objects=tuple(o for o in scene.objects if o.name != name))
