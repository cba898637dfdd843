"""The bundled test bed: a drawn world whose objects are known, its data sets, and a small CLIP trained on it."""

import functools

from .. import data
from . import datasets

# so that data.load knows them
data.DRAWN |= {name: functools.partial(datasets.drawn, name) for name in datasets.DRAWN}
