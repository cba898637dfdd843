"""How good a model of this world is, where in it the evidence lies, and the model card that says so.

table = scores(nibkit.load("scenes"))  # a row per property: value, low, high, n, goal, chance
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from scipy.stats import binomtest

from .. import data
from ..data.captions import prompt
from ..metrics.stats import mean_interval
from ..models import Clip, checksum, load
from . import aerial, datasets, evidence, world

GROUP, DRAWS, SINGLES, WORLD = (
    100,
    20,
    1024,
    480,
)  # retrieval: pictures to choose from, draws; pictures of single objects; of twins
KINDS = ("ground", "object", "colour", "size", "count", "place")  # what a caption of a twin turns on
LATE_GOALS = {
    ("image", 3): 0.90,
    ("image", 6): 0.80,
    ("image", 9): 0.65,
    ("text", 3): 0.75,
    ("text", 6): 0.70,
    ("text", 9): 0.65,
}


def share(right: Sequence[bool]) -> dict[str, float]:
    """value, low, high (95 % Wilson interval) and n of a share of independent successes.

    >>> {key: round(value, 3) for key, value in share([True] * 97 + [False] * 3).items()}
    {'value': 0.97, 'low': 0.915, 'high': 0.99, 'n': 100}
    """
    found = binomtest(int(np.sum(right)), len(right)).proportion_ci(method="wilson")
    return {"value": float(np.mean(right)), "low": float(found.low), "high": float(found.high), "n": len(right)}


def averaged(values: Sequence[float]) -> dict[str, float]:
    """value, low, high (95 % bootstrap interval) and n of a mean over pictures or captions."""
    found = mean_interval(values)
    return {"value": found.pop("mean"), **found}


def retrieval(similarity: np.ndarray, true: np.ndarray, seed: int = 0) -> np.ndarray:
    """How often each caption finds its picture among GROUP: (n,), in 0 .. 1; nan for a caption never counted.

    similarity (n, n): captions by pictures, caption i written for picture i; true (n, n): whether the caption holds of
    the picture. Each of DRAWS draws takes GROUP pairs and counts only captions true of exactly one of their pictures.
    """
    rng = np.random.default_rng(seed)
    found, counted = np.zeros(len(true)), np.zeros(len(true))
    for _ in range(DRAWS):
        group = rng.choice(len(true), GROUP, replace=False)
        unique = true[np.ix_(group, group)].sum(1) == 1
        best = similarity[np.ix_(group, group)].argmax(1) == np.arange(GROUP)
        found[group] += unique & best
        counted[group] += unique
    return np.divide(found, counted, out=np.full(len(true), np.nan), where=counted > 0)


def discrimination(similarity: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Per picture, the share of (present, absent) pairs in which the present one's prompt is the more similar.

    similarity, present (bool): pictures by things. Chance is 0.5.
    """
    return np.array([(row[shown][:, None] > row[~shown][None]).mean() for row, shown in zip(similarity, present)])


def kind(claims: frozenset[str], twin: frozenset[str]) -> str:
    """Which of KINDS a caption with these claims turns on, given the facts of the twin of its picture.

    >>> kind(frozenset(["2 cat", "grass"]), frozenset(["cat", "1 cat", "grass"]))
    'count'
    """
    told = claims - twin
    words, theirs = set(" ".join(told).split()), set(" ".join(twin).split())
    tests = {
        "object": {*world.OBJECTS} - theirs,
        "place": {"of", "above"},
        "count": set("1234"),
        "size": {"small", "large"},
        "colour": {*world.COLOURS},
    }
    return next((name for name, about in tests.items() if words & about), "ground")


