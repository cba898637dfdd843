"""`nibkit benchmark`."""

import argparse
import sys

from ..checks import PROTOCOLS, one_of
from . import Run, writable


def command(parser: argparse.ArgumentParser) -> Run:
    """compare methods on a data set: a row for each pair and method, and a table of means

    Shows the model what each map marks, and measures how far the match of picture and text drops, and how often it
    rises: the paper's four figures, points of cosine and % of the pairs, with 95 % intervals. What is interrupted goes
    on when the same command is given again; more pairs or methods may be asked for later. Figures of the paper stand
    beside those of its own data sets. `nibkit reports --only 03` makes a page with figures and tests of the same.

    examples:

        nibkit benchmark --data scenes-captions --methods nib m2ib random --samples 32 --out rows.csv
        nibkit benchmark --model ViT-B/32 --data /data/en_val.json --samples 1000 --out flickr.csv
        nibkit benchmark --model open_clip:ViT-B-16/laion2b_s34b_b88k --data my/pictures --out mine.csv
    """
    parser.add_argument("--model", default="scenes", metavar="NAME", help="what nibkit.load knows (default scenes)")
    parser.add_argument("--data", default="scenes-captions", help="a name or path that `nibkit datasets` lists")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="methods (default: the paper's, without rise)")
    parser.add_argument("--samples", type=int, default=0, metavar="N", help="the first N pairs (default: all)")
    parser.add_argument("--out", metavar="CSV", required=True, help="the rows, kept batch by batch")
    parser.add_argument("--layer", type=int, metavar="L", help="of methods that have one (default: 9 of 12)")
    parser.add_argument("--steps", type=int, metavar="K", help="of methods that have steps")
    parser.add_argument("--protocol", default="paper", help="paper (default): as published; or corrected")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="pairs at a time (default 16)")
    parser.add_argument("--seed", type=int, default=0, help="of random methods (default 0)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda or mps")

    def run(args: argparse.Namespace) -> int:
        from .. import benchmark, data, load
        from ..benchmark import paper
        from ..methods import METHODS

        out, pairs = writable("--out", args.out, ".csv"), data.load(args.data)
        published = paper.table("table2_benchmark").method
        methods = args.methods or ["nib", *published[~published.isin(["nib", "rise"])].unique()]
        for name in methods:
            one_of("method", name, METHODS)
        one_of("protocol", args.protocol, PROTOCOLS)
        clip = load(args.model, args.device)
        options = {name: getattr(args, name) for name in ("layer", "steps") if getattr(args, name) is not None}
        rows = benchmark.run(
            clip, pairs, methods, out=out, n_pairs=args.samples, batch=args.batch, protocol=args.protocol,
            options=options, seed=args.seed,
        )
        for pair, error in rows.loc[rows.error != "", ["pair", "error"]].drop_duplicates().itertuples(index=False):
            print(f"not measured: {pair}: {error}", file=sys.stderr)
        summary = benchmark.summary(rows)
        print(benchmark.caption(benchmark.about(clip, pairs, rows)))
        print(_table(summary, benchmark.METRICS).to_string())
        if pairs.name in paper.PAPER_PAIRS:
            print("\nthe paper's:")
            print(paper.table("table2_benchmark", pairs.name).set_index("method")[benchmark.METRICS].to_string())
        return 0 if summary.n.any() else 1

    return run


def _table(summary, metrics: list[str]):
    """Means and intervals as text, and pairs per second."""
    shown = summary[["n"]].rename_axis(None)
    for metric in metrics:
        figures = summary[[metric, f"{metric}_low", f"{metric}_high"]].itertuples(index=False)
        shown[metric] = ["{:.1f} ({:.1f} to {:.1f})".format(*row) for row in figures]
    return shown.assign(pairs_per_second=summary.pairs_per_second.map("{:.3g}".format))
