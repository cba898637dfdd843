"""The bundled evaluation sets: `scenes-objects`, `scenes-captions` and the cat-and-dog picture of Figure 1.

Item i of a set is a function of (seed, i), and item i shows object i % 32, or 1 + i % 3 objects, so every beginning of
a set is about as balanced as the whole. Training never sees these ground textures.

One folder per set: captions.csv (image, text, mask, objects, ground), pictures/ and masks/. A mask file holds 0 for the
ground and k for the k-th name of the row's `objects`.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.captions import prompt
from . import world

TEXTURES = range(2000, 2048)  # training draws from range(48), its zero-shot checks from range(1000, 1048)
COLUMNS = ["image", "text", "mask", "objects", "ground"]
PALETTE = [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)]  # only for a person who opens a mask file


@dataclass(frozen=True)
class Example:
    """One row of a set: the file stem of its picture, what is drawn there, and the caption."""

    stem: str
    scene: world.Scene
    text: str


def objects(n: int = 256, seed: int = 2) -> list[Example]:
    """`n` pictures of one object each, all 32 objects in turn: the role ImageNet plays in the paper."""
    found = []
    for i in range(n):
        scene = world.random_scene(np.random.default_rng([seed, i]), 1, TEXTURES)
        name = list(world.OBJECTS)[i % len(world.OBJECTS)]
        scene = replace(scene, objects=(replace(scene.objects[0], name=name),))
        found.append(Example(f"{i:04d}", scene, prompt(name)))
    return found


def captions(n: int = 240, seed: int = 3) -> list[Example]:
    """`n` pictures of one, two, three, one, ... objects with complete captions, no caption twice: Flickr8k's role."""
    found, seen = [], set()
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        while True:
            scene = world.random_scene(rng, 1 + i % 3, TEXTURES)
            text, _ = world.describe(scene, rng)
            if text not in seen:
                break
        seen.add(text)
        found.append(Example(f"{i:04d}", scene, text))
    return found


def cat_and_dog() -> list[Example]:
    """Figure 1: the same picture under three captions."""
    return [Example("0000", world.CAT_AND_DOG, text) for text in ("a cat and a dog", "a dog", "a cat")]


SETS = {"objects": objects, "captions": captions, "cat-and-dog": cat_and_dog}  # folder name -> builder


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
