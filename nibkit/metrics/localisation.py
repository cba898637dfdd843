"""Ground truth: do the scores lie on what the text names?

    rows = benchmark.run(clip, localisation.queries(data.load("scenes-captions")), methods,
    metrics=[localisation.truth])

Maps are judged at the resolution of the masks, on the part of the picture that the model sees. Beside each score stands
what chance gets, and what the same map gets on another picture's mask (`..._shuffled`): what it owes to habit, such as
looking at the middle, it gets there as well.
"""

import functools
import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from ..attribution import Attribution, otsu, upsample, words
from ..data import DataError, PairDataset
from ..data.captions import prompt
from ..models.sharing import once
from .contract import Batch, metric
from .stats import decided, holm, mean_interval, paired_test, pictures_of, spearman

IMAGE = {"pointing": True, "mass": True, "iou": True, "ap": True}  # column -> higher is better
SIGNED = {"named": True, "other": False, "ground": None}
TEXT = {"word_first": True, "function_rank": False}
COLUMNS = IMAGE | {f"{name}_shuffled": None for name in IMAGE} | SIGNED | TEXT
COLUMNS |= dict.fromkeys(("area", "word_share", "cosine", "energy_image", "energy_text"))
# What no caption of any world names. "photo" and "picture" belong to the template of a prompt, not to its object.
FUNCTION = frozenset("a an the and or with next to of on in at by is are there this that photo picture , .".split())


def _read(pair, what: str):
    """The pair's `image` or `masks`; None where they cannot be read: the pair becomes a row that says why."""
    try:
        return getattr(pair, what)
    except DataError:
        return None


def _names(pair) -> list[str]:
    """Of its masks."""
    return list(_read(pair, "masks") or ())


def gathered(pairs: Sequence) -> PairDataset:
    """One pair per picture where pairs have a mask without a name ("object", as a CSV with image, text, mask has it)
    and the caption "a photo of a {name}": the picture's masks side by side, each under its name, those of one name
    joined. Other pairs, among them those whose picture or mask cannot be read, stay as they are.
    """
    found, pictures = [], {}
    for pair in pairs:
        match = re.fullmatch("a photo of an? (.+)", pair.text)
        image = _read(pair, "image") if match and _names(pair) == ["object"] else None
        if image is None:
            found.append(pair)
            continue
        key = image.size, hashlib.sha256(image.tobytes()).digest()
        if key not in pictures:
            pictures[key] = len(found), defaultdict(list)
            found.append(pair)
        pictures[key][1][match[1]].append(pair.read_masks)
    for place, readers in pictures.values():
        found[place] = replace(found[place], read_masks=functools.partial(_joined, readers))
    return PairDataset(getattr(pairs, "name", "custom"), found)


def _joined(readers: dict[str, list]) -> dict[str, np.ndarray]:
    return {name: np.any([read()["object"] for read in reads], axis=0) for name, reads in readers.items()}


def queries(pairs: Sequence, several: bool = False) -> PairDataset:
    """One pair per object of each picture, under "a photo of a {name}"; the other objects' masks come along.

    First one object of each picture, then a second one of those that have it, ...: a first part that is no longer than
    there are pictures shows each once, so that its rows are independent. Which object comes first goes round: picture
    k's number k.

    pairs: items with `.masks` (object name -> mask), `gathered` first; the ids get "/name" appended. A mask that still
        has no name is asked for by its own caption. several: leave out pictures of which only one object has a mask;
        ValueError where that leaves none.
    """
    pictures = []
    for pair in gathered(pairs):
        names = _names(pair)
        if not names or (names == ["object"] and not several):
            pictures.append([pair])
        elif len(names) > several:
            asked, first = [], len(pictures) % len(names)
            for name in names[first:] + names[:first]:
                text = prompt(name)
                length = len(text.split())
                words = dict.fromkeys(range(length - len(name.split()), length), name)
                asked.append(replace(pair, id=f"{pair.id}/{name}", text=text, words=words))
            pictures.append(asked)
    if pairs and not pictures:
        raise ValueError("no picture has masks of two objects; take several=False to ask for one")
    found = [pair for turn in itertools.zip_longest(*pictures) for pair in turn if pair]
    return PairDataset(f"{getattr(pairs, 'name', 'custom')}-queries", found)


def mismatched(pairs: Sequence) -> PairDataset:
    """The same pictures, ids and masks, each under the text of the next pair that names nothing in the picture.

    Of texts that do not say what their words name, the next other one. ValueError where there is no such pair.
    """
    here = [{*_names(pair), pair.text} for pair in pairs]
    said = [set(pair.words.values()) or {pair.text} for pair in pairs]
    found = []
    for k, pair in enumerate(pairs):
        others = (j % len(pairs) for j in range(k + 1, k + len(pairs)))
        other = next((j for j in others if said[j] and not said[j] & here[k]), None)
        if other is None:
            raise ValueError(f"no text of {len(pairs)} pairs names only what is not in {pair.id!r}; take more pairs")
        found.append(replace(pair, text=pairs[other].text, words={}))
    return PairDataset(f"{getattr(pairs, 'name', 'custom')}-mismatched", found)


