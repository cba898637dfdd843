"""`nibkit bench`."""

import argparse
import json
import sys

from ..checks import whole
from . import DRAWN, Run, writable


def command(parser: argparse.ArgumentParser) -> Run:
    """what every method costs here: seconds, work and memory per pair, beside a naive loop

    Cost depends on an architecture's sizes, so the weights may be random: those of real models need not be there.
    Columns: seconds per pair; passes; GFLOP per pair, counted; rate, the share of the speed at which this machine
    multiplies matrices; peak MB beyond the model; naive, seconds of a loop that takes one step at a time with the
    gradients of all weights, and how many times faster we are; error, of the scores in half precision (--dtype bf16
    is nibkit.load(dtype="bfloat16"): passes without gradients; NIB's integrand stays float32; bf16-gradients is that
    with gradients="bfloat16" too); best, seconds per pair with the batch_size that was fastest, beside those of the
    default. The row "metrics of one method" is what the four figures of the paper take per map; the last row,
    "7 methods, metrics", is one pair in a benchmark: the paper's methods but RISE, each with its metrics, what they
    share done once.

    examples:

        nibkit bench                                      ViT-B/32 on the CPU or GPU that is there: minutes
        nibkit bench --batch 1 16 256 --dtype bf16 --device cuda
        nibkit bench --model scenes --methods nib m2ib --no-naive --json
        nibkit bench --methods nib --figure cost.png      cost against pairs, steps and layer
        nibkit bench --goals                              what is asked of one H100, and what a GPU does
        nibkit bench --table2 1000 --dtype bf16           Table 2 from made-up JPEGs, reading included
    """
    parser.add_argument("--model", default="ViT-B/32", help='a name that nibkit.load knows (default "ViT-B/32")')
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="methods (default: the paper's, and nib exact)")
    parser.add_argument(
        "--batch", nargs="+", type=int, default=[1, 8], metavar="N", help="pairs per call (default 1 8)"
    )
    parser.add_argument("--dtype", default="float32", help="float32, tf32 (NVIDIA), bf16 or bf16-gradients")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU where there is one)")
    parser.add_argument("--no-naive", dest="naive", action="store_false", help="leave the naive loops out")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument(
        "--figure", metavar="FILE", help="also draw cost against pairs, steps and layer, FILE.csv beside it"
    )
    parser.add_argument("--goals", action="store_true", help="pairs a second beside what a GPU should do, no more")
    parser.add_argument("--table2", type=int, metavar="N", help="seconds of Table 2 for N pairs of JPEGs, no more")

    def run(args: argparse.Namespace) -> int:
        from .. import load
        from ..models.openai import ARCHITECTURES
        from ..study import speed

        whole("--batch", min(args.batch))
        if args.table2 is not None:
            whole("--table2", args.table2)
        if args.figure:
            writable("--figure", args.figure, *DRAWN)
        plan = speed.plan(args.methods) if args.methods else speed.PLAN
        clip = load(args.model, device=args.device, pretrained=args.model not in ARCHITECTURES)
        if args.goals:
            return _goals(clip)
        if args.table2 is not None:
            return _table2(clip, args.table2, args.dtype)
        return _bench(clip, plan, args)

    return run


def _bench(clip, plan: dict, args: argparse.Namespace) -> int:
    import torch
    from matplotlib.figure import Figure

    from ..study import speed

    threads = f", {torch.get_num_threads()} threads" if clip.device.type == "cpu" else ""
    where = f"{clip.name}, {args.dtype}, {clip.device}{threads}"
    rate = speed.matrix_rate(clip, args.dtype)
    if not args.json:
        print(f"{where}; matrices are multiplied at {rate:.0f} GFLOP/s\n", flush=True)
        print(_line(HEAD), flush=True)
    rows = []
    for row in speed.measure(clip, plan, args.batch, args.dtype, args.naive):
        rows.append(row)
        if not args.json:
            print(_line(row), flush=True)
    if args.json:
        clean = [{k: None if v != v else v for k, v in row.items()} for row in rows]
        json.dump({"where": where, "gflop_per_second": rate, "rows": clean}, sys.stdout, indent=1)
        print()
    if args.figure:
        table = speed.scaling(clip, args.dtype)
        table.to_csv(f"{args.figure}.csv", index=False)
        figure = Figure(figsize=(13, 3.4), layout="constrained")
        figure.suptitle(f"NIB: {where}", parse_math=False)
        speed.draw(figure.subplots(1, 4), table)
        figure.savefig(args.figure, dpi=120)
    return 0


def _goals(clip) -> int:
    from ..study import goals

    print(f"{clip.name}, {clip.device}: pairs a second")
    print(GOAL.format("", "dtype", "batch", "goal", "got", "", "best", "at"))
    for row in goals.measure(clip):
        row |= {name: f"{row[name]:.4g}" for name in ("goal", "got", "best")} | {"met": "met" if row["met"] else "-"}
        print(GOAL.format(*row.values()), flush=True)
    return 0


def _table2(clip, n: int, dtype: str) -> int:
    from ..study import table2

    for name, value in table2.measure(clip, n, dtype):
        print(f"{name:<34}{value:10.2f}", flush=True)
    return 0


GOAL = "{:<30}{:>16}{:>7}{:>9}{:>9}{:>5}{:>9}{:>7}"
HEAD = {
    "method": "method",
    "batch": "batch",
    "seconds": "s / pair",
    "passes": "passes",
    "gflop": "GFLOP",
    "rate": "rate",
    "peak_mb": "peak MB",
    "naive_seconds": "naive s",
    "speedup": "faster",
    "error": "error",
    "best_seconds": "best s",
    "best_size": "at",
}
FORMATS = {
    "seconds": "{:.4f}", "gflop": "{:.1f}", "rate": "{:.0%}", "peak_mb": "{:.0f}", "naive_seconds": "{:.2f}",
    "speedup": "{:.1f}x", "error": "{:.1e}", "best_seconds": "{:.4f}",
}


def _line(row: dict) -> str:
    cells = []
    for key in HEAD:
        value = row[key]
        text = value if isinstance(value, str) else "-" if value != value else FORMATS.get(key, "{}").format(value)
        cells.append(text.ljust(22) if key == "method" else text.rjust(9))
    return "".join(cells)
