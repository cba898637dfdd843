"""`nibkit datasets`."""

import argparse

from . import Run, writable


def command(parser: argparse.ArgumentParser) -> Run:
    """list the data sets that can be loaded, or check one: pictures, captions, and a sheet of thumbnails

    `check` opens every picture and counts every caption's tokens; its exit code is 1 where a pair cannot be scored.

    examples:

        nibkit datasets                                       what nibkit.data.load takes
        nibkit datasets check /data/cc.csv --out sheet.png    is it complete? what does it look like?
        nibkit datasets check scenes-objects                  a bundled set; hf:flickr8k fetches one
    """
    actions = parser.add_subparsers(metavar="ACTION")
    checking = actions.add_parser("check", help="is a data set complete and fit to be scored?")
    checking.add_argument("path", metavar="PATH", help="a name of the list, or the path of a file or folder")
    checking.add_argument("--out", metavar="PNG", help="write a sheet of thumbnails there")

    def run(args: argparse.Namespace) -> int:
        return _check(args.path, args.out) if hasattr(args, "path") else _list()

    return run


def _list() -> int:
    from .. import data
    from ..data import hub, layouts

    print("bundled, or drawn when asked for:")
    for name in [*data.BUNDLED, *data.DRAWN]:
        print(f"  {name:<20} {len(data.load(name))} pairs")
    print("\non disk, by path (what, and the name it gets):")
    for path, (what, name) in layouts.LAYOUTS.items():
        print(f"  {path:<20} {what} -> {name}")
    print("\nof the Hugging Face hub, fetched once (network, and the datasets library):")
    for name, preset in hub.PRESETS.items():
        part = f"first {preset.stream} rows, streamed" if preset.stream else "all"
        part = f"{preset.per_class} a class" if preset.per_class and not preset.stream else part
        print(f"  {'hf:' + name:<24} {preset.name}, split {preset.split}: {part}")
    print("  hf:NAME,SPLIT,IMAGE,TEXT[,N]   any other: an id or a folder, a split, two columns; N: stream the first N")
    print("\ndata/README.md says how to get each, and what becomes of broken pictures and odd captions.")
    return 0


def _check(path: str, out: str | None) -> int:
    from .. import data
    from ..data.check import check, report, sheet

    if out:
        writable("--out", out, ".png")
    dataset = data.load(path)
    table = check(dataset)
    print(report(dataset.name, table))
    if out:
        sheet(dataset, table).save(out)
        print(f"thumbnails: {out}")
    return 1 if (table.problem != "").any() or table.empty else 0
