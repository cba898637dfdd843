"""`nibkit reports`."""

import argparse
import contextlib
import re
import sys
from pathlib import Path

from ..paths import install
from . import Run


def command(parser: argparse.ArgumentParser) -> Run:
    """execute the numbered notebooks into reports/: a page each, tables, figures, and an overview

    Every notebook runs in its own process. One that fails is listed at the end with the cell that failed; the others
    go on. A finished run is not repeated unless its notebook, its parameters, nibkit's code or the data changed.

    examples:

        nibkit reports                                   the whole set, what is up to date excepted
        nibkit reports --only 02 03 --jobs 2             notebooks 02 and 03, two at a time
        nibkit reports --only 03 -p dataset scenes-objects -p n_pairs 16
        nibkit reports --only 03_benchmark-scenes-objects --force
        nibkit reports --model ViT-B/32 --data /data     a real CLIP, real data: reports/ViT-B-32/
        nibkit reports --only 03 --data my/pictures      your pictures and captions: 03_benchmark-pictures

    Parameters are those in a notebook's cell tagged `parameters`. An unknown name or a value of another type is refused
    before anything runs. A parameter that is a path is read from notebooks/; an absolute one works anywhere.
    """
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="runs whose name begins so, such as 03")
    repeatable = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    parser.add_argument(
        "-p", dest="parameters", help="set a parameter in the notebooks that have it (repeatable)", **repeatable
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks at a time (default 1)")
    parser.add_argument("--dask", metavar="ADDRESS", help="run them on a Dask cluster, such as tcp://HOST:8786")
    parser.add_argument("--model", help="a name or file that nibkit.load takes, in place of the bundled model")
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="a folder that holds sets of the paper (cc.csv, tiny-imagenet-200/, en_val.json, rsicd.csv); hf for "
        "those of the hub; or one set, such as yours: anything that `nibkit datasets` lists",
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the reports go (default: reports/, or reports/MODEL/)")
    parser.add_argument("--force", action="store_true", help="run also what is up to date")

    def run(args: argparse.Namespace) -> int:
        from ..paths import checkout
        from ..reports.parameters import subject
        from ..reports.runner import run_reports

        root = checkout()
        names = [name for name, _ in args.parameters]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"-p sets {', '.join(sorted(repeated))} more than once; give each parameter one value")
        about = subject(args.model or "scenes", args.data) if args.model or args.data else None
        out = Path(args.out) if args.out else root / "reports" / (about.slug if about else "")
        if about and (out.resolve() == root / "reports" or re.match(r"\d\d_", out.name)):
            raise ValueError(f"{out} belongs to the reports of the bundled model; choose another folder with --out")
        with _cluster(args.dask) as client:
            options = {"jobs": args.jobs, "force": args.force, "about": about, "client": client}
            parameters = dict(args.parameters)
            records = run_reports(root / "notebooks", out, only=tuple(args.only), parameters=parameters, **options)
        failed = [record for record in records if record["status"] != "ok"]
        for record in failed:
            print(f"FAILED {record['name']}, {record['error']}", file=sys.stderr)
        print(f"{len(records) - len(failed)} of {len(records)} reports are fine: {out}/index.html")
        return 1 if failed else 0

    return run


def _cluster(address: str | None):
    """The Dask client to use in a `with`, or None. Errors: ValueError."""
    if not address:
        return contextlib.nullcontext()
    try:
        from distributed import Client
    except ImportError:
        raise ValueError(f"--dask needs Dask; install it with: {install('dask')}") from None
    try:
        return Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--dask {address}: no Dask scheduler answers there ({error}); start one with: dask scheduler"
        ) from None
