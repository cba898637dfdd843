"""What is known of parameters before a notebook runs: the model has such a layer, the picture is there to be read."""

import functools
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from .. import data
from ..benchmark.paper import PAPER_ROLE
from ..checks import ERRORS, PROTOCOLS, one_of, whole
from ..data import pictures
from ..methods import METHODS
from ..methods.nib import RULES
from ..models import load
from .parameters import Run


def check(runs: Sequence[Run], given: Collection[str]) -> None:
    """Refuse values of the `given` parameters that a cell would fail on after a while; ValueError names the parameter.

    A name means the same in every notebook: layer, layers, chosen and sweep are blocks of the run's model,
    dataset is a bundled set, pairs and masked are what `nibkit.data.load` takes, picture is a file. Sets of the hub are
    left to the run.
    """
    models = functools.cache(load)
    for run in runs:
        for name in [name for name in given if name in run.settings and name in CHECKS]:
            value, model = run.settings[name], run.settings.get("model")
            clip = None
            try:
                if name in LAYERS and model is not None:
                    clip = models(_from(run, model))
                for one in value if isinstance(value, list) else [value]:
                    CHECKS[name](one, run, clip)
            except ERRORS as error:
                raise ValueError(f"-p {name} {value}: {error}") from error


def _from(run: Run, value: str) -> str:
    """A path as the notebook reads it, from its own folder; a name as it is."""
    path = os.path.join(run.notebook.parent, value)
    return path if os.path.exists(path) else value


def _layer(value, run: Run, clip) -> None:
    if clip is not None:
        clip.layers(value)


def _dataset(value: str, run: Run, clip) -> None:
    if value not in {*data.BUNDLED, *data.DRAWN}:
        known = ", ".join([*data.BUNDLED, *data.DRAWN])
        raise ValueError(f"it is none of {known}; give other data with --data {value}, from where you are")


def _data(value: str, run: Run, clip) -> None:
    if value and not value.startswith("hf:") and value not in data.DRAWN:
        data.load(value if value in data.BUNDLED else _from(run, value))


def _picture(value: str, run: Run, clip) -> None:
    if value:
        pictures.read(Path(run.notebook.parent, value))


ROLES = tuple(dict.fromkeys(PAPER_ROLE.values()))
LAYERS = ("layer", "layers", "chosen", "sweep")
CHECKS = {
    **dict.fromkeys(LAYERS, _layer),
    "dataset": _dataset,
    **dict.fromkeys(("pairs", "masked"), _data),
    "picture": _picture,
    "model": lambda value, run, clip: load(_from(run, value)),
    "methods": lambda value, run, clip: one_of("method", value, METHODS),
    "role": lambda value, run, clip: one_of("role", value or ROLES[0], ROLES),
    "protocol": lambda value, run, clip: one_of("protocol", value, PROTOCOLS),
    "rule": lambda value, run, clip: one_of("rule", value, RULES),
    "steps": lambda value, run, clip: whole("steps", value),
    "n_pairs": lambda value, run, clip: whole("n_pairs", value, 0),
}
