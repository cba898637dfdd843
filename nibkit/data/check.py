"""Is a data set fit to be scored? Every picture opened, every caption counted in tokens, and a sheet of thumbnails to
look at.
"""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from clip.simple_tokenizer import SimpleTokenizer
from PIL import Image, ImageDraw, ImageFont, ImageOps
from tqdm import tqdm

from ..checks import one_line
from .pairs import DataError, Pair, PairDataset

CONTEXT = 77  # tokens that CLIP reads, BOS and EOS among them
REPEATED = "another pair has the same id, so that a run refuses the whole set: list it once, or give each its own"
DARK = 16  # of 255: data of 12 bits in a file of 16 come no further
SIDE, LINES = 150, 4  # of a thumbnail and its caption


def check(dataset: PairDataset) -> pd.DataFrame:
    """One row per pair, in order, indexed by its id.

    Columns: width, height (pixels; nan where the picture cannot be read), masks (how many), captions (how many), tokens
    (of the longest caption in CLIP's BPE, BOS and EOS included; CLIP reads 77), too_long and blank (captions that are;
    they cannot be scored), marked_up (captions with < or &), beyond_ascii (captions with letters that English does not
    have), brightest (the highest value of the picture's pixels, of 255), problem (why the pair cannot be scored, ""
    where it can; of a repeated id, that a run would refuse the set).
    """
    tokenizer = SimpleTokenizer()
    rows = [_row(pair, tokenizer) for pair in tqdm(dataset, desc="check", unit="pair", disable=None)]
    table = pd.DataFrame(rows, pd.Index([pair.id for pair in dataset], name="pair"), COLUMNS)
    table.loc[table.index.duplicated(keep=False) & (table.problem == ""), "problem"] = REPEATED
    return table


COLUMNS = [
    *("width", "height", "masks", "captions", "tokens", "too_long", "blank", "marked_up", "beyond_ascii", "brightest"),
    "problem",
]


def _row(pair: Pair, tokenizer: SimpleTokenizer) -> dict:
    texts = pair.captions or (pair.text,)
    whole = [text for text in texts if one_line(text) == " ".join(text.split())]  # the others hold half an emoji
    lengths = np.array([len(tokenizer.encode(text)) + 2 for text in whole] or [0])
    row = {
        "width": np.nan, "height": np.nan, "masks": 0, "captions": len(texts), "tokens": lengths.max(),
        "too_long": (lengths > CONTEXT).sum(), "blank": (lengths < 3).sum(),
        "marked_up": sum("<" in text or "&" in text for text in texts),
        "beyond_ascii": sum(any(c.isalpha() and not c.isascii() for c in text) for text in texts),
        "brightest": np.nan, "problem": "",
    }
    if not whole:
        halves = "the caption holds half of a sign (a lone surrogate, such as half an emoji): take it out"
        row |= {"blank": 0, "problem": halves}
    elif row["too_long"] + row["blank"] == len(whole):
        row["problem"] = (
            f"the caption has {lengths.max()} tokens, more than {CONTEXT}"
            if row["too_long"]
            else "the caption is empty"
        )
    try:
        image = pair.image
        row["width"], row["height"] = image.size
        row["brightest"] = max(high for _, high in image.getextrema())
        row["masks"] = len(pair.masks)
    except DataError as error:
        row["problem"] = one_line(error)
    return row


def report(name: str, table: pd.DataFrame) -> str:
    """A table of `check` in words."""
    bad = table[table.problem != ""]
    unreadable = table.width.isna()
    sizes = table[~unreadable][["width", "height"]].astype(int)
    lines = [f"{name}: {len(table)} pairs, {len(table) - len(bad)} can be scored"]
    lines += [f"pictures: {(~unreadable).sum()} readable, {unreadable.sum()} unreadable"]
    if len(sizes):
        low, high = sizes.iloc[sizes.prod(axis=1).argmin()], sizes.iloc[sizes.prod(axis=1).argmax()]
        lines[-1] += f"; from {low.width} x {low.height} to {high.width} x {high.height} pixels"
    if len(dark := table.index[table.brightest <= DARK]):
        shown = f"{len(dark)}, {', '.join(dark[:5])}{' ...' * (len(dark) > 5)}"
        lines += [
            f"pictures nearly black, no value above {DARK} of 255: {shown}; "
            "if they are data of 12 bits in files of 16, save them multiplied by 16"
        ]
    if table.masks.any():
        lines += [f"masks: {int(table.masks.sum())}, on {(table.masks > 0).sum()} pairs"]
    if len(table):
        lines += [
            f"captions: {table.captions.sum()}; the longest of each pair has {table.tokens.min()} to "
            f"{table.tokens.max()} tokens (median {table.tokens.median():.0f}) of {CONTEXT}",
            f"captions too long: {table.too_long.sum()}, empty: {table.blank.sum()}, "
            f"with markup: {table.marked_up.sum()}, with letters beyond ASCII: {table.beyond_ascii.sum()}",
        ]
    lines += [f"  {pair}: {problem}" for pair, problem in bad.problem.items()]
    return "\n".join(lines)


def sheet(dataset: Sequence[Pair], table: pd.DataFrame, columns: int = 8, most: int = 64) -> Image.Image:
    """Thumbnails with id, caption and masks (tinted red), at most `most` pairs spread over the set, problems among them
    first.
    """
    indices = {*np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(int)}
    bad = np.flatnonzero(table.problem != "")[: most // 2]
    chosen = sorted({*bad, *sorted(indices - {*bad})[: most - len(bad)]})
    return thumbnails([_cell(dataset[int(k)], table.problem.iloc[k]) for k in chosen], columns)


def _cell(pair: Pair, problem: str) -> tuple[Image.Image | None, str, str, str]:
    words, colour = (problem.rsplit("/", 1)[-1], "#c0392b") if problem else (pair.text, "black")
    try:
        return _tinted(pair), pair.id, words, colour
    except DataError:
        return None, pair.id, words, colour


def thumbnails(cells: Sequence[tuple[Image.Image | None, str, str, str]], columns: int = 8) -> Image.Image:
    """A sheet of pictures, below each its name in grey and words in a colour: cells of (picture, name, words, colour).

    A grey square stands where there is no picture.
    """
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 10)
    width, height = SIDE + 10, SIDE + 13 * (LINES + 1) + 12
    columns = max(1, min(columns, len(cells)))
    page = Image.new("RGB", (columns * width, -(-max(1, len(cells)) // columns) * height), "white")
    draw = ImageDraw.Draw(page)
    for place, (picture, name, words, colour) in enumerate(cells):
        x, y = place % columns * width + 5, place // columns * height + 5
        if picture is None:
            draw.rectangle([x, y, x + SIDE, y + SIDE], "#e4e4e4")
        else:
            thumbnail = ImageOps.contain(picture, (SIDE, SIDE))
            page.paste(thumbnail, (x + (SIDE - thumbnail.width) // 2, y + SIDE - thumbnail.height))
        draw.text((x, y + SIDE + 3), one_line(name)[-25:], "#808080", font)
        shown = textwrap.wrap(one_line(words), 25, max_lines=LINES, placeholder=" …")
        draw.text((x, y + SIDE + 16), "\n".join(shown), colour, font)
    return page


def _tinted(pair: Pair) -> Image.Image:
    image, masks = pair.image, pair.masks
    if not masks:
        return image
    red = Image.new("RGB", image.size, "red")
    return Image.composite(Image.blend(image, red, 0.45), image, Image.fromarray(np.any([*masks.values()], axis=0)))
