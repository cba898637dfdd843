"""Measure how fast the panel answers: `python -m nibkit.explorer [MODEL]`."""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import torch

from .. import data
from ..models import load
from ..models.openai import BUNDLED
from . import Explorer


class Stopwatch:
    """Times moves of a panel, in ms: until the first picture, which may be a sketch, and until the whole answer."""

    def __init__(self, panel: Explorer):
        self.panel, self._drawn = panel, []
        panel.map.observe(lambda change: self._drawn.append(time.perf_counter()), "value")

    def __call__(self, move: Callable[[], None]) -> tuple[float, float]:
        self._drawn.clear()
        started = time.perf_counter()
        move()
        ended = time.perf_counter()
        if self.panel.message.value:
            raise RuntimeError(self.panel.message.value)
        return 1000 * ((self._drawn or [ended])[0] - started), 1000 * (ended - started)

    def set(self, control, value) -> tuple[float, float]:
        """Of setting a control; of an answer anew where it stands there already."""
        move = functools.partial(setattr, control, "value", value)
        return self(self.panel.refresh if control.value == value else move)


def report(name: str, times: list[tuple[float, float]]) -> None:
    """A line of the table: median and slowest first picture, slowest whole answer."""
    first, whole = zip(*times)
    print(f"{name:<36}{statistics.median(first):>10.0f}{max(first):>10.0f}{max(whole):>10.0f}")


def measure(clip) -> None:
    """Print how long each move of the panel takes, and what the kept states and results save."""
    pair = data.load("cat-and-dog")[0]
    panel = Explorer(clip, pair.image, pair.text)
    timed = Stopwatch(panel)
    fresh, kept, again = [], [], []
    for layer in range(panel.layer.max, -1, -1):
        panel.forget(states=True)
        fresh.append(timed.set(panel.layer, layer))
        panel.forget()
        kept.append(timed(panel.refresh))
        again.append(timed(panel.refresh))
    where = f"{clip.name} on {clip.device}, {torch.get_num_threads()} threads"
    print(f"{where}: ms from a move to its picture, and to the whole answer")
    print(f"{'move':<36}{'median':>10}{'slowest':>10}{'whole':>10}")
    report(f"layer, each of 0..{panel.layer.max}", kept)
    report("  the same, no state kept", fresh)
    report("  the same, seen before", again)
    panel.layer.value = panel.clip.image.default_layer
    for control, values in {
        panel.steps: range(5, 31, 5),
        panel.text: ["a cat", "a dog", "a cat and a dog on grass"],
        panel.view: ["heat", "signed", "heat"],
        panel.strength: [0.2, 0.4, 0.8],
    }.items():
        report(control.description.lower() or "scores", [timed.set(control, value) for value in values])
        if control is panel.steps:
            control.value = 10
    ratios = [statistics.median(a / b for (_, a), (_, b) in zip(times, fresh)) for times in (kept, again)]
    print(f"of the time without what is kept: {ratios[0]:.2f} with the states, {ratios[1]:.2f} with the result")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument(
        "model", nargs="?", default="scenes", help="scenes, or a name such as ViT-B/32, with random weights"
    )
    model = parser.parse_args().model
    measure(load(model, pretrained=model in BUNDLED))
