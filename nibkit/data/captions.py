"""Words of captions: which of them name what, and the prompt of a single name."""


def article(name: str) -> str:
    """The name behind "a" or "an"."""
    return ("an " if name[0] in "aeiou" else "a ") + name


def prompt(name: str) -> str:
    """The text that stands for one object: "a photo of an owl"."""
    return f"a photo of {article(name)}"


def words_of(text: str, names) -> dict[int, str]:
    """Position of each word (split at spaces) that names one of `names` -> that name.

    >>> words_of("a cat, and a dog.", ["cat", "dog"])
    {1: 'cat', 4: 'dog'}
    """
    stripped = [w.strip(",.").lower() for w in text.split()]
    return {i: w for i, w in enumerate(stripped) if w in names}
