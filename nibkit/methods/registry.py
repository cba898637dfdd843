"""What makes a function a method of nibkit: `@method(unit="cosine")` checks its options and puts it into METHODS.

A method is one file with one decorated function, and one line in `nibkit/methods/__init__.py`. What others ask about it
follows from the decorator and the function's signature: its unit, its use of attention and of a layer, its colour.
"""

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping

from ..checks import PROTOCOLS, one_of, whole
from ..models.modes import plain, recordable
from ..models.sharing import shared, timed
from ..models.towers import bytes_of

# name -> method(clip, pixels, ids, **options) -> Attribution, as they were registered
METHODS: dict[str, Callable] = {}


def _batch_size(name: str, value: object) -> int | str:
    try:
        return whole(name, value)
    except ValueError:
        bytes_of(value)  # whose sentence names all that is allowed
        return value


COMMON = {  # option -> its check; "layer" is checked with the model
    "steps": whole,
    "protocol": functools.partial(one_of, allowed=PROTOCOLS),
    "seed": functools.partial(whole, least=0, most=2**32 - 1),
    "batch_size": _batch_size,
}


def method(
    *,
    title: str | None = None,
    unit: str | None = None,
    attention: bool = False,
    layers: Callable | None = None,
    colour: str | None = None,
    **checks: Callable,
) -> Callable[[Callable], Callable]:
    """Make `function(clip, pixels, ids, *, ...) -> Attribution` a method of nibkit: METHODS[function.__name__].

    Every method takes `layer` and the COMMON options and ignores those it has no use for, so that a benchmark can give
    the same to all; any other unknown option is refused. batch_size bounds memory, not results: rows at once, or a
    budget (`Tower.rows_at_once`), by default "auto"; it changes sums of float32 in their last digits (1e-6 of a score),
    as the number of threads does. Inputs are checked before work starts, and `info` gains the pair's share of
    the seconds that the method takes by itself: what it found computed (`sharing`) is counted in.

    title: the method's name as papers write it; by default the function's. unit: of a patch's or a token's score, such
    as "cosine"; None for scores without one. attention: the method reads the blocks' attention, so a tower without it
    is refused. layers: (clip, `layer`) -> the pair that reaches the function; `Clip.layers` by default. colour: in
    figures; None for the next one of the palette. checks: an option of the function's own -> its check, (name, value)
    -> value or a ValueError, as in `checks`.

    Attributes of the method: title, unit, attention and colour as above; takes, the names of the options it has a use
    for; check(clip, options) -> the options as they reach the function, checked without a run: ValueError, or TypeError
    for an unknown one; refuse_unused(options): a ValueError where there are some that it would ignore.
    """

    def register(function: Callable) -> Callable:
        name = function.__name__

        @functools.wraps(function)
        def run(clip, pixels, ids, **options):
            options = run.check(clip, options)
            for tower in (clip.image, clip.text) if attention else ():
                if tower.unattended:
                    free = ", ".join(other for other, found in METHODS.items() if not found.attention)
                    said = f"{name} reads attention, and the {tower.name} tower of {clip.name} {tower.unattended}"
                    raise ValueError(f"{said}; {free} do without")
            clip.check(pixels, ids)
            with plain(grad=True), shared(), timed() as clock:
                if pixels.is_inference() or any(i.is_inference() for i in ids):
                    pixels, ids = recordable(pixels), [recordable(i) for i in ids]
                result = function(clip, pixels, ids, **options)
            result.info["seconds"] = clock.seconds / len(pixels)
            asked = json.loads(json.dumps(options, default=str))  # as a file has them
            result.about |= {"method": name, "options": asked, "model": clip.label}
            return result

        if name in METHODS and METHODS[name].__module__ != function.__module__:
            raise ValueError(f"there is a method {name!r} in {METHODS[name].__module__}; give yours another name")
        run.title, run.unit, run.attention, run.colour = title or name, unit, attention, colour
        run.takes = tuple(p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY)
        run.check = functools.partial(_check, name, run.takes, COMMON | checks, layers)
        run.refuse_unused = functools.partial(_refuse_unused, name, run.takes)
        METHODS[name] = run
        return run

    return register


def display_name(label: str, steps: int = 10) -> str:
    """A label of rows as every table and figure writes it: the method's title, then its variant in brackets.

    steps: of NIB's sum where the label does not say. A label that no method begins is left as it is.

    >>> display_name("nib"), display_name("nib exact"), display_name("nib steps=3"), display_name("m2ib beta=0.1")
    ('NIB (10 steps, published)', 'NIB (exact)', 'NIB (3 steps, published)', 'M2IB (beta 0.1)')
    >>> display_name("rise (100 masks)"), display_name("m2ib"), display_name("a cat")
    ('RISE (100 masks)', 'M2IB', 'a cat')
    """
    name, variant = re.fullmatch(r"(\w*)[, ]*\(?(.*?)\)?", label).groups()
    if name not in METHODS:
        return label
    variant = re.sub(r"^steps (\d+)", r"\1 steps", variant.replace("=", " "))
    if name == "nib" and (not variant or variant.endswith("steps")):
        variant = f"{variant or f'{steps} steps'}, published"
    return METHODS[name].title + (f" ({variant})" if variant else "")


def _check(name: str, takes: tuple, checks: Mapping, layers: Callable | None, clip, options: Mapping) -> dict:
    allowed = {"layer", *COMMON, *takes}
    if unknown := sorted(options.keys() - allowed):
        said = f"method {name!r} has no option {unknown[0]!r}"
        raise TypeError(f"{said}; it takes {', '.join(sorted(allowed))}")
    found = {o: checks[o](o, value) if o in checks else value for o, value in options.items()}
    layer = options.get("layer")
    found["layer"] = layers(clip, layer) if layers else clip.layers(layer)
    return {o: value for o, value in found.items() if o in takes}


def _refuse_unused(name: str, takes: tuple, options: Mapping) -> None:
    for o in sorted(options.keys() & {"layer", *COMMON} - set(takes)):
        users = ", ".join(other for other, found in METHODS.items() if o in found.takes)
        said = f"method {name!r} has no use for {o}={options[o]!r}; it takes {', '.join(takes) or 'no option'}"
        raise ValueError(f"{said}; methods with {o}: {users}")
