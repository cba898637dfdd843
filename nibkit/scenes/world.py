"""The scenes world: scenes invented at random, and twins of them that differ in one thing.

A `Scene` says what is where; `render` draws it; `describe` writes a caption and says what it claims; `is_true` tells
whether that holds of another scene. Everything is a function of a seeded generator, so the same seed gives the same
pictures byte for byte.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..data.captions import prompt
from . import aerial
from .drawing import COLOURED, COLOURS, FIRST, OBJECTS, Placed, Scene, facts, is_true, picture, place, render
from .grounds import GROUNDS, SIZE
from .language import WORDS, describe, groups, sayable, words

__all__ = [
    "FIRST",
    "GROUNDS",
    "OBJECTS",
    "SIZE",
    "WORDS",
    "Placed",
    "Sample",
    "Scene",
    "counterpart",
    "describe",
    "facts",
]
__all__ += ["invent", "is_true", "landscape", "picture", "random_scene", "render", "sample", "twin", "variant", "words"]

FACTS = 48  # no invented scene has more facts
MOST = 4  # objects in a scene
GROUPS = ((1,), (2,), (3,), (4,), (1, 1), (1, 1), (1, 1), (1, 2), (1, 3), (2, 2), (1, 1, 1), (1, 1, 2), (1, 1, 1, 1))
TWO = ("colour", "size")  # what may tell two groups of one name apart
BLENDS = {"grass": "green", "sand": "yellow", "water": "blue", "snow": "white", "night": "black", "brick": "red"}


class Sample(NamedTuple):
    """A picture (SIZE, SIZE, 3) uint8, captions of it, what each claims, and the facts of its scene."""

    picture: np.ndarray
    texts: list[str]
    claims: list[frozenset[str]]
    facts: frozenset[str]


def random_scene(
    rng: np.random.Generator, n: int = 1, textures: range = range(48), names: tuple[str, ...] = tuple(OBJECTS)
) -> Scene:
    """A scene of `n` different objects (1 to 3), uncoloured, that stay inside the picture and overlap little."""
    chosen = rng.choice(list(names), n, replace=False)
    low, high = {1: (88, 170), 2: (76, 112), 3: (66, 92)}[n]
    placed: list[Placed] = []
    for name in chosen:
        size = rng.uniform(low, high)
        for _ in range(40):  # the last try stands even where it overlaps a little
            x, y = rng.uniform(size / 2, SIZE - size / 2, 2)
            if all(max(abs(x - p.x), abs(y - p.y)) > 0.8 * (size + p.size) / 2 for p in placed):
                break
        placed.append(Placed(str(name), x, y, size, rng.uniform(-25, 25), bool(rng.random() < 0.5)))
    return Scene(str(rng.choice(list(GROUNDS))), tuple(placed), int(rng.integers(textures.start, textures.stop)))


# --- inventing ---------------------------------------------------------------------------------------------------


def _one(rng: np.random.Generator, options):
    """One of a sequence, each as likely; faster than rng.choice and with any type."""
    return options[int(rng.integers(len(options)))]


def _put(rng: np.random.Generator, o: Placed, others: list[Placed], tries: int = 30) -> Placed | None:
    """The object at a place where it touches no other and stays inside; None where none is found."""
    for _ in range(tries):
        x, y = rng.uniform(o.size / 2, SIZE - o.size / 2, 2)
        if len(others) == 1 and rng.random() < 0.5:  # beside or above it
            x, y = (x, y + 0.8 * (others[0].y - y)) if rng.random() < 0.5 else (x + 0.8 * (others[0].x - x), y)
            x, y = np.clip((x, y), o.size / 2, SIZE - o.size / 2)
        if all(max(abs(x - p.x), abs(y - p.y)) > 0.88 * (o.size + p.size) / 2 for p in others):
            return replace(o, x=float(x), y=float(y), tilt=float(rng.uniform(-25, 25)), flip=bool(rng.random() < 0.5))
    return None


def _colour(rng: np.random.Generator, name: str) -> str:
    """A colour for the name: "" for what takes none, and one time in four for what does and has a word for its own."""
    if name not in COLOURED or (COLOURED[name][0] and rng.random() < 0.25):
        return ""
    return _one(rng, list(COLOURS))


def _size(rng: np.random.Generator, word: str, total: int) -> float:
    """Pixels of an object that is called "small", "large" or neither, among `total` objects."""
    low, high = {"small": (38, 50), "large": (106, 150 if total == 1 else 116), "": (60, 96 if total < 3 else 80)}[word]
    return float(rng.uniform(low, high))


def _kinds(rng: np.random.Generator, counts: tuple[int, ...]) -> list[tuple[str, str, str]]:
    """Name, colour and word of size of each group; two groups of four may be of one name, told apart by one of TWO."""
    total, kinds = sum(counts), []
    names = list(OBJECTS)
    for n in counts:
        known = {name for name, _, _ in kinds}
        pool = [name for name in (COLOURED if rng.random() < 0.4 else names) if name not in known]
        name = _one(rng, pool)
        roomy = total < 3 or (n == 1 and all(size != "large" for _, _, size in kinds))
        sizes = ["", "", "small", "large"] if roomy else ["", "small"]
        kinds.append((name, _colour(rng, name), _one(rng, sizes)))
    if len(counts) > 1 and rng.random() < 0.25:
        (name, colour, _), how = kinds[0], _one(rng, TWO)
        if how == "colour" and name in COLOURED:
            first, second = rng.permutation(list(COLOURS))[:2]
            kinds[:2] = (name, str(first), ""), (name, str(second), "")
        elif how == "size" and total < 4 and counts[0] == 1:
            kinds[:2] = (name, colour, "large"), (name, colour, "small")
            kinds[2:] = [(other, paint, "") for other, paint, _ in kinds[2:]]
    return kinds


def _lost(objects: Iterable[Placed], ground: str) -> bool:
    """Whether an object has the colour of the ground."""
    return any(o.colour_word == BLENDS[ground] for o in objects)


def _ground(rng: np.random.Generator, objects, but: str = "") -> str | None:
    """A ground in which no object's colour is lost, and not `but`; None where there is none."""
    fit = [ground for ground in GROUNDS if ground != but and not _lost(objects, ground)]
    return _one(rng, fit) if fit else None


