"""`python -m nibkit explain`."""

import argparse
import json
from pathlib import Path

from . import DRAWN, Run, writable


def command(parser: argparse.ArgumentParser) -> Run:
    """score a photo's patches and a text's words: what speaks for their match, and what against it

    Prints each text's cosine with the photo and its words with their scores, in thousandths of the method's unit (NIB's
    is the cosine): positive for the match, negative against it. --out draws them, red for the match, blue against it.

    examples:

        python -m nibkit explain photo.jpg "a dog"                                 scores of the words
        python -m nibkit explain photo.jpg "a dog" "a cat" --out map.png           and a picture, a row for each text
        python -m nibkit explain photo.jpg "a dog" --out map.png --boxes           with boxes around what the map marks
        python -m nibkit explain photo.jpg "a dog" --method m2ib --layer 6         another method, another layer
        python -m nibkit explain photo.jpg "a dog" --rule exact                    NIB's integral in place of its sum
        python -m nibkit explain photo.jpg "a dog" --model ViT-B/32 --json -       all scores as JSON, on the screen

    The model sees a square picture: a photo is shrunk and cut to it first, and boxes are in pixels of that picture.
    The bundled model, scenes, knows drawn objects only; give real photos to a real CLIP.
    """
    parser.add_argument("photo", metavar="PHOTO", help="path of a picture: PNG, JPEG, ...")
    parser.add_argument("texts", metavar="TEXT", nargs="+", help='a caption, such as "a dog"')
    parser.add_argument("--method", default="nib", metavar="NAME", help="nib (default), m2ib, rise, gradcam, ...")
    parser.add_argument("--layer", type=int, metavar="L", help="explain what enters this block (default: 9 of 12)")
    parser.add_argument("--rule", metavar="RULE", help="of nib: riemann (default), gauss, exact, carry or norm")
    parser.add_argument("--model", default="scenes", metavar="NAME", help="what nibkit.load knows (default scenes)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or mps")
    parser.add_argument("--boxes", action="store_true", help="boxes around what the map marks (Otsu), largest first")
    parser.add_argument("--out", metavar="FILE", help="draw the maps into this file: .png, .svg or .pdf")
    parser.add_argument("--json", metavar="FILE", help="write all scores into this file; - for the screen")

    def run(args: argparse.Namespace) -> int:
        import nibkit

        from ..checks import one_of
        from ..data.pictures import read

        photo = read(Path(args.photo))
        options = {name: getattr(args, name) for name in ("layer", "rule") if getattr(args, name) is not None}
        method = nibkit.METHODS[one_of("method", args.method, nibkit.METHODS)]
        method.refuse_unused(options)
        if "rule" in options and "rule" not in method.takes:
            raise ValueError(f"method {args.method!r} has no use for --rule {args.rule}; it is an option of nib")
        if args.out:
            writable("--out", args.out, *DRAWN)
        if args.json and args.json != "-":
            writable("--json", args.json)
        clip = nibkit.load(args.model, args.device)
        found = nibkit.explain(clip, photo, args.texts, args.method, **options)
        facts = _facts(clip, photo, args.texts, found, args.boxes)
        if args.out:
            _draw(args.out, clip, photo, found, facts, f"thousandths of {method.unit or 'a score'} / patch")
        if args.json != "-":
            print("\n".join(map(_sentences, facts)))
        if args.json:
            layers = {"layer": dict(zip(("image", "text"), clip.layers(args.layer)))} if "layer" in method.takes else {}
            head = {"photo": args.photo, "model": clip.name, "method": args.method, "size": found.size} | layers
            text = json.dumps(head | {"texts": facts}, indent=1, ensure_ascii=False)
            print(text) if args.json == "-" else Path(args.json).write_text(text + "\n", "utf-8", "backslashreplace")
        return 0

    return run


def _facts(clip, photo, texts: list[str], found, with_boxes: bool) -> list[dict]:
    """What was found, text by text, as JSON has it. Where the method integrates a path, F(0) and gap belong to it."""
    from ..attribution import boxes, words

    facts, heatmaps = [], found.heatmap()
    ids, info = clip.tokenize(texts), json.loads(found.info.to_json(orient="records"))  # NaN becomes null
    for k, cosine in enumerate(clip.similarity([photo] * len(texts), texts).tolist()):
        sides = {
            "image": {"scores": found.image[k].tolist()},
            "text": {"tokens": clip.decode(ids[k]), "scores": found.text[k].tolist()},
        }
        for side in sides:
            if f"change_{side}" in info[k]:
                rule, change = info[k].pop(f"rule_{side}"), info[k].pop(f"change_{side}")
                sides[side] |= {"rule": rule, "change": change, "gap": info[k].pop(f"gap_{side}")}
                sides[side] |= {"F(0+)" if rule == "carry" else "F(0)": cosine - change} if rule != "norm" else {}
        fact = {"caption": texts[k], "F(Z)": cosine, "words": words(clip, ids[k], found.text[k])} | sides
        fact |= {"info": info[k], "notes": found.notes(k)}
        facts.append(fact | ({"boxes": boxes(heatmaps[k])} if with_boxes else {}))
    return facts


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
        lines.append("  boxes    " + ("  ".join(str(box) for box in fact["boxes"]) or "none: the map is flat"))
    return "\n".join(lines)


def _draw(file: str, clip, photo, found, facts: list[dict], unit: str) -> None:
    """A row for each text: the picture that the model saw, its map, its words."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from .. import plots

    plots.theme()
    picture, maps = clip.picture(clip.preprocess(photo)[0]), 1000 * found.signed_map()
    limits = abs(maps).max(), max((abs(score) for fact in facts for _, score in fact["words"]), default=0)
    fig, rows = plt.subplots(
        len(facts), 3, figsize=(11, 3.4 * len(facts)), width_ratios=(3, 3.4, 5), squeeze=False, layout="constrained"
    )
    for axes, fact, scores in zip(rows, facts, maps):
        plots.picture(axes[0], picture, fact["caption"])
        image, text = (fact["notes"].get(side, "") for side in ("image", "text"))
        plots.overlay(axes[1], picture, scores, limits[0], image, unit)
        plots.text(axes[2], fact["words"], limits[1], title=f"cosine {fact['F(Z)']:.3f}" + f"; {text}" * bool(text))
        for x0, y0, x1, y1 in fact.get("boxes", []):
            axes[0].add_patch(plt.Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="yellow", lw=2))
    fig.savefig(file)
    plt.close(fig)
