"""What a run is asked for: labels, what each stands for, and the columns in which they differ."""

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..checks import in_a_row, one_of
from ..methods import METHODS
from ..metrics.contract import Metric

FIRST = ["dataset", "pair", "picture", "text", "label"]
COST = ["seconds", "passes"]
Plan = dict[str, tuple[str, dict]]


def planned(clip, methods: Iterable[str] | Mapping[str, tuple[str, dict]], common: Mapping) -> Plan:
    """label -> (name of METHODS, all its options), mistakes refused."""
    if isinstance(methods, str):
        raise ValueError(f"methods={methods!r} is one name; give a list of names: [{methods!r}]")
    plan = dict(methods) if isinstance(methods, Mapping) else {name: (name, {}) for name in methods}
    for label, how in plan.items():
        if not isinstance(how, tuple | list) or len(how) != 2 or not isinstance(how[1], Mapping):
            raise ValueError(f"methods[{label!r}]={how!r} is not (name, options) such as ('nib', {{'rule': 'exact'}})")
        plan[in_a_row("method", label)] = one_of("method", how[0], METHODS), {**common, **how[1]}
        METHODS[how[0]].check(clip, plan[label][1])
    return plan


def measured(metrics: Sequence[Metric]) -> list[str]:
    """The columns of metrics side by side; ValueError for what is no metric, and for a column that two share."""
    if not isinstance(metrics, Sequence) or not all(hasattr(metric, "columns") for metric in metrics) or not metrics:
        raise ValueError(f"metrics={metrics!r} is not a list of metrics; nibkit.metrics.contract says how to make one")
    columns = [column for metric in metrics for column in metric.columns]
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise ValueError(f"two of the metrics have a column {twice[0]!r}; leave one out or rename it")
    return columns


def identities(plan: Mapping[str, tuple[str, Mapping]]) -> dict[str, dict]:
    """label -> what it is: its method, and the value of each option in which the labels of the plan differ.

    An option that is not given has the method's default; nan stands where that is None (the method decides), and where
    the method has no such option.

    >>> identities({"nib": ("nib", {}), "five steps": ("nib", {"steps": 5}), "centre": ("centre", {})})["centre"]
    {'method': 'centre', 'steps': nan}
    """
    takes = {}
    for label, (name, options) in plan.items():
        known = inspect.signature(METHODS[name]).parameters if name in METHODS else {}  # a file may know others than we
        defaults = {p.name: p.default for p in known.values() if p.kind is p.KEYWORD_ONLY}
        takes[label] = {option: options.get(option, default) for option, default in defaults.items()}
    given = dict.fromkeys(option for _, options in plan.values() for option in options)
    values = {o: {json.dumps(own[o], default=str) for own in takes.values() if o in own} for o in given}
    found = {label: {"method": name} for label, (name, _) in plan.items()}
    for option in (o for o in given if len(values[o]) > 1):
        for label, own in takes.items():
            found[label][option] = np.nan if own.get(option) is None else own[option]
    return found


def columns(who: Mapping[str, dict], numbers: Sequence[str]) -> list[str]:
    """The columns of rows whose labels are `who`, as `identities` says it."""
    return [*FIRST, *next(iter(who.values()), {"method": ""}), *numbers, "error"]