def invent(rng: np.random.Generator, textures: range = range(48)) -> Scene:
    """A scene of one to four objects in up to four groups, with colours, sizes and counts, none touching another."""
    while True:
        counts = _one(rng, GROUPS)
        todo = [
            Placed(name, 0, 0, _size(rng, size, sum(counts)), colour=colour)
            for n, (name, colour, size) in zip(counts, _kinds(rng, counts))
            for _ in range(n)
        ]
        placed: list[Placed] = []
        for o in sorted(todo, key=lambda o: -o.size):  # the largest finds its place first
            if (put := _put(rng, o, placed)) is None:
                break
            placed.append(put)
        lies = _ground(rng, placed)
        scene = Scene(lies or "", tuple(placed), int(rng.integers(textures.start, textures.stop)))
        if lies and len(placed) == len(todo) and len(facts(scene)) <= FACTS:
            return scene


def landscape(rng: np.random.Generator, part: str = "", n: int = 0) -> Scene:
    """An aerial scene of `n` parts (0: one to three), `part` among them."""
    others = [str(other) for other in rng.permutation(list(aerial.PARTS)) if other != part]
    parts = ([part] if part else []) + others
    return Scene("aerial", (), int(rng.integers(2**31)), tuple(parts[: n or int(rng.integers(1, 4))]))


# --- the same with one change ------------------------------------------------------------------------------------


def _swapped(scene: Scene, old: list[Placed], new: list[Placed | None]) -> Scene | None:
    """The scene with objects `new` in place of `old`; None where one found no place."""
    if None in new:
        return None
    if len(old) == len(new):  # in the same order
        exchange = dict(zip(map(id, old), new))
        return replace(scene, objects=tuple(exchange.get(id(o), o) for o in scene.objects))
    kept = [o for o in scene.objects if not any(o is gone for gone in old)]
    return replace(scene, objects=(*kept, *new))


def _other_colour(scene: Scene, rng: np.random.Generator, group: list[Placed]) -> Scene | None:
    name = group[0].name
    used = {o.colour_word for o in scene.objects if o.name == name} | {BLENDS[scene.ground]}
    if name not in COLOURED or not group[0].colour_word:
        return None
    colour = _one(rng, [c for c in COLOURS if c not in used])
    return _swapped(scene, group, [replace(o, colour=colour) for o in group])


def _other_size(scene: Scene, rng: np.random.Generator, group: list[Placed]) -> Scene | None:
    others = [o for o in scene.objects if not any(o is mine for mine in group)]
    if not group[0].size_word or any(o.name == group[0].name for o in others):
        return None
    size, new = _size(rng, "large" if group[0].size_word == "small" else "small", 2), []
    for o in group:
        o = replace(o, size=size)
        inside = size / 2 <= min(o.x, o.y) and max(o.x, o.y) <= SIZE - size / 2
        free = all(max(abs(o.x - p.x), abs(o.y - p.y)) > 0.88 * (size + p.size) / 2 for p in others + new)
        new.append(o if inside and free else _put(rng, o, others + new))
        if new[-1] is None:
            return None
    return _swapped(scene, group, new)


def _other_count(scene: Scene, rng: np.random.Generator, group: list[Placed]) -> Scene | None:
    if len(group) > 1 and (rng.random() < 0.5 or len(scene.objects) == MOST):
        return _swapped(scene, group, group[:-1])
    if len(scene.objects) == MOST:
        return None
    return _swapped(scene, group, [*group, _put(rng, group[0], list(scene.objects))])


