"""`python -m nibkit.scenes`: make the bundled world's artwork, evaluation sets and model, and measure the model."""

import argparse
from pathlib import Path

from ..paths import bundled, save
from . import datasets

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # where Debian's fonts-noto-color-emoji puts it


def sprites(args) -> None:
    folder = bundled("scenes") / "sprites"
    datasets.extract_sprites(args.font, folder)
    print(f"wrote {folder}")


def write_sets(args) -> None:
    for name, build in datasets.SETS.items():
        examples = build()
        datasets.write(examples, bundled("scenes") / name)
        print(f"wrote {len(examples)} rows and their pictures to {bundled('scenes') / name}")


def train(args) -> None:
    import torch

    from . import train

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    recipe = train.Recipe() if args.steps is None else train.Recipe(steps=args.steps)
    print(f"wrote {train.train(args.folder, recipe, args.device, args.workers)}")


def score(args) -> None:
    from ..models import load
    from ..models.openai import BUNDLED
    from . import score, train

    if not args.card:
        table = score.scores(load(str(args.model or "scenes"), device="cpu"))
        print(score.markdown(table))
        return
    card, blocks = bundled("scenes") / "README.md", {"recipe": f"`{train.Recipe()}`"}
    for label, file in BUNDLED.items():
        table, about = score.scores(load(label, device="cpu")), score.weights(bundled(file), label)
        blocks |= {f"weights of {label}": about, f"scores of {label}": score.markdown(table)}
    save(card, score.card(card.read_text(encoding="utf-8"), blocks))
    print(f"wrote {card}")


def at_least(least: int):
    """argparse type: an integer >= least."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return integer


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m nibkit.scenes", description=__doc__)
    jobs = parser.add_subparsers(required=True, metavar="JOB")

    job = jobs.add_parser("sprites", help="extract the objects' artwork from the Noto Color Emoji font")
    job.add_argument("--font", type=Path, default=FONT, help="NotoColorEmoji.ttf (default: %(default)s)")
    job.set_defaults(run=sprites)

    job = jobs.add_parser("datasets", help="write scenes-objects, scenes-captions and the cat-and-dog picture")
    job.set_defaults(run=write_sets)

    job = jobs.add_parser("train", help="train the model; goes on where a killed run stopped")
    job.add_argument("--steps", type=at_least(1), help="training steps (default: the recipe's)")
    job.add_argument("--folder", type=Path, default=Path("runs/scenes"), help="(default: %(default)s)")
    job.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    job.add_argument("--workers", type=at_least(0), default=1, help="processes that draw pictures (default: 1)")
    job.add_argument("--threads", type=at_least(1), help="CPU threads for torch (default: torch's own)")
    job.set_defaults(run=train)

    job = jobs.add_parser("score", help="print what a model knows and where its evidence is")
    job.add_argument("model", nargs="?", help="what nibkit.load knows (default: the bundled model)")
    job.add_argument("--card", action="store_true", help="write both bundled models' into data/scenes/README.md")
    job.set_defaults(run=score)

    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