# --- one map -----------------------------------------------------------------------------------------------------


def average_precision(scores: np.ndarray, target: np.ndarray) -> float:
    """Mean precision over the target's pixels when pixels are taken best first, equal scores at once; [0, 1].

    A flat map gets the target's share of the picture.
    """
    _, group = np.unique(-scores.ravel(), return_inverse=True)
    hits = np.bincount(group, target.ravel())
    return float((hits.cumsum() / np.bincount(group).cumsum()) @ hits / hits.sum())


def image_truth(scores: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """A signed map (H, W) against a boolean mask of its size; all in [0, 1], higher is better.

    pointing: is the highest pixel in the mask (Zhang et al., 2018; of several highest ones, the share that is). By
        chance: the mask's share of the picture.
    mass: share of the positive scores inside the mask; 0 where none is positive. A flat positive map: the mask's share.
    iou: intersection over union of the mask and the pixels above Otsu's threshold; a flat map has no such pixel: 0.
    ap: average precision of the pixels. By chance: the mask's share.
    ValueError for a mask without a pixel, of another size, or that is not boolean.
    """
    if target.shape != scores.shape or target.dtype != bool or not target.any():
        got = f"{target.dtype}, {target.shape}, {np.count_nonzero(target)} pixels in it"
        want = f"a boolean one of the map's size, {scores.shape}, with an object in it"
        raise ValueError(f"the mask is {got}; give {want}")
    positive = scores.clip(min=0)
    region = otsu(scores)
    return {
        "pointing": float(target[scores == scores.max()].mean()),
        "mass": float(positive[target].sum() / total) if (total := positive.sum()) > 0 else 0.0,
        "iou": float((region & target).sum() / (region | target).sum()),
        "ap": average_precision(scores, target),
    }


def signed_truth(scores: np.ndarray, target: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Mean score on the named object, the other ones and the rest, as parts of the map's largest magnitude: [-1, 1].

    The negative property says other < 0. It means something only where `ground` is not below 0 as well. nan where there
    are no such pixels.
    """
    scores = scores / (np.abs(scores).max() or 1)
    places = {"named": target, "other": others, "ground": ~(target | others)}
    return {name: float(scores[mask].mean()) if mask.any() else np.nan for name, mask in places.items()}


def text_truth(scored: Sequence[tuple[str, float]], objects: set[str]) -> dict[str, float]:
    """Scored words against those that name an object.

    word_first: is the highest word the name of an object (of several highest, the share that is); by chance word_share.
    function_rank: mean rank of the function words (FUNCTION), from 0, the lowest of all words, to 1; by chance 0.5.
    nan where no word names an object, or where there is no function word.
    """
    names = np.array([word in objects for word, _ in scored])
    function = np.array([word in FUNCTION for word, _ in scored])
    scores = np.array([score for _, score in scored])
    if not names.any() or not function.any():
        return dict.fromkeys(("word_share", "word_first", "function_rank"), np.nan)
    ranks = (stats.rankdata(scores) - 1) / (len(scores) - 1)
    first = float(names[scores == scores.max()].mean())
    return {"word_share": float(names.mean()), "word_first": first, "function_rank": float(ranks[function].mean())}


# --- a batch -----------------------------------------------------------------------------------------------------


def _split(clip, pair) -> tuple[np.ndarray, np.ndarray]:
    """Masks of what the text names and of the other objects, where the model sees; ValueError if none is in sight."""
    masks = {name: clip.seen(mask) for name, mask in pair.masks.items()}
    named = set(pair.words.values()) & set(masks) or set(masks)
    if not any(masks[name].any() for name in named):
        raise ValueError(f"{pair.id} has no mask with a pixel in the part that the model sees; leave it out")
    nothing = np.zeros_like(next(iter(masks.values())))
    sides = ([mask for name, mask in masks.items() if (name in named) == side] for side in (True, False))
    target, others = (np.any([nothing, *side], axis=0) for side in sides)
    return target, others & ~target


@metric(COLUMNS)
def truth(clip, batch: Batch, a: Attribution) -> pd.DataFrame:
    """COLUMNS of a batch's B pairs and their scores, one row per pair: `image_truth`, `signed_truth`, `text_truth`, and

    pointing_shuffled and so on: the same map on the target of the pair half a batch on (nan where that is its own);
    area, word_share: the target's share of what the model sees, the objects' share of the words: what chance gets;
    cosine: of the pair; energy_image, energy_text: mean magnitude of the patch or inner token scores, method's unit.

    The target is what the text names (`pair.words`); of a pair that does not say what its words name, all its masks.
    ValueError where a pair has no mask, or its target is out of the model's sight.
    """
    pairs, pixels, ids, _ = batch
    inner = slice(clip.text.before, -1)
    split = once((clip, *pairs, "masks"), lambda: [_split(clip, pair) for pair in pairs])
    cosine = clip.similarity(pixels, ids).tolist()
    rows = []
    for k, (pair, (target, others)) in enumerate(zip(pairs, split)):
        scores = np.nan_to_num(upsample(a.image[k : k + 1], target.shape)[0])
        elsewhere = split[(k + len(pairs) // 2) % len(pairs)][0]
        shuffled = dict.fromkeys(IMAGE, np.nan)
        if not np.array_equal(elsewhere, target):
            shuffled = image_truth(np.nan_to_num(upsample(a.image[k : k + 1], elsewhere.shape)[0]), elsewhere)
        scored = words(clip, ids[k], np.nan_to_num(a.text[k]))
        spoken = {word.strip(",.").lower() for place, word in enumerate(pair.text.split()) if place in pair.words}
        rows.append(
            image_truth(scores, target)
            | {f"{name}_shuffled": value for name, value in shuffled.items()}
            | signed_truth(scores, target, others)
            | text_truth(scored, spoken)
            | {"area": target.mean(), "cosine": cosine[k]}
            | {"energy_image": np.abs(a.image[k]).mean(), "energy_text": np.abs(a.text[k][inner]).mean()}
        )
    return pd.DataFrame(rows)[list(COLUMNS)]


# --- tables ------------------------------------------------------------------------------------------------------


def negative(rows: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """The negative property, from rows of `truth`: is what the text does not name scored below 0?

    Per label: n, other (mean score on the other objects, part of the map's largest magnitude; low, high: 95 %
    interval), below_ground (mean of other - ground, with its own low and high), p_holm and p_ground (`paired_test` of
    the two, each corrected over the labels), verdict: "holds" (both below 0), "habit" (below 0, but not below the
    ground: nothing about objects), "fails" (above 0), "open" (p_holm >= alpha, or an interval of other with 0 in it).
    """
    table = {}
    for label, group in rows.groupby("label", sort=False):
        group = group.dropna(subset=["other", "ground"])
        below, pictures = group.other - group.ground, pictures_of(group)
        other, apart = mean_interval(group.other, pictures), mean_interval(below, pictures)
        table[label] = {"n": other["n"], "other": other["mean"], "low": other["low"], "high": other["high"]}
        table[label] |= {"below_ground": apart["mean"]} | {f"below_ground_{end}": apart[end] for end in ("low", "high")}
        p = (paired_test(values.to_numpy(), pictures)[0] for values in (group.other, below))
        table[label] |= dict(zip(("p_holm", "p_ground"), p))
    table = pd.DataFrame.from_dict(table, orient="index").rename_axis("label")
    table[["p_holm", "p_ground"]] = table[["p_holm", "p_ground"]].apply(holm)
    apart = (table.p_ground < alpha) & (table.below_ground_high < 0)
    verdict = decided(table, "fails", "holds", alpha=alpha)
    return table.assign(verdict=np.where((verdict == "holds") & ~apart, "habit", verdict))


def forced(match: pd.DataFrame, mismatch: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Do maps fade when the text is wrong? Rows of `truth` for pairs, and for the same pairs under `mismatched` texts.

    A map that explains a match has less to explain where there is less of it; one that looks as strong is forced.
    Columns: label, part, n, ratio (geometric mean of the mismatched over the matching map's energy; low, high: 95 %
    interval), p_holm (`paired_test` of the log ratio, corrected over all rows), rho (Spearman's, energy with cosine
    over all pairs of both kinds), verdict: "fades" (the ratio is below 1), "grows" (above), "open" (p_holm >= alpha, or
    an interval with 1 in it). Pairs where either map is 0 throughout are left out.
    """
    match = match.assign(picture=pictures_of(match))
    both, table = match.merge(mismatch, on=["pair", "label"], suffixes=("", "_wrong")), []
    for (label, group), part in itertools.product(both.groupby("label", sort=False), ("image", "text")):
        right, wrong = f"energy_{part}", f"energy_{part}_wrong"
        group = group[(group[right] > 0) & (group[wrong] > 0)]
        change = np.log(group[wrong] / group[right]).to_numpy(float)
        cosine, energy = (np.concatenate([group[a], group[b]]) for a, b in (("cosine", "cosine_wrong"), (right, wrong)))
        rho = float(spearman(cosine, energy)) if len(set(energy)) > 1 else np.nan  # `centre` never changes
        found = mean_interval(change, group.picture)
        ends = {name: np.exp(found[key]) for name, key in (("ratio", "mean"), ("low", "low"), ("high", "high"))}
        p = paired_test(change, group.picture)[0]
        table.append({"label": label, "part": part, "n": found["n"], **ends, "p": p, "rho": rho})
    table = pd.DataFrame(table)
    table["p_holm"] = holm(table.pop("p"))
    return table.assign(verdict=decided(table, "grows", "fades", at=1, alpha=alpha))
