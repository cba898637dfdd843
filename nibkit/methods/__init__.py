"""Every method under its name: METHODS[name](clip, pixels, ids, ...) -> Attribution."""

from ..narrowing import nib
from .controls import centre, random

METHODS = {"nib": nib, "random": random, "centre": centre}
