"""What a caller hands in, checked before work starts: returned as it is wanted, or a ValueError that says what is
allowed.
"""

import math
import operator
import re
from collections.abc import Collection
from numbers import Real

# How nibkit says no, always in a sentence: bad input (data.DataError among it), files or weights not to be had, an
# extra that is not installed. The command line, the panel and the fuzz test know these; anything else is a fault.
ERRORS = (ValueError, OSError, ImportError)
PROTOCOLS = ("paper", "corrected")  # as the authors' code computes, and as the paper defines


def whole(name: str, value: object, least: int = 1, most: int | None = None, of: str = "") -> int:
    """A whole number >= `least`, or in least..most (`of` says of what), as an int: numpy's integers too, no booleans.

    >>> whole("layer", 12, 0, 11, " of this 12-block tower")
    Traceback (most recent call last):
    ValueError: layer=12 is not in 0..11 of this 12-block tower
    """
    bounds = f">= {least}" if most is None else f"in {least}..{most}{of}"
    try:
        n = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        n = None
    if n is None or n < least or (most is not None and n > most):
        kind = "a whole number " if n is None or most is None else ""
        raise ValueError(f"{name}={repr(value) if n is None else n} is not {kind}{bounds}")
    return n


def number(name: str, value: object, zero: bool = True, most: float = math.inf) -> float:
    """A finite number >= 0 (> 0 without `zero`), up to `most`, as a float.

    >>> number("tol", float("nan"))
    Traceback (most recent call last):
    ValueError: tol=nan is not a finite number >= 0
    """
    bounds = f"{'>=' if zero else '>'} 0" + (f" and <= {most:g}" if most < math.inf else "")
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is not a finite number {bounds}")
    if value < 0 or (value == 0 and not zero) or value > most:
        raise ValueError(f"{name}={value} is not {bounds}")
    return float(value)


def one_of(name: str, value: object, allowed: Collection[str]) -> str:
    """One of the `allowed` names.

    >>> one_of("protocol", "papre", ["paper", "corrected"])
    Traceback (most recent call last):
    ValueError: protocol='papre' is not one of: paper, corrected
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}={value!r} is not one of: {', '.join(allowed)}")
    return value


def in_a_row(what: str, name: object) -> str:
    """A name that a row of a table can hold, as a string: without line breaks, and without halves of signs.

    >>> in_a_row("pair", "a\\nb")
    Traceback (most recent call last):
    ValueError: the name of a pair, 'a\\nb', holds a line break or half of a sign; give it another
    """
    if re.search("[\r\n\ud800-\udfff]", found := str(name)):
        raise ValueError(f"the name of a {what}, {found!r}, holds a line break or half of a sign; give it another")
    return found


def one_line(text: object) -> str:
    """A text as a row of a table or a screen can hold it: without line breaks, and spelt out what no file can hold
    (half of an emoji, a byte of a file's name).

    >>> one_line("a cat\\n \\ud83d")
    'a cat \\\\ud83d'
    """
    return " ".join(str(text).encode("utf-8", "backslashreplace").decode("utf-8").split())