class Embedder:
    """Unit embeddings (n, E) of pictures and texts by one model, as arrays."""

    def __init__(self, clip: Clip, batch: int = 64):
        self.clip, self.batch = clip, batch

    @torch.no_grad()
    def _of(self, items, embed) -> np.ndarray:
        parts = [embed(items[i : i + self.batch]) for i in range(0, len(items), self.batch)]
        return F.normalize(torch.cat(parts), dim=-1).cpu().numpy()

    def pictures(self, pictures) -> np.ndarray:
        """PIL pictures -> (n, E)."""
        return self._of(pictures, lambda some: self.clip.embed_image(self.clip.preprocess(some)))

    def texts(self, texts: list[str]) -> np.ndarray:
        """Texts -> (n, E)."""
        return self._of(texts, lambda some: self.clip.embed_text(self.clip.tokenize(some)))


def _of_objects(embed: Embedder) -> list[dict]:
    """Naming a single object: among all of the world, and among the first 32 on the shipped set."""
    rng, every, found = np.random.default_rng(77), list(world.OBJECTS), []
    drawn = [world.random_scene(rng, 1, datasets.TEXTURES) for _ in range(SINGLES)]
    shipped = [e.scene for e in datasets.objects()]
    for task, goal, scenes, names in (
        (f"name the one object of a drawn picture among all {len(every)}", 0.97, drawn, every),
        (
            "name the one object of `scenes-objects` among the first 32",
            0.97,
            shipped,
            list(world.FIRST),
        ),
    ):
        prompts = embed.texts([prompt(name) for name in names])
        best = (embed.pictures([world.picture(scene) for scene in scenes]) @ prompts.T).argmax(1)
        right = [names[k] == scene.names[0] for k, scene in zip(best, scenes)]
        found.append({"task": task, **share(right), "goal": goal, "chance": 1 / len(names)})
    return found


def _of_captions(embed: Embedder) -> list[dict]:
    """Retrieval, present over absent objects, and telling twins apart."""
    found, sets = (
        [],
        {"scenes-captions": (datasets.captions(), 0.95), "scenes-world": (datasets.whole_world(WORLD), None)},
    )
    for name, (examples, goal) in sets.items():
        pictures = embed.pictures([world.picture(e.scene) for e in examples])
        similarity = embed.texts([e.text for e in examples]) @ pictures.T
        facts = [world.facts(e.scene) for e in examples]
        true = np.array([[e.claims <= fact for fact in facts] for e in examples])
        task = f"find the picture of a `{name}` caption among {GROUP}"
        found.append({"task": task, **averaged(retrieval(similarity, true)), "goal": goal, "chance": 1 / GROUP})
        if name == "scenes-captions":
            two = [k for k, e in enumerate(examples) if len(e.scene.objects) == 2]
            prompts = embed.texts([prompt(name) for name in world.FIRST])
            present = np.array([[name in examples[k].scene.names for name in world.FIRST] for k in two])
            values = averaged(discrimination(pictures[two] @ prompts.T, present))
            found.append(
                {
                    "task": "two objects: a present one's prompt beats an absent one's",
                    **values,
                    "goal": 0.98,
                    "chance": 0.5,
                }
            )
    here = np.arange(WORLD)
    right = similarity[here, here] > similarity[here, here ^ 1]  # 2k and 2k + 1 are twins
    kinds = np.array([kind(e.claims, facts[k ^ 1]) for k, e in enumerate(examples)])
    for name in ("all", *KINDS):
        these = right if name == "all" else right[kinds == name]
        if len(these):
            task = f"twins of `scenes-world`: the caption prefers its own picture ({name})"
            found.append({"task": task, **share(these), "goal": None, "chance": 0.5})
    return found


def _of_landscapes(embed: Embedder) -> list[dict]:
    examples, parts = datasets.landscapes(), list(aerial.PARTS)
    prompts = embed.texts([f"an aerial view of {'' if part in aerial.MANY else 'a '}{part}" for part in parts])
    present = np.array([[part in e.scene.parts for part in parts] for e in examples])
    similarity = embed.pictures([world.picture(e.scene) for e in examples]) @ prompts.T
    values = averaged(discrimination(similarity, present))
    return [{"task": "`aerial`: a present part's prompt beats an absent one's", **values, "goal": None, "chance": 0.5}]


