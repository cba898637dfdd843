"""The paper's Table 1, every cell from `properties.examine`, the paper's ticks beside it where its text has them."""

from collections.abc import Mapping

import pandas as pd
import torch
from clip.model import CLIP
from torch import Tensor

from ..models import Clip
from ..models import openai as openai_backend
from ..models.tokenizers import BPE
from .properties import PROPERTIES, Subject, examine

# The text says no more of the others; "complete" is not one of the paper's columns.
PAPER = {
    "nib, 10 steps": dict.fromkeys(PROPERTIES[:6], True),
    "m2ib": {"no randomness": False},
    "cocoa": {"no extra examples": False},
    "textspan": {"no extra examples": False, "no specific structure": False},
    "lico": {"no randomness": False, "explains the current model": False},
    "falcon": {"no information loss": False},
    "hossain": {"no extra examples": False},
}


def structures(clip) -> dict[str, Clip]:
    """A ResNet and, where transformers is installed, a SigLIP: small, with seeded random weights, on the clip's device.

    They take the pictures of a CLIP of the clip's size, and texts in CLIP's vocabulary.
    """
    size, found = clip.image.size, {}

    def around(name, model, backend):
        found[name] = Clip(
            name, model.float(), backend, openai_backend.transform(size), BPE(), clip.device, clip.dtype
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        around("a ResNet", CLIP(64, size, (1, 1, 1, 1), 16, None, 77, 49408, 64, 1, 4), openai_backend)
        try:
            import transformers

            from ..models import transformers as backend
        except ImportError:
            return found
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2}
        text = {
            "vocab_size": 49408,
            "projection_size": 64,
            "pad_token_id": 1,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        }
        config = transformers.SiglipConfig(
            vision_config=sizes | {"image_size": size, "patch_size": 32}, text_config=sizes | text
        )
        around("a SigLIP", transformers.SiglipModel(config), backend)
    return found


def matrix(
    subjects: Mapping[str, Subject], clip, pixels: Tensor, ids: list[Tensor], models: Mapping[str, Clip]
) -> pd.DataFrame:
    """Every subject examined: columns method, property, holds, evidence, paper (its tick: True, False or None).

    models: as of `structures`. Cost: about ten runs of each method on two pairs, and one on all.
    """
    tables = [examine(s, clip, pixels, ids, models).assign(method=name) for name, s in subjects.items()]
    table = pd.concat(tables, ignore_index=True)
    said = [PAPER.get(method, {}).get(name) for method, name in zip(table["method"], table["property"])]
    table["paper"] = pd.Series(said, dtype=object)
    return table[["method", "property", "holds", "evidence", "paper"]]


def marks(table: pd.DataFrame) -> pd.DataFrame:
    """The matrix to read, methods x properties: ✓ or ✗ as found, and in brackets what the paper says, where it does.

    >>> table = pd.DataFrame({"method": ["a"], "property": [PROPERTIES[0]], "holds": [True], "paper": [False]})
    >>> marks(table).loc["a", PROPERTIES[0]]
    '✓ (✗)'
    """
    sign = {True: "✓", False: "✗"}
    cells = [sign[h] + (f" ({sign[p]})" if p in sign else "") for h, p in zip(table["holds"], table["paper"])]
    wide = table.assign(mark=cells).pivot(index="method", columns="property", values="mark")
    return wide.reindex(index=table["method"].unique(), columns=PROPERTIES, fill_value="")
