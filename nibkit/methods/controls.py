"""Controls that look at nothing: any method worth its name must beat them.

`random`: independent uniform scores. `centre`: the picture's centre and the text's inner tokens, whatever they show.
"""

import numpy as np
import pandas as pd

from ..attribution import Attribution
from ..models.devices import at_hand
from .registry import method


def _info(n: int) -> pd.DataFrame:
    return pd.DataFrame({"passes": np.zeros(n, int)})


@method(colour="0.7")
def random(clip, pixels, ids, *, seed: int = 0) -> Attribution:
    """Uniform scores in [0, 1] from a generator of its own: same seed, same scores; pair k's do not depend on the
    batch.
    """
    draws = [np.random.default_rng([seed, *i.tolist()]) for i in at_hand(ids)]
    image = np.stack([rng.random(clip.image.grid, np.float32) for rng in draws])
    text = [rng.random(len(i), np.float32) for rng, i in zip(draws, ids)]
    return Attribution(image, text, clip.image.size, _info(len(ids)))


@method(colour="0.45")
def centre(clip, pixels, ids) -> Attribution:
    """A Gaussian bump in the middle of the picture (sigma a quarter of its side); 1 for every token but BOS and EOS."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in clip.image.grid)
    bump = np.exp(-(y[:, None] ** 2 + x**2) / (2 * 0.5**2))
    first = clip.text.before
    text = [np.pad(np.ones(max(0, len(i) - first - 1), np.float32), (first, 1))[: len(i)] for i in ids]
    return Attribution(np.repeat(bump[None], len(ids), 0), text, clip.image.size, _info(len(ids)))
