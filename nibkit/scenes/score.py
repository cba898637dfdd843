"""How good a scenes model is, and the model card with those numbers in it."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clip.model import CLIP, build_model
from safetensors.torch import load_file

from .. import data
from ..data.captions import prompt, words_of
from ..models import checksum, load
from ..paths import bundled
from . import train, world

GROUP, DRAWS, SEED = 100, 20, 0  # retrieval: pictures to choose from, random groups, seed of the groups


def load_openai(path: Path) -> CLIP:
    """A scenes model from its safetensors file, float32, on the CPU, in evaluation mode."""
    return build_model(load_file(path)).float().eval()


def claims(text: str) -> frozenset[str]:
    """What a caption of this world says is there: object names, and the ground if it ends with one."""
    grounds = [name for name, phrase in world.GROUNDS.items() if text.endswith(phrase)]
    return frozenset([*words_of(text, world.FIRST).values(), *grounds])


def picture_contents(folder: str) -> list[tuple[list[str], str]]:
    """Object names and ground of every row of data/scenes/`folder`/captions.csv."""
    with open(bundled(f"scenes/{folder}/captions.csv"), encoding="utf-8", newline="") as file:
        return [(row["objects"].split(), row["ground"]) for row in csv.DictReader(file)]


@torch.no_grad()
def _embed_images(model: CLIP, pairs: data.PairDataset, batch: int = 64) -> torch.Tensor:
    """Unit image embeddings (n, E)."""
    parts = [np.stack([np.asarray(p.image) for p in pairs[i : i + batch]]) for i in range(0, len(pairs), batch)]
    return F.normalize(torch.cat([model.visual(train.normalise(part)) for part in parts]))


@torch.no_grad()
def _embed_texts(model: CLIP, texts: list[str]) -> torch.Tensor:
    """Unit text embeddings (n, E)."""
    return F.normalize(train.encode_text(model, train.tokens(texts)))


def zero_shot(similarity: np.ndarray, shown: list[str]) -> float:
    """Share of pictures whose most similar prompt names the object shown.

    similarity (n, 32): pictures by objects in the order of `world.FIRST`.
    """
    named = [world.FIRST[i] for i in similarity.argmax(1)]
    return float(np.mean([a == b for a, b in zip(named, shown)]))


def retrieval(similarity: np.ndarray, true: np.ndarray, draws: int = DRAWS, seed: int = SEED) -> tuple[float, float]:
    """Top-1 of choosing a caption's picture among 100.

    similarity (n, n): captions by pictures, caption i written for picture i; true (n, n): whether the caption holds of
    the picture. Each draw takes 100 pairs and counts only captions true of exactly one of the 100 pictures.
    Returns the mean over draws of the share found, and of the number of captions counted.
    """
    rng = np.random.default_rng(seed)
    found, counted = [], []
    for _ in range(draws):
        group = rng.choice(len(true), GROUP, replace=False)
        unique = true[np.ix_(group, group)].sum(1) == 1
        best = similarity[np.ix_(group, group)].argmax(1)
        found.append((best == np.arange(GROUP))[unique].mean())
        counted.append(unique.sum())
    return float(np.mean(found)), float(np.mean(counted))


def discrimination(similarity: np.ndarray, shown: list[list[str]]) -> float:
    """Share of (present, absent) pairs of objects in which the present one's prompt is the more similar; chance 0.5.

    similarity (n, 32): pictures by objects in the order of `world.FIRST`.
    """
    wins = []
    for row, names in zip(similarity, shown):
        present = np.array([name in names for name in world.FIRST])
        wins.append((row[present][:, None] > row[~present][None]).ravel())
    return float(np.concatenate(wins).mean())


def scores(model: CLIP) -> dict[str, float]:
    """Measure a model (on the CPU) on the bundled sets.

    zero_shot: accuracy in [0, 1] of naming the object of `scenes-objects` among all 32, `zero_shot_pictures` of them.
    retrieval: top-1 in [0, 1] of caption -> picture among 100 of `scenes-captions`, see `retrieval`;
    `retrieval_captions` is how many of the 100 captions were counted, on average.
    two_objects: on its pictures of two objects, how often a present object's prompt beats an absent one's.
    """
    singles, many = data.load("scenes-objects"), data.load("scenes-captions")
    prompts = _embed_texts(model, [prompt(name) for name in world.FIRST])
    by_object = (_embed_images(model, singles) @ prompts.T).numpy()
    pictures = _embed_images(model, many)
    by_caption = (_embed_texts(model, [p.text for p in many]) @ pictures.T).numpy()
    contents = picture_contents("captions")
    true = np.array([[claims(p.text) <= {*names, ground} for names, ground in contents] for p in many])
    top1, counted = retrieval(by_caption, true)
    two = [i for i, (names, _) in enumerate(contents) if len(names) == 2]
    return {
        "zero_shot": zero_shot(by_object, [names[0] for names, _ in picture_contents("objects")]),
        "zero_shot_pictures": len(singles),
        "retrieval": top1,
        "retrieval_captions": counted,
        "two_objects": discrimination((pictures[two] @ prompts.T).numpy(), [contents[i][0] for i in two]),
        "two_objects_pictures": len(two),
    }


def card(path: Path, measured: dict[str, float]) -> str:
    """The model card (Markdown) of the weights in `path`, with the `scores` measured on them."""
    r, m = train.Recipe(), measured
    weights = load_file(path)
    count = sum(v.numel() for v in weights.values())
    rows = [
        (
            "name the one object of a `scenes-objects` picture among all",
            f"{m['zero_shot']:.1%}",
            f"{m['zero_shot_pictures']} pictures",
            f"{1 / len(world.FIRST):.1%}",
        ),
        (
            f"find the picture of a `scenes-captions` caption among {GROUP}",
            f"{m['retrieval']:.1%}",
            f"{DRAWS} draws, {m['retrieval_captions']:.1f} captions counted in each",
            f"{1 / GROUP:.1%}",
        ),
        (
            "two objects: a present one's prompt beats an absent one's",
            f"{m['two_objects']:.1%}",
            f"{m['two_objects_pictures']} pictures",
            "50.0%",
        ),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"""# scenes: the bundled model and its world

