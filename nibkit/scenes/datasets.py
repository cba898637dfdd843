"""Evaluation sets. `scenes-objects`, `scenes-captions` and Figure 1's cat-and-dog picture are shipped and show the
first 32 objects; `scenes-world` and `aerial` are drawn when asked for and show all of the world.

Item i of a set is a function of (seed, i). Item i of the shipped sets shows object i % 32, or 1 + i % 3 objects, so
every beginning of a set is about as balanced as the whole. Training never sees these ground textures.

One folder per shipped set: captions.csv (image, text, mask, objects, ground), pictures/ and masks/. A mask file holds 0
for the ground and k for the k-th name of the row's `objects`.
"""

import csv
import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data import Pair, PairDataset
from ..data.captions import article, prompt
from . import aerial, world
from .language import JOINTS, OPENINGS

TEXTURES = range(2000, 2048)  # training draws from range(48), its zero-shot checks from range(1000, 1048)
COLUMNS = ["image", "text", "mask", "objects", "ground"]
PALETTE = [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)]  # only for a person who opens a mask file


@dataclass(frozen=True)
class Example:
    """One row of a set: the file stem of its picture, what is drawn there, the caption, and what it claims."""

    stem: str
    scene: world.Scene
    text: str
    claims: frozenset[str]


def describe(scene: world.Scene, rng: np.random.Generator, partial: float = 0.0) -> tuple[str, frozenset[str]]:
    """A caption as in scenes-captions, the objects by their names and perhaps the ground, and what it claims.

    With probability `partial` one object of several is left out, as people do.
    """
    names = [scene.names[i] for i in rng.permutation(len(scene.names))]
    if len(names) > 1 and rng.random() < partial:
        names = names[:-1]
    opening, joint = str(rng.choice(OPENINGS)), str(rng.choice(JOINTS))
    if len(names) > 2:
        joint = " and "
    things = [article(n) for n in names]
    text = things[0] if len(things) == 1 else joint.join([", ".join(things[:-1]), things[-1]])
    if rng.random() < 0.5:
        return f"{opening}{text}", frozenset(names)
    return f"{opening}{text} {world.GROUNDS[scene.ground]}", frozenset([*names, scene.ground])


def objects(n: int = 256, seed: int = 2) -> list[Example]:
    """`n` pictures of one object each, the first 32 objects in turn: the role ImageNet plays in the paper."""
    found = []
    for i in range(n):
        scene = world.random_scene(np.random.default_rng([seed, i]), 1, TEXTURES, world.FIRST)
        name = world.FIRST[i % len(world.FIRST)]
        scene = replace(scene, objects=(replace(scene.objects[0], name=name),))
        found.append(Example(f"{i:04d}", scene, prompt(name), frozenset([name])))
    return found


def captions(n: int = 240, seed: int = 3) -> list[Example]:
    """`n` pictures of one, two, three, one, ... objects with complete captions, no caption twice: Flickr8k's role."""
    found, seen = [], set()
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        while True:
            scene = world.random_scene(rng, 1 + i % 3, TEXTURES, world.FIRST)
            text, claims = describe(scene, rng)
            if text not in seen:
                break
        seen.add(text)
        found.append(Example(f"{i:04d}", scene, text, claims))
    return found


def cat_and_dog() -> list[Example]:
    """Figure 1: the same picture under three captions."""
    said = {"a cat and a dog": ("cat", "dog"), "a dog": ("dog",), "a cat": ("cat",)}
    return [Example("0000", world.CAT_AND_DOG, text, frozenset(names)) for text, names in said.items()]


SETS = {"objects": objects, "captions": captions, "cat-and-dog": cat_and_dog}  # folder name -> builder


# --- drawn when asked for ----------------------------------------------------------------------------------------


def whole_world(n: int = 240, seed: int = 4) -> list[Example]:
    """`n` pictures of all of the world but aerial scenes: 2k and 2k + 1 are twins, each caption false of the other."""
    found = []
    for i in range(n):
        rng = np.random.default_rng([seed, i // 2])
        scene = world.invent(rng, TEXTURES)
        twins = scene, world.variant(scene, rng)
        one, other = twins if i % 2 == 0 else twins[::-1]
        rng, about = np.random.default_rng([seed, i // 2, i % 2]), world.facts(one) - world.facts(other)
        found.append(Example(f"{i:04d}", one, *world.describe(one, rng, about, partial=0)))
    return found


def landscapes(n: int = 96, seed: int = 5) -> list[Example]:
    """`n` aerial pictures of one, two, three, one, ... parts, each part in turn, and captions that name all."""
    found, names = [], list(aerial.PARTS)
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        scene = world.landscape(rng, names[i % len(names)], 1 + i % 3)
        found.append(Example(f"{i:04d}", scene, *world.describe(scene, rng, partial=0)))
    return found


def _masks(scene: world.Scene) -> dict[str, np.ndarray]:
    return world.render(scene)[1]


DRAWN = {"scenes-world": whole_world, "aerial": landscapes}  # name for data.load -> builder


def drawn(name: str) -> PairDataset:
    """A set of DRAWN as pairs; a picture is drawn when it is asked for. Ids are "NAME/0000" and so on."""
    return PairDataset(name, [_pair(name, example) for example in DRAWN[name]()])


def _pair(name: str, e: Example) -> Pair:
    draw, masks = functools.partial(world.picture, e.scene), functools.partial(_masks, e.scene)
    return Pair(f"{name}/{e.stem}", e.text, draw, masks, world.words(e.text, e.scene))


# --- files -------------------------------------------------------------------------------------------------------


def label_map(masks: dict[str, np.ndarray]) -> Image.Image:
    """Disjoint boolean masks as one palette image: k where the k-th mask is true, 0 elsewhere."""
    labels = sum(k * mask.astype(np.uint8) for k, mask in enumerate(masks.values(), 1))
    image = Image.fromarray(labels)
    image.putpalette([channel for colour in PALETTE for channel in colour])
    return image


def write(examples: list[Example], folder: Path) -> None:
    """Write one set into `folder`, over what is there.

    Pictures are lossless WebP: exact like PNG, at 0.7 of its size here (15 MB for the shipped sets where PNG takes 21).
    """
    for part in ("pictures", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with open(folder / "captions.csv", "w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        rows.writeheader()
        for e in examples:
            picture, masks = world.render(e.scene)
            image, mask = f"pictures/{e.stem}.webp", f"masks/{e.stem}.png"
            picture.save(folder / image, lossless=True, method=6)
            label_map(masks).save(folder / mask, optimize=True)
            names = " ".join(e.scene.names)
            rows.writerow(dict(zip(COLUMNS, (image, e.text, mask, names, e.scene.ground))))


def extract_sprites(font: Path, folder: Path) -> None:
    """Draw every object's artwork with the Noto Color Emoji font and write it to `folder`/NAME.png."""
    if not font.is_file():
        raise FileNotFoundError(
            f"no font at {font}; install Debian's package fonts-noto-color-emoji, or give the path of "
            "NotoColorEmoji.ttf with --font"
        )
    face = ImageFont.truetype(str(font), 109)  # the one size its bitmaps exist in
    folder.mkdir(parents=True, exist_ok=True)
    for name, symbol in world.OBJECTS.items():
        sheet = Image.new("RGBA", (160, 160))
        ImageDraw.Draw(sheet).text((8, 8), symbol, font=face, embedded_color=True)
        sheet.crop(sheet.getbbox()).save(folder / f"{name}.png", optimize=True)
