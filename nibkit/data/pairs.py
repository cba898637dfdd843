"""What a dataset is made of: `Pair`, `PairDataset`, and the choice among several captions of one picture."""

from __future__ import annotations

import dataclasses
import itertools
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..checks import PROTOCOLS, one_of

if TYPE_CHECKING:  # lists of pairs are read without it
    from torch import Tensor

PAPER_BATCH = 32  # pictures that the published code looks at together when it chooses Flickr8k's captions


class DataError(ValueError):
    """A file of a dataset cannot be used; the message names the file and the reason."""


def string(value, what: str) -> str:
    """A string that a list holds, "" for null; DataError for anything else, in which `what` names it."""
    if value is not None and not isinstance(value, str):
        raise DataError(f"{what} is {reprlib.repr(value)}, not a string; put one there")
    return value or ""


@dataclass(frozen=True)
class Pair:
    """One picture and its caption.

    id: stable name within all data sets, such as "objects/0000". text: the caption.
    words: position of a word in `text.split()` -> name of the object it names; {} where that is not known.
    captions: all captions of the picture where it has several, `text` the first; `PairDataset.resolve` chooses.
    """

    id: str
    text: str
    read_image: Callable[[], Image.Image] = field(repr=False, compare=False)
    read_masks: Callable[[], dict[str, np.ndarray]] = field(repr=False, compare=False, default=dict)
    words: dict[int, str] = field(default_factory=dict)
    captions: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        """PIL RGB, read anew at every access; DataError where it cannot be read."""
        return self.read_image()

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Object name -> boolean array (H, W), true on its visible pixels; {} where there are none."""
        return self.read_masks()


class PairDataset(Sequence):
    """Pairs in a fixed order. `dataset[3]` is a Pair, `dataset[:10]` a PairDataset of the same name."""

    def __init__(self, name: str, pairs: Sequence[Pair]):
        self.name = name
        self._pairs = tuple(pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return PairDataset(self.name, self._pairs[index])
        return self._pairs[index]

    def __repr__(self) -> str:
        return f"PairDataset({self.name!r}, {len(self)} pairs)"

    def usable(self, clip, n: int) -> PairDataset:
        """The first n pairs whose picture can be read and whose caption fits `clip`: figures pass over the others."""

        def fits(pair: Pair) -> bool:
            try:
                clip.check(clip.preprocess([pair.image]), clip.tokenize([pair.text]))
            except ValueError:
                return False
            return True

        return PairDataset(self.name, list(itertools.islice(filter(fits, self._pairs), n)))

    def resolve(self, clip, protocol: str = "corrected") -> PairDataset:
        """The same pairs with one caption each: of several, the most similar to the pair's own picture by `clip`.

        protocol="paper": the most similar to the first picture of its batch of 32 pairs, as the published code has it
        (a slip: with Flickr8k 31 of 32 captions are chosen for another picture). `benchmark.run` calls this with its
        own protocol. Captions that are empty or too long for the model are not chosen. Where a picture that is needed
        cannot be read, "corrected" leaves that pair its first caption, "paper" takes the batch's next picture.
        """
        one_of("protocol", protocol, PROTOCOLS)
        pairs = list(self._pairs)
        for start in range(0, len(pairs), PAPER_BATCH):
            batch = pairs[start : start + PAPER_BATCH]
            if protocol == "paper" and any(pair.captions for pair in batch):
                first = next((e for pair in batch if (e := _embedded(clip, pair)) is not None), None)
            for k, pair in enumerate(batch, start):
                if pair.captions:
                    pairs[k] = _chosen(clip, pair, first if protocol == "paper" else _embedded(clip, pair))
        return PairDataset(self.name, pairs)


def _embedded(clip, pair: Pair) -> Tensor | None:
    """(1, E), or None where the picture cannot be read; one at a time, so that no other picture plays a part."""
    try:
        return clip.embed_image(pair.image)
    except DataError:
        return None


def _chosen(clip, pair: Pair, picture: Tensor | None) -> Pair:
    from torch.nn.functional import cosine_similarity

    found = []
    for caption in pair.captions:
        try:
            (ids,) = clip.tokenize([caption])
        except ValueError:  # too long
            continue
        if len(ids) > 2:  # more than BOS and EOS
            found.append((caption, ids))
    text = found[0][0] if found else pair.text
    if picture is not None and found:
        text = found[int(cosine_similarity(picture, clip.embed_text([ids for _, ids in found])).argmax())][0]
    return dataclasses.replace(pair, text=text, captions=())