def _other_object(scene: Scene, rng: np.random.Generator, group: list[Placed]) -> Scene | None:
    o, names = group[0], [name for name in OBJECTS if name not in scene.names]
    if o.name in COLOURED and rng.random() < 0.6:
        names = [name for name in names if name in COLOURED]
    name = _one(rng, names)
    return _swapped(scene, group, [replace(o, name=name, colour=o.colour if name in COLOURED else "") for o in group])


def _other_place(scene: Scene, rng: np.random.Generator, group: list[Placed]) -> Scene | None:
    """Mirrored, so that left is right, or what was above is below."""
    where = {place(group[0], o) for o in scene.objects if o is not group[0]} - {""}
    if len(group) > 1 or not where:
        return None
    axis = "x" if _one(rng, sorted(where)).endswith("of") else "y"
    return replace(scene, objects=tuple(replace(o, **{axis: SIZE - getattr(o, axis)}) for o in scene.objects))


def _other_ground(scene: Scene, rng: np.random.Generator, group: list[Placed]) -> Scene | None:
    lies = _ground(rng, scene.objects, but=scene.ground)
    return replace(scene, ground=lies) if lies else None


CHANGES = (_other_colour,) * 2 + (_other_size, _other_count, _other_object) + (_other_place,) * 2 + (_other_ground,)


def variant(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene with one change: another colour, size, count, object, place or ground, or another aerial part.

    A caption can say of either what is false of the other: `describe(scene, rng, facts(scene) - facts(other))`.
    """
    if scene.ground == "aerial":
        k, parts = int(rng.integers(len(scene.parts))), list(scene.parts)
        parts[k] = _one(rng, [part for part in aerial.PARTS if part not in parts])
        return replace(scene, parts=tuple(parts))
    while True:
        for k in rng.permutation(len(CHANGES)):
            other = CHANGES[k](scene, rng, _one(rng, groups(scene)))
            if not other or len(facts(other)) > FACTS or _lost(other.objects, other.ground):
                continue
            if sayable(scene) - facts(other) and sayable(other) - facts(scene):
                return other


def twin(seed: int, i: int, textures: range = range(48)) -> tuple[Scene, Scene]:
    """Scene i of a seed and a `variant` of it; one of eight is aerial."""
    rng = np.random.default_rng([seed, i])
    scene = landscape(rng) if rng.random() < 0.125 else invent(rng, textures)
    return scene, variant(scene, rng)


# --- for training ------------------------------------------------------------------------------------------------


def sample(seed: int, i: int, captions: int = 2) -> list[Sample]:
    """Two pictures with `captions` captions each: item i of what training sees, a function of (seed, i).

    A quarter: two single objects, the first caption "a photo of a NAME"; one of seven: two scenes of one to three
    uncoloured objects; else a `twin`, whose captions but for the last tell it from the other.
    """
    rng = np.random.default_rng([seed, i])
    kind = rng.random()
    if kind < 0.4:
        n = 1 if kind < 0.25 else int(rng.integers(1, 4))
        scenes = [random_scene(rng, n) if n > 1 or rng.random() < 0.6 else _single(rng) for _ in range(2)]
        return [_sample(scene, rng, captions, frozenset(), kind < 0.25) for scene in scenes]
    scene = landscape(rng) if kind < 0.52 else invent(rng)
    other = variant(scene, rng)
    one, two = facts(scene), facts(other)
    return [_sample(scene, rng, captions, one - two), _sample(other, rng, captions, two - one)]


def _single(rng: np.random.Generator) -> Scene:
    """One object of any size."""
    o = Placed(_one(rng, list(OBJECTS)), 0, 0, float(rng.uniform(40, 150)))
    o = _put(rng, replace(o, colour=_colour(rng, o.name)), [])
    return Scene(_ground(rng, [o]), (o,), int(rng.integers(48)))


def _sample(scene: Scene, rng: np.random.Generator, captions: int, about: frozenset, named: bool = False) -> Sample:
    said = [describe(scene, rng, about if k < captions - 1 or captions == 1 else ()) for k in range(captions)]
    if named:
        said[0] = prompt(scene.names[0]), frozenset(scene.names)
    texts, claims = zip(*said)
    return Sample(np.asarray(picture(scene)), list(texts), list(claims), facts(scene))


# --- Figure 1 ----------------------------------------------------------------------------------------------------

CAT_AND_DOG = Scene("grass", (Placed("cat", 62, 118, 100), Placed("dog", 160, 116, 104, flip=True)), texture=7)


def counterpart(scene: Scene, name: str) -> Scene:
    """The same scene with one object taken away: what a caption naming it should no longer fit.

    >>> counterpart(CAT_AND_DOG, "cat").names
    ('dog',)
    """
    return replace(scene, objects=tuple(o for o in scene.objects if o.name != name))
