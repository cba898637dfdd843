"""Every method under its name: METHODS[name](clip, pixels, ids, ...) -> Attribution; `method` makes a function one.

The paper's eight come first, then the forms that the baselines' own papers define, two newer methods, and the controls.
OPTIONAL are the others that the paper names: they are asked for by name, and what compares "all methods" by default
takes DEFAULT, which is without them.
"""

from importlib import import_module

from .registry import METHODS, display_name, method

__all__ = ["DEFAULT", "METHODS", "OPTIONAL", "display_name", "method"]

FILES = (  # of this folder, in the order in which tables and figures show their methods
    "nib",
    "m2ib",
    "rise",
    "gradcam",
    "chefer",
    "saliency",
    "mfaba",
    "fastig",
    "gae",
    "gradcam_pooled",
    "xgrad",
    "grad_eclip",
    "legrad",
    "controls",
    "ig",
    "lime",
    "agi",
)
for _file in FILES:
    import_module(f"{__name__}.{_file}")
OPTIONAL = ("ig", "lime", "agi")
DEFAULT = tuple(name for name in METHODS if name not in OPTIONAL)
