"""Scenes: objects on a ground, or parts of a landscape seen from above, drawn with a pixel mask for each.

The sprites in data/scenes/sprites were taken once from the Noto Color Emoji font (see NOTICE) by
`python -m nibkit.scenes sprites`; no font is needed after that. A sprite of COLOURED can be drawn in any of COLOURS:
its body takes the colour and keeps its light and shade, the rest stays.
"""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..paths import bundled
from . import aerial
from .grounds import SIZE, ground

OBJECTS = {  # name -> emoji
    name: emoji
    for line in (
        "cat 🐈, dog 🐕, horse 🐎, cow 🐄, pig 🐖, elephant 🐘, lion 🦁, panda 🐼, frog 🐸, fish 🐠, duck 🦆",
        "owl 🦉, penguin 🐧, butterfly 🦋, turtle 🐢, bus 🚌, car 🚗, bicycle 🚲, boat ⛵, plane ✈️, tree 🌳",
        "flower 🌻, mushroom 🍄, banana 🍌, pizza 🍕, cake 🎂, ball ⚽, guitar 🎸, umbrella ☂️, house 🏠",
        "camera 📷, clock ⏰",
        "apple 🍎, lemon 🍋, carrot 🥕, burger 🍔, cup ☕, balloon 🎈, piano 🎹, book 📕, key 🔑, bell 🔔, hat 🎩",
        "shoe 👟, shirt 👕, dress 👗, crown 👑, chair 🪑, phone ☎️, train 🚂, truck 🚚, tractor 🚜, rocket 🚀",
        "star ⭐, heart ❤️, leaf 🍁, snowman ⛄, robot 🤖, rabbit 🐇, sheep 🐑, mouse 🐁, tiger 🐅, snake 🐍",
        "crab 🦀, bee 🐝, bag 🎒, bucket 🪣, tent ⛺",
    )
    for name, emoji in (thing.split() for thing in line.split(", "))
}
FIRST = tuple(OBJECTS)[:32]  # what the first model knows, and the shipped sets show

COLOURS = {  # word -> RGB of a surface in middling light
    "red": (214, 40, 38),
    "yellow": (250, 210, 20),
    "green": (46, 150, 60),
    "blue": (38, 92, 216),
    "purple": (134, 62, 184),
    "pink": (248, 134, 190),
    "black": (44, 44, 48),
    "white": (236, 236, 236),
}
# name -> its natural colour's word ("" where that is none of COLOURS) and its body: hues from, to, in turns (may pass
# 1), or all that is light or dark and grey
COLOURED = {
    "car": ("red", 0.90, 1.07),
    "umbrella": ("purple", 0.58, 0.78),
    "flower": ("yellow", 0.09, 0.15),
    "boat": ("", 0.96, 1.09),
    "ball": ("white", "light"),
    "guitar": ("red", 0.95, 1.05),
    "clock": ("red", 0.95, 1.05),
    "balloon": ("red", 0.93, 1.06),
    "book": ("red", 0.93, 1.06),
    "hat": ("black", "dark"),
    "shoe": ("blue", 0.5, 0.7),
    "shirt": ("blue", 0.45, 0.65),
    "dress": ("blue", 0.5, 0.7),
    "phone": ("red", 0.93, 1.06),
    "star": ("yellow", 0.08, 0.18),
    "heart": ("red", 0.93, 1.06),
    "bag": ("red", 0.93, 1.06),
    "bucket": ("blue", 0.5, 0.7),
    "tent": ("", 0.01, 0.12),
}
SMALL, LARGE = 52, 104  # an object up to, or from, this many pixels is called so

WHERE = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}  # place -> axis, sign of the way


@dataclass(frozen=True)
class Placed:
    """One object in a scene: centre (x, y) and longer side `size` in pixels, `tilt` in degrees.

    colour: one of COLOURS for a name of COLOURED; "" leaves the sprite as it is.
    """

    name: str
    x: float
    y: float
    size: float
    tilt: float = 0.0
    flip: bool = False
    colour: str = ""

    @property
    def colour_word(self) -> str:
        """What a caption may call its colour; "" where it has no word."""
        return self.colour or COLOURED.get(self.name, ("",))[0]

    @property
    def size_word(self) -> str:
        """What a caption may call its size: "small", "large", or "" between the two."""
        return "small" if self.size <= SMALL else "large" if self.size >= LARGE else ""


