"""One computation for all methods that explain the same pairs: states, embeddings, the last block's attention.

Inside, nothing is computed twice:

    with shared():
        maps = [METHODS[name](clip, pixels, ids) for name in ("nib", "m2ib", "gradcam")]
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class _Known:
    value: Any
    key: tuple  # kept: an id is that of one object only as long as the object lives
    span: tuple  # `_now` before and after
    asked: list  # the spans of what it in turn had computed
    used: set  # it and all it asked for

    @property
    def seconds(self) -> float:
        """Its own, without what it in turn asked for."""
        return _between(*self.span) - sum(_between(*span) for span in self.asked)


@dataclass
class _Frame:
    """What is being computed: what it has asked for, and when that was computed."""

    used: set = field(default_factory=set)
    asked: list = field(default_factory=list)


@dataclass
class Memo:
    """What is known about some inputs; it holds on to them. `shared(memo)` goes on where an earlier one with it
    ended.
    """

    known: dict[tuple, _Known] = field(default_factory=dict)
    frames: list[_Frame] = field(default_factory=lambda: [_Frame()])


_memo: ContextVar[Memo | None] = ContextVar("nibkit.sharing", default=None)


@contextmanager
def shared(memo: Memo | None = None) -> Iterator[None]:
    """While it is open, what is asked again about the same inputs is not computed again.

    Inputs are the same if they are the same objects, so they must not be changed meanwhile. Every method opens one for
    itself; only the outermost counts, and nothing is kept behind it but in the `memo` it was given. Results are those
    without it, bit for bit. A thread has its own.
    """
    if _memo.get() is not None:
        yield
        return
    token = _memo.set(memo or Memo())
    try:
        yield
    finally:
        _memo.reset(token)


def once(key: tuple, make: Callable[[], Any]) -> Any:
    """make(), or what it gave within `shared` for the same key: names and numbers by value, the rest by identity."""
    memo = _memo.get()
    if memo is None:
        return make()
    place = tuple(part if isinstance(part, (int, str)) else id(part) for part in key)
    if place not in memo.known:
        memo.frames.append(_Frame({place}))
        started = _now()
        try:
            value = make()
        finally:
            frame = memo.frames.pop()
        span = started, _now()
        memo.frames[-1].asked.append(span)
        memo.known[place] = _Known(value, key, span, frame.asked, frame.used)
    memo.frames[-1].used |= memo.known[place].used
    return memo.known[place].value


@dataclass
class Clock:
    seconds: float = float("nan")


@contextmanager
def timed() -> Iterator[Clock]:
    """Within `shared`: the seconds of the body as if nothing had been known before, once it has ended."""
    memo, clock = _memo.get(), Clock()
    before = dict(memo.known)
    memo.frames.append(_Frame())
    started = _now()
    try:
        yield clock
    finally:
        frame = memo.frames.pop()
        clock.seconds = _between(started, _now()) + sum(before[place].seconds for place in frame.used & before.keys())


def _now() -> float | torch.cuda.Event:
    """A mark in time; on a GPU one in its queue, so that nothing waits."""
    if not torch.cuda.is_initialized():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
    """Seconds from one mark to the other; of a mark before CUDA's start, 0."""
    if isinstance(start, float):
        return end - start if isinstance(end, float) else 0.0
    end.synchronize()
    return start.elapsed_time(end) / 1000
