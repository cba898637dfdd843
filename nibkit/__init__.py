"""nibkit: the Narrowing Information Bottleneck for CLIP, its baselines and its evidence.

>>> import nibkit
>>> clip = nibkit.load("scenes")
>>> pair = nibkit.data.load("cat-and-dog")[0]
>>> nibkit.explain(clip, pair.image, "a cat").image.shape  # patch scores; .text has the words'
(1, 7, 7)

- Models: `nibkit.models`, CLIPs that can be cut.
- Scores: `nibkit.methods` (`nibkit.methods.nib` is the paper), `nibkit.attribution`, `nibkit.interop`,
  `nibkit.explorer`.
- Evidence: `nibkit.metrics`, `nibkit.benchmark`, and `nibkit.study`, what single notebooks ask.
- Data: `nibkit.data`, `nibkit.scenes`, `nibkit.paths`.
- Reports: `nibkit.plots`, `nibkit.reports`, `nibkit.commands`. Arguments: `nibkit.checks`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from PIL import Image

from . import data, scenes
from .checks import one_of

if TYPE_CHECKING or "EAGER_IMPORT" in os.environ:  # as `make docs` wants it; Scientific Python's name for that (SPEC 1)
    from . import metrics
    from .attribution import Attribution
    from .methods import METHODS
    from .models import Clip, load

__version__ = "0.1.0"
__all__ = ["METHODS", "Attribution", "Clip", "data", "explain", "explore", "load", "metrics", "scenes"]
# Name -> the module that it is or stands in. They take seconds of torch to import, so they come when they are asked
# for (PEP 562): help, and the refusal of a mistyped name, need not wait for them.
_LATER = {"METHODS": "methods", "Attribution": "attribution", "Clip": "models", "load": "models"}
_LATER |= {name: name for name in ("attribution", "methods", "metrics", "models")}


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_LATER[name]}")
    return globals().setdefault(name, module if name == _LATER[name] else getattr(module, name))


def explain(
    clip: Clip, image: Image.Image | Sequence[Image.Image], text: str | Sequence[str], method: str = "nib", **options
) -> Attribution:
    """Score the patches and tokens of one pair, or of several, by a method of METHODS.

    image: PIL picture(s); text: as many texts. One picture with several texts, or one text with several pictures, is
    repeated.
    options: the method's own, such as layer=9, steps=10, rule="exact"; one that it has no use for is refused here,
    though not by METHODS[method], which a benchmark gives the same options as all others. Errors: ValueError,
    TypeError.

    >>> import nibkit
    >>> clip, pair = nibkit.load("scenes"), nibkit.data.load("cat-and-dog")[0]
    >>> a = nibkit.explain(clip, pair.image, ["a cat", "a dog"], rule="exact")
    >>> [len(scores) for scores in a.text]  # BOS, two words, EOS
    [4, 4]
    >>> a.info.converged.tolist()  # do the scores add up to F(Z) - F(0), and is each right to 1 %?
    [True, True]
    """
    from .methods import METHODS

    METHODS[one_of("method", method, METHODS)].refuse_unused(options)
    images, texts = (
        list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
        for given in (image, text)
    )
    if not images or not texts:
        raise ValueError("there is no picture or no text; give one or more of both")
    if any(isinstance(t, str) and not t.strip() for t in texts):
        raise ValueError('a text is empty; give a caption such as "a dog"')
    n = max(len(images), len(texts))
    images, texts = (items * n if len(items) == 1 else items for items in (images, texts))
    if len(images) != len(texts):
        raise ValueError(
            f"{len(images)} pictures and {len(texts)} texts do not pair up; give one of either, or as many of both"
        )
    ids = clip.tokenize(texts)
    found = METHODS[method](clip, clip.preprocess(images), ids, **options)
    found.about |= {"texts": texts, "tokens": list(map(clip.decode, ids)), "before": clip.text.before}
    found.about |= {"names": [str(getattr(i, "filename", "")) for i in images]}
    return found


def explore(clip: Clip, image: Image.Image, text: str):
    """A panel to ask with: sliders, method, text, upload and a scene editor beside the map; an
    `nibkit.explorer.Explorer`.

    image: PIL picture; text: its caption. Needs a notebook (JupyterLab, Colab, Voila); `.figure()` is the same without
    one.
    """
    from .explorer import Explorer  # widgets and plots only where they are wanted

    return Explorer(clip, image, text)
