"""nibkit on the command line: explanations of CLIP by the Narrowing Information Bottleneck, and their reports.

examples:
  nibkit explain photo.jpg "a dog" --out map.png     what in a photo and in a text speaks for their match
  nibkit benchmark --data my/pictures --out F.csv    compare methods on pairs
  nibkit reports                                     make every report that is not up to date
  nibkit reports --help                              what a command does, with more examples

Exit codes: 0 done, 1 something failed while running, 2 the command or its input was refused: nothing was run; 130
interrupted.
"""

import argparse
import importlib
import inspect
import sys

from . import __version__
from .checks import ERRORS
from .commands import NAMES


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="nibkit", description=__doc__, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"nibkit {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for name in NAMES:
        command = importlib.import_module(f"nibkit.commands.{name}").command
        text = inspect.getdoc(command)
        child = subparsers.add_parser(name, help=text.splitlines()[0], description=text, formatter_class=raw)
        child.set_defaults(run=command(child))
    args = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # the name of a file may hold what a screen cannot
    try:
        return args.run(args)
    except ERRORS as error:  # refused with a sentence
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what had finished stays finished", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
