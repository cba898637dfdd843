"""`nibkit notebooks`."""

import argparse
import sys

from . import Run


def command(parser: argparse.ArgumentParser) -> Run:
    """re-execute the committed notebooks in place, with their default parameters, stripped of what makes noisy diffs

    Outputs and execution counts stay; widget state, time stamps, progress bars and versions go. A notebook that fails
    keeps its file as it was.

    examples:

        nibkit notebooks                every notebook
        nibkit notebooks --only 02      those whose name begins with 02
    """
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="notebooks whose name begins so")

    def run(args: argparse.Namespace) -> int:
        from ..paths import checkout
        from ..reports.runner import refresh

        failures = refresh(checkout() / "notebooks", only=tuple(args.only))
        for name, error in failures.items():
            print(f"FAILED {name}, {error}", file=sys.stderr)
        return 1 if failures else 0

    return run
