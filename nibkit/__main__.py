"""nibkit on the command line: explanations of CLIP by the Narrowing Information Bottleneck, and their reports.

examples:
  python -m nibkit reports                 make every report that is not up to date
  python -m nibkit reports --help          what a command does, with more examples

Exit codes: 0 done, 1 something failed while running, 2 the command was not understood; nothing was run.
"""

import argparse
import inspect
import sys
from collections.abc import Callable

Command = Callable[[argparse.Namespace], int]


def reports(parser: argparse.ArgumentParser) -> Command:
    """execute the numbered notebooks into reports/: a page each, tables, figures, and an overview

    Every notebook runs in its own process. One that fails is listed at the end with the cell that failed; the others
    go on. A finished run is not repeated unless its notebook, its parameters, nibkit's code or the data changed.

    examples:
      python -m nibkit reports                                   the whole set, what is up to date excepted
      python -m nibkit reports --only 02 03 --jobs 2             notebooks 02 and 03, two at a time
      python -m nibkit reports --only 03 -p dataset scenes-objects -p n_pairs 16
      python -m nibkit reports --only 03_benchmark-scenes-objects --force

    Parameters are those in the first code cell of a notebook. An unknown name or a value of another type is refused
    before anything runs. A parameter that is a path is read from notebooks/; an absolute one works anywhere.
    """
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="runs whose name begins so, such as 03")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter in the notebooks that have it (repeatable)",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks at a time (default 1)")
    parser.add_argument("--out", metavar="FOLDER", help="where the reports go (default: reports/ of the checkout)")
    parser.add_argument("--force", action="store_true", help="run also what is up to date")

    def run(args: argparse.Namespace) -> int:
        from .reports import checkout, run_reports

        root = checkout()
        names = [name for name, _ in args.parameters]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"-p sets {', '.join(sorted(repeated))} more than once; give each parameter one value")
        out = args.out or root / "reports"
        records = run_reports(
            root / "notebooks",
            out,
            only=tuple(args.only),
            parameters=dict(args.parameters),
            jobs=args.jobs,
            force=args.force,
        )
        failed = [record for record in records if record["status"] != "ok"]
        for record in failed:
            print(f"FAILED {record['name']}, {record['error']}", file=sys.stderr)
        print(f"{len(records) - len(failed)} of {len(records)} reports are fine: {out}/index.html")
        return 1 if failed else 0

    return run


def notebooks(parser: argparse.ArgumentParser) -> Command:
    """re-execute the committed notebooks in place, with their default parameters, stripped of what makes noisy diffs

    Outputs and execution counts stay; widget state, time stamps, progress bars and versions go. A notebook that fails
    keeps its file as it was.

    examples:
      python -m nibkit notebooks                every notebook
      python -m nibkit notebooks --only 02      those whose name begins with 02
    """
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="notebooks whose name begins so")

    def run(args: argparse.Namespace) -> int:
        from .reports import checkout, refresh

        failures = refresh(checkout() / "notebooks", only=tuple(args.only))
        for name, error in failures.items():
            print(f"FAILED {name}, {error}", file=sys.stderr)
        return 1 if failures else 0

    return run


# A command is a function that adds its arguments to a parser and returns what runs them; its docstring is its help.
COMMANDS = [reports, notebooks]


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m nibkit", description=__doc__, formatter_class=raw)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in COMMANDS:
        text = inspect.getdoc(command)
        first = text.splitlines()[0]
        child = subparsers.add_parser(command.__name__, help=first, description=text, formatter_class=raw)
        child.set_defaults(run=command(child))
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, FileNotFoundError) as error:  # bad input, refused with a sentence
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what had finished stays finished", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
