"""`nibkit convergence`."""

import argparse

from . import Run, writable


def command(parser: argparse.ArgumentParser) -> Run:
    """measure how fast NIB's rules converge and whether their certificate holds (against float64 on 2,000 nodes a part)

    The bundled data/convergence.csv, which notebook 09 draws, is this command's output. Minutes on a GPU that is
    fast in float64, hours on a CPU.

    examples:

        nibkit convergence data/convergence.csv --device cuda          the bundled table, made again
        nibkit convergence mine.csv --pairs 100 --random-pairs 20      on more pairs
    """
    parser.add_argument("out", metavar="CSV", help="write the table there")
    parser.add_argument(
        "--pairs",
        type=int,
        default=24,
        metavar="N",
        help="of scenes-captions, each under its caption and another (default 24)",
    )
    parser.add_argument(
        "--random-pairs", type=int, default=8, metavar="N", help="with ViT-B/32's size, random weights (default 8)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: the best there is)")

    def run(args: argparse.Namespace) -> int:
        from ..study.convergence import bundle, certificates, goals

        out = writable("CSV", args.out)
        rows = bundle(args.pairs, args.random_pairs, args.device)
        rows.to_csv(out, index=False, float_format="%.6g")
        measured = rows[rows.model == "scenes"]
        print(goals(measured).to_string(index=False), certificates(measured).round(2).to_string(), sep="\n\n")
        return 0

    return run
