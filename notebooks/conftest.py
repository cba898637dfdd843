"""nbval compares outputs as text. Here the last digit of a number may be off by one.

A number near a rounding border is shown with another last digit on another processor, and its column may shift. So a
number with a decimal point or an exponent agrees within one unit of the last digit shown; words and whole numbers agree
exactly.
"""

import re
from decimal import Decimal

from nbval.plugin import IPyNbCell

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+(?:e[-+]?\d+)?|e[-+]?\d+)(?!\w|\.\d)")


class Shown(str):
    """An output, equal to another one but for a unit of the last digit of each number, and for white space."""

    def __eq__(self, other):
        words, others = (" ".join(NUMBER.sub("#", text).split()) for text in (self, other))
        pairs = zip(*(map(Decimal, NUMBER.findall(text)) for text in (self, other)))
        return words == others and all(abs(a - b) <= unit(a, b) for a, b in pairs)

    def __ne__(self, other):
        return not self == other

    __hash__ = None


def unit(*numbers: Decimal) -> Decimal:
    """One at the last digit of the number that shows fewer."""
    return Decimal(1).scaleb(max(number.as_tuple().exponent for number in numbers))


def pytest_itemcollected(item):
    if isinstance(item, IPyNbCell):
        sanitize = item.sanitize
        item.sanitize = lambda output: Shown(sanitize(output)) if isinstance(output, str) else output
