"""Captions of scenes: what they say, what that claims, and which of their words name what.

A caption says something of some of a scene's groups (the objects of one label): "a cat", "two red balls", "one small
ball"; of two of them perhaps where one is seen from the other; and perhaps the ground. Each thing said is a claim, one
of the scene's `facts`.
"""

import functools
from collections.abc import Iterable

import numpy as np

from ..data.captions import article, words_of
from . import aerial
from .drawing import COLOURS, OBJECTS, WHERE, Placed, Scene, coloured, facts, phrases, place
from .grounds import GROUNDS

LONGEST = 22  # words and commas of a caption; each is one token of CLIP's, and the two ends are two more
NUMBERS = {2: "two", 3: "three", 4: "four"}
IRREGULAR = {"fish": "fish", "sheep": "sheep", "mouse": "mice", "leaf": "leaves", "snowman": "snowmen"}
OPENINGS = ("", "", "a photo of ", "a picture of ", "there is ")
JOINTS = (" and ", " and ", " next to ", " with ")
ADJECTIVES = (*COLOURS, "small", "large")


def plural(phrase: str) -> str:
    """Two of what one `phrase` is: "small mouse" -> "small mice".

    >>> [plural(name) for name in ("red ball", "butterfly", "key", "box", "sheep")]
    ['red balls', 'butterflies', 'keys', 'boxes', 'sheep']
    """
    *adjectives, name = phrase.split()
    if name in IRREGULAR:
        many = IRREGULAR[name]
    elif name[-1] == "y" and name[-2] not in "aeiou":
        many = name[:-1] + "ies"
    else:
        many = name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")
    return " ".join([*adjectives, many])


SINGULAR = {plural(name): name for name in OBJECTS} | {name: name for name in OBJECTS}
SAID = (*GROUNDS.values(), *OPENINGS, *JOINTS, *aerial.PHRASES, *WHERE, "to the", "a an one are among ,")
WORDS = (*SINGULAR, *ADJECTIVES, *NUMBERS.values(), *aerial.PARTS, *" ".join(SAID).replace("{}", "").split())


def groups(scene: Scene) -> list[list[Placed]]:
    """The objects of each label."""
    found: dict[str, list[Placed]] = {}
    for o, label in zip(scene.objects, scene.labels):
        found.setdefault(label, []).append(o)
    return list(found.values())


def fits(phrase: str, label: str) -> bool:
    """Whether a phrase says all that a label does: "small red ball" says "red ball"."""
    return set(label.split()) <= set(phrase.split())


# --- what can be said --------------------------------------------------------------------------------------------


def _of_group(group: list[Placed], label: str) -> list[tuple[str, str]]:
    """(words, claim) of all that can be said of a group: how it is called, and how many there are."""
    called, n = [p for p in phrases(group[0]) if fits(p, label)], len(group)
    if n > 1:
        return [(f"{NUMBERS[n]} {plural(p)}", f"{n} {p}") for p in called]
    return [(article(p), p) for p in called] + [(f"one {p}", f"1 {p}") for p in called]


def _of_places(one: list[Placed], other: list[Placed], labels: tuple[str, str]) -> list[tuple[str, str]]:
    """(words, claim) of where the one object is, seen from the other; none where that is not clear."""
    if len(one) > 1 or len(other) > 1 or not (where := place(one[0], other[0])):
        return []
    a, b = ([p for p in coloured(o[0]) if fits(p, label)] for o, label in zip((one, other), labels))
    said = [where, f"to the {where}"] if where.endswith("of") else [where]
    found = []
    for x in a:
        for y in b:
            claim = f"{x} {where} {y}"
            if where in ("right of", "below"):
                claim = f"{y} {'left of' if where == 'right of' else 'above'} {x}"
            found += [(f"{article(x)} {words} {article(y)}", claim) for words in said]
    return found


def _options(scene: Scene) -> tuple[dict[str, list], list[list]]:
    """(words, claim) of all that can be said: of each label's group, and of each two of them."""
    said = dict(zip(dict.fromkeys(scene.labels), groups(scene)))
    of_pairs = [_of_places(said[a], said[b], (a, b)) for a in said for b in said if a != b]
    return {label: _of_group(group, label) for label, group in said.items()}, list(filter(None, of_pairs))


@functools.lru_cache(maxsize=4096)
def sayable(scene: Scene) -> frozenset[str]:
    """Those facts of a scene that a caption can claim."""
    if scene.ground == "aerial":
        return facts(scene)
    of_groups, of_pairs = _options(scene)
    return frozenset([scene.ground, *(claim for options in [*of_groups.values(), *of_pairs] for _, claim in options)])