def _of_evidence(clip: Clip, pairs: int) -> list[dict]:
    """Late evidence and direct effect, see `evidence`."""
    table, found = evidence.summary(evidence.late_evidence(clip, evidence.two_objects(pairs))), []
    for (tower, layer), row in table.iterrows():
        if layer:
            first = table.loc[(tower, 0), "mean"]
            values = {"value": row.share, "low": row.low / first, "high": row.high / first, "n": int(row.n)}
            goal = LATE_GOALS.get((tower, layer))
            found.append(
                {"task": f"{tower}: evidence still in the tokens that enter block {layer}", **values, "goal": goal}
            )
        if tower == "image":
            values = {"value": row.right, "n": int(row.n), "goal": 0.97 if layer <= 9 else None, "chance": 0.5}
            found.append({"task": f"the named object above the other, by what enters block {layer}", **values})
    effect = evidence.direct_effect(clip, data.load("scenes-objects"))
    task = "zero-shot accuracy kept when all attention but the last four blocks' is mean-ablated"
    return [*found, {"task": task, "value": effect["ablated"] / effect["whole"], "n": effect["n"], "goal": 0.9}]


def scores(clip: Clip, pairs: int = 40) -> pd.DataFrame:
    """A row per task: value and its 95 % interval (low, high) in 0 .. 1, n, goal and chance (nan where there is none).

    pairs: pictures of two objects for late evidence. No picture's ground and places were ever drawn in training.
    """
    embed = Embedder(clip)
    rows = [*_of_objects(embed), *_of_captions(embed), *_of_landscapes(embed), *_of_evidence(clip, pairs)]
    columns = ["value", "low", "high", "n", "goal", "chance"]
    return pd.DataFrame(rows).set_index("task")[columns].astype(dict.fromkeys(columns, float)).astype({"n": int})


def markdown(table: pd.DataFrame) -> str:
    """A table of `scores` as Markdown, in percent."""

    def percent(value: float) -> str:
        return "" if np.isnan(value) else f"{value:.1%}"

    lines = ["| property | value | 95 % interval | n | goal | chance |", "|---|---|---|---|---|---|"]
    for task, row in table.iterrows():
        interval = "" if np.isnan(row.low) else f"{percent(row.low)} to {percent(row.high)}"
        goal = "" if np.isnan(row.goal) else f"{percent(row.goal)}{'' if row.value >= row.goal else ', missed'}"
        lines.append(f"| {task} | {percent(row.value)} | {interval} | {int(row.n)} | {goal} | {percent(row.chance)} |")
    return "\n".join(lines)


def card(text: str, blocks: dict[str, str]) -> str:
    """A model card with what stands between <!-- NAME --> and <!-- end --> made anew; ValueError where that is missing.

    >>> card("a <!-- n --> 1 <!-- end --> b", {"n": "2"})
    'a <!-- n -->\\n\\n2\\n\\n<!-- end --> b'
    """
    for name, block in blocks.items():
        place = re.compile(rf"<!-- {re.escape(name)} -->.*?<!-- end -->", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"the model card has no place for {name!r}; write <!-- {name} --> and <!-- end --> there")
        filled = f"<!-- {name} -->\n\n{block}\n\n<!-- end -->"
        text = place.sub(filled.replace("\\", r"\\"), text)
    return text


def weights(path: Path, label: str) -> str:
    """A line of the card on a file of weights: its size and its sums."""
    count = sum(tensor.numel() for tensor in load_file(path).values())
    sums = hashlib.sha256(path.read_bytes()).hexdigest(), checksum(load(label, device="cpu"))
    return (
        f"`{path.name}`: {count / 1e6:.1f} million numbers in float16, {path.stat().st_size / 1e6:.1f} MB, "
        f"SHA-256 `{sums[0]}`, named `{sums[1]}` (CRC-32 of the weights) in tables and pages."
    )