<!-- written by `python -m nibkit.scenes score --card`; do not edit -->

`model.safetensors` is a small CLIP trained from scratch on drawn pictures, so that nibkit runs without a network and
explanations can be checked against known truth. It is not one of OpenAI's models.

## Model

OpenAI's architecture and key names (`clip.model.build_model` takes the file), small: {world.SIZE} x {world.SIZE}
pictures, patch 32 (a 7 x 7 grid), {train.BLOCKS} + {train.BLOCKS} blocks, width {train.WIDTH}, CLIP's own vocabulary and
{train.CONTEXT} token positions. {count / 1e6:.1f} million weights in float16, {path.stat().st_size / 1e6:.1f} MB;
token rows that no caption uses are zero.
SHA-256 of the file: `{hashlib.sha256(path.read_bytes()).hexdigest()}`;
tables and pages name the same weights by their CRC-32, `{checksum(load(str(path), device="cpu"))}`.

## World

One to three of {len(world.FIRST)} objects, at random size, place, tilt and flip, on one of {len(world.GROUNDS)}
textured grounds.

* Objects: {", ".join(world.FIRST)}.
* Grounds: {", ".join(world.GROUNDS.values())}.
* Captions: "a cat and a dog on grass", "there is an owl, a bus and a tree", "a photo of a pizza at night".

## Data sets

| folder | rows | what | `nibkit.data.load` |
|---|---|---|---|
| `objects` | {len(picture_contents("objects"))} | one object, "a photo of a {{name}}" | `"scenes-objects"` |
| `captions` | {len(picture_contents("captions"))} | one to three objects, a caption that names all of them | `"scenes-captions"` |
| `cat-and-dog` | {len(picture_contents("cat-and-dog"))} | one picture under three captions: Figure 1 | `"cat-and-dog"` |

Each has pixel masks, and each caption's words are tied to the objects they name. `python -m nibkit.scenes datasets`
writes the same pixels again.

## Training

`python -m nibkit.scenes train`: {r.steps} steps of {r.batch} fresh pictures, AdamW (betas 0.9, 0.98; weight decay
{r.weight_decay}), rate {r.lr} with {r.warmup} warm-up steps and cosine decay, gradient norm clipped at {r.clip_norm},
CLIP's contrastive loss with the credit shared among all captions that are true of a picture. Mostly single objects for
the first {r.easy:.0%} of the steps; {r.partial:.0%} of the captions of several objects leave one out. Then {r.finishes}
times {r.finish} steps more, each from a rate of {r.finish_lr}; the mean of the weights at their ends is kept. Seed {r.seed}.

Left alone, so small a model gathers everything in CLS and EOS within a few blocks, and nothing that enters block 9 but
these two matters: the maps of every method that cuts there would be empty. So in training CLS and EOS go back to their
first state before a block drawn at random (for half of the pictures in these last steps) and must read
patches or words again. Nothing of this remains when the model is used.

## Scores

| task | score | measured on | chance |
|---|---|---|---|
{table}

A caption counts in retrieval only when it is true of exactly one of the {GROUP} pictures, so nearly all that count name
two or three objects.

## Limits

* Held out means new places, sizes and ground patterns. Objects, their artwork and the grounds are those of training.
* Words outside this world, and sentences unlike the captions above or longer than them, mean nothing to the model.
* No people, no photographs: nothing here says how real CLIP does. Never present its numbers as ViT-B/32's.

## Licence

The artwork is from Noto Color Emoji, see NOTICE at the top of the repository; the rest is under the repository's
LICENSE.
"""
