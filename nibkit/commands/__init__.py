"""The commands of `python -m nibkit`, one file each.

`command(parser)` of a file adds the command's arguments and returns what runs them; its docstring is the command's help.
"""

import argparse
from collections.abc import Callable

Run = Callable[[argparse.Namespace], int]  # parsed arguments -> exit code
NAMES = ("explain", "reports", "notebooks", "datasets", "badges", "bench", "models", "convergence")
