"""`nibkit explain`."""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from . import DRAWN, Run, writable

LISTED = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".tar")  # files that nibkit.data.load takes
SHEET = 400  # maps on a sheet, the first
ADDS_UP = 0.05  # a gap up to this part of the change is not worth a word
PUBLISHED = (
    "Scores that miss a large part of what they should add up to, as the paper's sum may, rank patches and words; none "
    "is its part of the cosine. For scores that add up take --rule exact (or carry, without what it calls norm)."
)
STOPPED = "Where a rule that adds up left a large gap, it stopped at its most passes: take a higher --layer."


class Photo(NamedTuple):
    """A picture and the texts it is explained with."""

    name: str
    read: Callable
    texts: Sequence[str]


def command(parser: argparse.ArgumentParser) -> Run:
    """score a photo's patches and a text's words: what speaks for their match, and what against it

    Prints each text's cosine with the photo and its words with their scores, in thousandths of the method's unit (NIB's
    is the cosine): positive for the match, negative against it. --out draws them, red for the match, blue against it.

    examples:

        nibkit explain photo.jpg "a dog"                                 scores of the words
        nibkit explain photo.jpg "a dog" "a cat" --out map.png           and a picture, a row for each text
        nibkit explain photo.jpg "a dog" --out map.png --boxes           with boxes around what speaks for the text
        nibkit explain photo.jpg "a dog" --method m2ib --layer 6         another method, another layer
        nibkit explain photo.jpg "a dog" --rule exact                    NIB's integral in place of its sum
        nibkit explain photo.jpg "a dog" --model ViT-B/32 --json -       all scores as JSON, on the screen
        nibkit explain *.jpg "a dog" --out dogs                          a folder: maps, a sheet of them, scores
        nibkit explain my/pictures "a dog" --out dogs                    all pictures of a folder
        nibkit explain my/captions.csv --out mine --batch 16             each picture with its own captions

    The pictures come first: files, folders, or what nibkit.data.load knows (`nibkit datasets`), whose captions are the
    texts where you give none. All behind them are texts. A picture or a caption that cannot be used is named at the
    end, and the exit code is 1.

    The model sees a square picture: a photo is shrunk and cut to it first, and boxes are in pixels of that picture.
    A box holds patches that score more than a third of the highest one; it marks evidence, not the object's outline.
    The bundled model, scenes, knows drawn objects only; give real photos to a real CLIP.
    """
    parser.add_argument("photos", metavar="PHOTO", help="picture, folder or list of pairs; more may follow")
    parser.add_argument("more", metavar="TEXT", nargs="*", help='a caption, such as "a dog"')
    parser.add_argument("--method", default="nib", metavar="NAME", help="nib (default), m2ib, rise, gradcam, ...")
    parser.add_argument("--layer", type=int, metavar="L", help="explain what enters this block (default: 9 of 12)")
    parser.add_argument("--rule", metavar="RULE", help="of nib: riemann (default), gauss, exact, carry or norm")
    parser.add_argument("--steps", type=int, metavar="N", help="terms of the published sum, steps of m2ib, ... (10)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="pairs explained at once (default 8)")
    parser.add_argument("--model", default="scenes", metavar="NAME", help="what nibkit.load knows (default scenes)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or mps")
    parser.add_argument("--boxes", action="store_true", help="boxes around what speaks for the text, largest first")
    parser.add_argument(
        "--out", metavar="PATH", help="draw the maps into this file (.png, .svg, .pdf; of one photo), or, into this "
        "folder, a map for each photo, sheet.png, scores.json and scores.csv"
    )
    parser.add_argument("--json", metavar="FILE", help="write all scores into this file; - for the screen")

    return _run


def _run(args: argparse.Namespace) -> int:
    from ..checks import whole

    whole("--batch", args.batch)
    photos = _photos(args.photos, args.more)
    file, folder = _out(args.out, len(photos))
    if args.json and args.json != "-":
        writable("--json", args.json)
    if len(photos) == 1:
        photos[0].read()  # a broken picture is refused before the model is loaded
    method, options = _method(args)

    from tqdm import tqdm

    import nibkit

    clip = nibkit.load(args.model, args.device)
    method.check(clip, options)
    asked = [(photo, text) for photo in photos for text in photo.texts]
    failed, facts, tables, thumbnails = [], [], [], []
    found = _explained(clip, asked, args, options, failed)
    for k, (name, rows) in enumerate(groupby(found, lambda row: row[0]), 1):
        rows = list(rows)
        facts.append({"photo": name, "texts": [fact for *_, fact in rows]})
        if args.json != "-":
            head = [f"{name}:"] if len(photos) > 1 else []
            tqdm.write("\n".join([*head, *(_sentences(fact) for *_, fact in rows)]))  # above the bar
        unit = f"thousandths of {method.unit or 'a score'} / patch"
        if folder:
            tables += [a.to_dataframe() for _, _, a, _ in rows]
            stem = re.sub(r"[^\w.-]+", "-", os.path.splitext(name)[0]).strip("-.")[-60:]
            file = folder / "maps" / f"{k:04d}-{stem}.png"
            thumbnails += [row[1:] for row in rows[: max(0, SHEET - len(thumbnails))]]
        if file:
            _draw(file, rows, unit)
    if not facts:
        raise ValueError(failed[0])
    if args.json != "-":
        print(*_about_gaps(facts), sep="\n", end="")
    _write(clip, method, args, folder, facts, tables, thumbnails)
    for said in dict.fromkeys(failed):
        print(said, file=sys.stderr)
    return 1 if failed else 0


def _photos(first: str, more: list[str]) -> list[Photo]:
    """What is there under its name is pictures, what stands behind the first that is not, texts."""
    n = next((k for k, name in enumerate(more) if not os.path.exists(name)), len(more))
    texts = more[n:]
    if wrong := [text for text in texts if re.fullmatch(r"\S+\.(jpe?g|png|webp|gif|tiff?|bmp)", text, re.I)]:
        raise ValueError(f"{wrong[0]} is not there; if it is a text and no picture, put a space behind it")
    photos = [photo for name in (first, *more[:n]) for photo in _of(name, texts)]
    if not all(photo.texts for photo in photos):
        raise ValueError(f'{more[n - 1] if n else first} comes without a text; put one behind it, such as "a dog"')
    return photos


def _of(source: str, texts: list[str]) -> list[Photo]:
    from .. import data
    from ..data.layouts import LISTS
    from ..data.pictures import read

    path = Path(source)
    known = source in {*data.BUNDLED, *data.DRAWN} or source.startswith("hf:") or path.suffix.lower() in LISTED
    if path.is_dir() and not known:
        known = any((path / name).exists() for name in (*LISTS, "words.txt")) or any(path.glob("*.tar"))
    if known:
        pairs = data.load(source)
        return [Photo(p.id, lambda p=p: p.image, texts or p.captions or (p.text,)) for p in pairs]
    if not path.is_dir():
        return [Photo(source, lambda: read(path), texts)]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise ValueError(f"the folder {source} is empty; give one with pictures in it")
    return [Photo(str(file), lambda file=file: read(file), texts) for file in files]


def _out(out: str | None, photos: int) -> tuple[Path | None, Path | None]:
    """The file or the folder to draw into, tried."""
    if not out:
        return None, None
    if Path(out).is_dir() or not Path(out).suffix:
        writable("--out", str(Path(out) / "maps" / "x.png"))
        writable("--out", str(Path(out) / "scores.json"))
        return None, Path(out)
    if photos > 1:
        raise ValueError(f"--out {out} is one file and there are {photos} photos; name a folder (without a suffix)")
    return writable("--out", out, *DRAWN), None


def _method(args: argparse.Namespace) -> tuple[Callable, dict]:
    """The method and its options; ValueError for one that it has no use for."""
    from ..checks import one_of
    from ..methods import METHODS

    method = METHODS[one_of("method", args.method, METHODS)]
    options = {name: getattr(args, name) for name in ("layer", "rule", "steps") if getattr(args, name) is not None}
    method.refuse_unused(options)
    if "rule" in options and "rule" not in method.takes:
        raise ValueError(f"method {args.method!r} has no use for --rule {args.rule}; it is an option of nib")
    return method, options


def _explained(clip, asked: list[tuple[Photo, str]], args, options: dict, failed: list[str]) -> Iterator[tuple]:
    """(name, picture as the model saw it, Attribution of one, facts) of each photo and text, as they are done.

    What cannot be used is added to `failed`, in a sentence.
    """
    from tqdm import tqdm

    import nibkit

    def of(some: list[tuple[Photo, str]]) -> Iterator[tuple]:
        try:
            images, texts = [photo.read() for photo, _ in some], [text for _, text in some]
            a = nibkit.explain(clip, images, texts, args.method, **options)
        except ValueError as error:
            if len(some) == 1:
                failed.append(str(error))
            for one in some if len(some) > 1 else ():
                yield from of([one])
            return
        a.about["names"] = [photo.name for photo, _ in some]
        cosines = clip.similarity(images, texts).tolist()
        for k, (photo, _) in enumerate(some):
            picture = clip.picture(clip.preprocess(images[k])[0])
            yield photo.name, picture, a[k], _fact(a[k], cosines[k], args.boxes)

    with tqdm(total=len(asked), unit="text", smoothing=0, disable=len(asked) < 2) as bar:
        for start in range(0, len(asked), args.batch):
            some = asked[start : start + args.batch]
            for row in of(some):
                yield row
                bar.update()


def _fact(a, cosine: float, with_boxes: bool) -> dict:
    """What was found, as JSON has it. Where the method integrates a path, F(0) and gap belong to it."""
    from ..attribution import boxes

    (info,) = json.loads(a.info.to_json(orient="records"))  # NaN becomes null
    sides = {
        "image": {"scores": a.image[0].tolist()},
        "text": {"tokens": a.about["tokens"][0], "scores": a.text[0].tolist()},
    }
    for side in sides:
        if f"change_{side}" in info:
            rule, change = info.pop(f"rule_{side}"), info.pop(f"change_{side}")
            sides[side] |= {"rule": rule, "change": change, "gap": info.pop(f"gap_{side}")}
            sides[side] |= {"F(0+)" if rule == "carry" else "F(0)": cosine - change} if rule != "norm" else {}
    fact = {"caption": a.about["texts"][0], "F(Z)": cosine, "words": a.words()} | sides
    fact |= {"info": info, "notes": a.notes()}
    if with_boxes:
        fact["boxes"] = boxes(a.signed_map()[0]) if a.heatmap().any() else []
    return fact


def _sentences(fact: dict) -> str:
    patches = [score for row in fact["image"]["scores"] for score in row]
    lines = [
        f"{fact['caption']}: cosine {fact['F(Z)']:.3f}",
        "  words    " + "  ".join(f"{word} {1000 * score:+.1f}" for word, score in fact["words"]),
        f"  patches  from {1000 * min(patches):+.1f} to {1000 * max(patches):+.1f}",
    ]
    if "gap" in fact["image"]:
        for side in ("image", "text"):
            total, gap = (1000 * fact[side][name] for name in ("change", "gap"))
            lines.append(f"  {side:<8} scores should add up to {total:+.1f}, gap {gap:.1f}")
    lines += [f"  note     {side}: {note}" for side, note in fact["notes"].items()]
    if "boxes" in fact:
        lines.append("  boxes    " + ("  ".join(str(box) for box in fact["boxes"]) or "none: nothing speaks for it"))
    return "\n".join(lines)


def _about_gaps(facts: list[dict]) -> list[str]:
    """What it means, and what to do, where scores do not add up."""
    from ..methods.nib import FIXED

    sides = [text[side] for photo in facts for text in photo["texts"] for side in ("image", "text")]
    wide = {side["rule"] in FIXED for side in sides if "gap" in side and side["gap"] > ADDS_UP * abs(side["change"])}
    return [said + "\n" for fixed, said in ((True, PUBLISHED), (False, STOPPED)) if fixed in wide]


def _write(clip, method, args, folder: Path | None, facts: list[dict], tables: list, thumbnails: list) -> None:
    """The files that hold everything: JSON, and of a folder also a table and a sheet."""
    layers = {"layer": dict(zip(("image", "text"), clip.layers(args.layer)))} if "layer" in method.takes else {}
    head = {"model": clip.name, "method": args.method, "size": clip.image.size} | layers
    text = json.dumps(head | {"photos": facts}, indent=1, ensure_ascii=False)
    if args.json == "-":
        print(text)
    for file in {args.json, folder and folder / "scores.json"} - {None, "-"}:
        Path(file).write_text(text + "\n", "utf-8", "backslashreplace")
    if folder:
        import matplotlib

        matplotlib.use("Agg")
        import pandas as pd
        from PIL import Image

        from .. import plots
        from ..data.check import thumbnails as sheet

        pd.concat(tables).drop(columns="pair").to_csv(folder / "scores.csv", index=False)
        limit = max(abs(a.image).max() for _, a, _ in thumbnails)
        cells = []
        for picture, a, fact in thumbnails:
            shown = Image.fromarray(plots.blended(picture, a.signed_map()[0], limit))
            cells.append((shown, a.about["names"][0], f"{fact['caption']}: {fact['F(Z)']:.3f}", "black"))
        sheet(cells).save(folder / "sheet.png")


def _draw(file: Path, rows: list[tuple], unit: str) -> None:
    """A row for each text: the picture that the model saw, its map, its words."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from .. import plots

    plots.theme()
    limits = [1000 * max(abs(a.image).max() for *_, a, _ in rows)]
    limits.append(max((abs(score) for *_, fact in rows for _, score in fact["words"]), default=0))
    fig, grid = plt.subplots(
        len(rows), 3, figsize=(11, 3.4 * len(rows)), width_ratios=(3, 3.4, 5), squeeze=False, layout="constrained"
    )
    for axes, (_, picture, a, fact) in zip(grid, rows):
        plots.picture(axes[0], picture, fact["caption"])
        image, text = (fact["notes"].get(side, "") for side in ("image", "text"))
        plots.overlay(axes[1], picture, 1000 * a.signed_map()[0], limits[0], image, unit)
        plots.text(axes[2], fact["words"], limits[1], title=f"cosine {fact['F(Z)']:.3f}" + f"; {text}" * bool(text))
        for x0, y0, x1, y1 in fact.get("boxes", []):
            axes[0].add_patch(plt.Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="yellow", lw=2))
    fig.savefig(file)
    plt.close(fig)