def _pick(rng: np.random.Generator, options: list[tuple[str, str]]) -> tuple[str, str]:
    """One of the options, the plainer the likelier."""
    weights = np.array([0.15 if words.startswith("one ") else 0.5 ** (len(words.split()) - 1) for words, _ in options])
    return options[rng.choice(len(options), p=weights / weights.sum())]


# --- captions ----------------------------------------------------------------------------------------------------


def describe(
    scene: Scene, rng: np.random.Generator, about: Iterable[str] = (), partial: float = 0.15
) -> tuple[str, frozenset[str]]:
    """A caption of the scene, and what it claims: some of `facts(scene)`.

    about: facts of which the caption claims at least one, where it can say any of them; `facts(scene) - facts(twin)`
    make it false of the twin. With probability `partial` one object or group of several is left out, as people do.
    """
    about = frozenset(about)
    if scene.ground == "aerial":
        return aerial.describe(scene.parts, rng, {fact.removeprefix("aerial ") for fact in about}, partial)
    of_groups, of_pairs = _options(scene)
    labels = [list(of_groups)[i] for i in rng.permutation(len(of_groups))]
    narrowed = {label: kept for label in labels if (kept := [o for o in of_groups[label] if o[1] in about])}
    telling = [kept for options in of_pairs if (kept := [o for o in options if o[1] in about])]
    if about and telling and (not narrowed or rng.random() < 0.5):
        return _finish(scene, rng, [_pick(rng, telling[rng.integers(len(telling))])], "", about)
    if not about and of_pairs and rng.random() < 0.4:
        return _finish(scene, rng, [_pick(rng, of_pairs[rng.integers(len(of_pairs))])], "", about)
    first = [list(narrowed)[rng.integers(len(narrowed))]] if narrowed else labels[:1]
    rest = [label for label in labels if label not in first]
    if rest and rng.random() < partial:
        rest = rest[1:]
    options = [narrowed.get(label, of_groups[label]) for label in first] + [of_groups[label] for label in rest]
    things = [_pick(rng, choice) for choice in options]
    return _finish(scene, rng, things, str(rng.choice(JOINTS)) if len(things) == 2 else " and ", about)


def _finish(
    scene: Scene, rng: np.random.Generator, things: list[tuple[str, str]], joint: str, about
) -> tuple[str, frozenset[str]]:
    """The things said, `things[0]` for certain, as one caption of at most LONGEST words and commas."""
    opening = str(rng.choice(OPENINGS))
    ground = f" {GROUNDS[scene.ground]}" if scene.ground in about or rng.random() < 0.5 else ""
    kept = list(things)
    while True:
        shuffled = [kept[i] for i in rng.permutation(len(kept))] if len(kept) > 1 else kept
        words = [w for w, _ in shuffled]
        text = words[0] if len(words) == 1 else joint.join([", ".join(words[:-1]), words[-1]])
        if opening == "there is " and words[0].startswith(tuple(NUMBERS.values())):
            opening = "there are "
        whole = f"{opening}{text}{ground}"
        if len(whole.replace(",", " ,").split()) <= LONGEST:
            return whole, frozenset([claim for _, claim in kept] + ([scene.ground] if ground else []))
        if opening:
            opening = ""
        else:
            kept = kept[:-1]


def words(text: str, scene: Scene) -> dict[int, str]:
    """Position of each word that names something of the scene, or its colour or size -> the label of its mask.

    >>> from nibkit.scenes.drawing import Placed, Scene
    >>> two = Scene("grass", (Placed("ball", 50, 50, 40, colour="red"), Placed("ball", 150, 50, 40, colour="blue")))
    >>> words("a red ball left of one small blue ball", two)
    {1: 'red ball', 2: 'red ball', 6: 'blue ball', 7: 'blue ball', 8: 'blue ball'}
    """
    if scene.ground == "aerial":
        return words_of(text, ("fields", *scene.parts))
    found, split = {}, [w.strip(",.").lower() for w in text.split()]
    for i, word in enumerate(split):
        if word not in SINGULAR:
            continue
        start = i
        while start and split[start - 1] in ADJECTIVES:
            start -= 1
        said = " ".join([*split[start:i], SINGULAR[word]])
        label = next((own for o, own in zip(scene.objects, scene.labels) if fits(phrases(o)[0], said)), None)
        if label:
            found |= dict.fromkeys(range(start, i + 1), label)
    return found