@dataclass(frozen=True)
class Scene:
    """A ground and the objects on it, drawn in order; `texture` seeds the ground's pattern.

    An aerial scene has `parts` of aerial.PARTS in place of objects, and the ground "aerial".
    """

    ground: str
    objects: tuple[Placed, ...]
    texture: int = 0
    parts: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The objects' names, in the order they are drawn."""
        return tuple(o.name for o in self.objects)

    @property
    def labels(self) -> tuple[str, ...]:
        """What each object's mask is called: its name, after its size or colour where that tells two apart."""
        same = {name: [o for o in self.objects if o.name == name] for name in self.names}
        tells = {
            name: [word for word in ("size_word", "colour_word") if len({getattr(o, word) for o in objects}) > 1]
            for name, objects in same.items()
        }
        return tuple(" ".join([w for t in tells[o.name] if (w := getattr(o, t))] + [o.name]) for o in self.objects)


# --- sprites -----------------------------------------------------------------------------------------------------


def _body(rgb: np.ndarray, which: tuple) -> np.ndarray:
    """How much each pixel of (H, W, 3) in [0, 1] belongs to what takes the colour: (H, W) in [0, 1]."""
    high, low = rgb.max(2), rgb.min(2)
    chroma = high - low
    saturation = chroma / np.maximum(high, 1e-6)
    if which == ("light",):
        return np.clip((high - 0.5) / 0.2, 0, 1) * np.clip((0.3 - saturation) / 0.1, 0, 1)
    if which == ("dark",):
        return np.clip((0.5 - high) / 0.1, 0, 1) * np.clip((0.4 - saturation) / 0.1, 0, 1)
    r, g, b = np.moveaxis(rgb, 2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        hue = (
            np.where(high == r, (g - b) / chroma % 6, np.where(high == g, (b - r) / chroma + 2, (r - g) / chroma + 4))
            / 6
        )
    start, end = which
    far = np.abs((np.nan_to_num(hue) - (start + end) / 2 + 0.5) % 1 - 0.5) - (end - start) / 2  # > 0: outside the hues
    return np.clip(1 - far / 0.03, 0, 1) * np.clip((saturation - 0.06) / 0.1, 0, 1)


def _coloured(art: Image.Image, name: str, colour: str) -> Image.Image:
    """The sprite with its body in `colour`: darker than the middle goes to black, lighter to white."""
    pixels = np.asarray(art, np.float32)
    body = _body(pixels[..., :3] / 255, COLOURED[name][1:]) * (pixels[..., 3] > 0)
    light = pixels[..., :3] @ np.float32([0.3, 0.59, 0.11])
    middle = np.quantile(light[body > 0.5], 0.4)
    paint = np.float32(COLOURS[colour])
    shade = np.clip(light / middle, 0.6, None)[..., None]
    gleam = np.clip((light - middle) / (255 - middle + 1), 0, 1)[..., None] * 0.55
    painted = np.where(shade < 1, paint * shade, paint + (255 - paint) * gleam)
    rgb = pixels[..., :3] + body[..., None] * (painted - pixels[..., :3])
    return Image.fromarray(np.dstack([np.clip(rgb, 0, 255), pixels[..., 3]]).round().astype(np.uint8), "RGBA")


@functools.cache
def sprite(name: str, colour: str = "") -> Image.Image:
    """The object's artwork, RGBA, cropped to its outline, in `colour` where one is given.

    ValueError for an unknown name or colour, and for a colour on what takes none.
    """
    if name not in OBJECTS:
        raise ValueError(f"object {name!r} is not in this world; there are {', '.join(OBJECTS)}")
    art = Image.open(bundled("scenes/sprites") / f"{name}.png").convert("RGBA")
    if not colour:
        return art
    if colour not in COLOURS:
        raise ValueError(f"colour {colour!r} is not in this world; there are {', '.join(COLOURS)}")
    if name not in COLOURED:
        raise ValueError(f"a {name} takes no colour; these do: {', '.join(COLOURED)}")
    return _coloured(art, name, colour)


def _stamp(o: Placed) -> tuple[Image.Image, tuple[int, int]]:
    art = sprite(o.name, o.colour)
    scale = o.size / max(art.size)
    art = art.resize([max(1, round(s * scale)) for s in art.size], Image.Resampling.BILINEAR, reducing_gap=2)
    if o.flip:
        art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    art = art.rotate(o.tilt, Image.Resampling.BILINEAR, expand=True)
    return art, (round(o.x - art.width / 2), round(o.y - art.height / 2))


# --- scenes ------------------------------------------------------------------------------------------------------


def picture(scene: Scene) -> Image.Image:
    """The RGB picture (SIZE x SIZE) of a scene."""
    if scene.ground == "aerial":
        return aerial.draw(scene.parts, [scene.texture])[0]
    return _pasted(scene, [_stamp(o) for o in scene.objects])


def _pasted(scene: Scene, stamps: list[tuple[Image.Image, tuple[int, int]]]) -> Image.Image:
    drawn = Image.fromarray(ground(scene.ground, scene.texture))
    for art, corner in stamps:
        drawn.paste(art, corner, art)
    return drawn


def render(scene: Scene) -> tuple[Image.Image, dict[str, np.ndarray]]:
    """Draw a scene.

    Returns its `picture` and, per label (an object's name, or what `Scene.labels` says; an aerial part), the boolean
    mask (SIZE, SIZE) of its visible pixels; masks are disjoint.
    """
    if scene.ground == "aerial":
        return aerial.draw(scene.parts, [scene.texture])
    stamps = [_stamp(o) for o in scene.objects]
    masks: dict[str, np.ndarray] = {}
    for (art, corner), label in zip(stamps, scene.labels):
        alpha = Image.new("L", (SIZE, SIZE))
        alpha.paste(art.getchannel("A"), corner)
        mine = np.asarray(alpha) > 127
        for other in masks.values():
            other &= ~mine
        masks[label] = masks.get(label, False) | mine
    return _pasted(scene, stamps), masks


# --- what is true of a scene -------------------------------------------------------------------------------------


def coloured(o: Placed) -> list[str]:
    """What an object may be called by name and colour: "red ball", "ball"."""
    return [f"{o.colour_word} {o.name}", o.name] if o.colour_word else [o.name]


def phrases(o: Placed) -> list[str]:
    """What an object may be called: "small red ball", "small ball", "red ball", "ball"."""
    called = coloured(o)
    return [f"{o.size_word} {c}" for c in called] + called if o.size_word else called


def place(a: Placed, b: Placed) -> str:
    """Where `a` clearly is, seen from `b`: "left of", "right of", "above", "below", else ""."""
    way = b.x - a.x, b.y - a.y
    for name, (axis, sign) in WHERE.items():
        along, across = sign * way[axis], abs(way[1 - axis])
        if along > 0.35 * (a.size + b.size) and across < 0.6 * along:
            return name
    return ""


def places(a: Placed, b: Placed) -> frozenset[str]:
    """The facts of where `a` is, seen from `b`; "left of" and "above" stand for their reverses too."""
    where = place(a, b)
    if where in ("right of", "below"):
        return places(b, a)
    return frozenset(f"{one} {where} {other}" for one in coloured(a) for other in coloured(b) if where)


@functools.lru_cache(maxsize=4096)
def facts(scene: Scene) -> frozenset[str]:
    """All that a caption can truly claim.

    The ground ("grass"); for every phrase that fits an object, that there is one ("red ball") and how many there are
    ("2 red ball", exactly); "red ball left of dog" and "cat above dog" where some such pair lies so. Of an aerial scene
    "aerial" and its parts ("aerial river").
    """
    if scene.ground == "aerial":
        return frozenset(["aerial", "aerial fields", *(f"aerial {part}" for part in scene.parts)])
    found = [phrase for o in scene.objects for phrase in phrases(o)]
    true = {scene.ground, *found, *(f"{found.count(phrase)} {phrase}" for phrase in found)}
    for k, a in enumerate(scene.objects):
        for b in scene.objects[k + 1 :]:
            true |= places(a, b)
    return frozenset(true)


def is_true(claims: frozenset[str], scene: Scene) -> bool:
    """Whether everything a caption claims is true of the scene."""
    return claims <= facts(scene)
