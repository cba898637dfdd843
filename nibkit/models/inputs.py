"""Whether pixels and ids, and another model, are what a Clip takes, before work starts."""

import re
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from .devices import at_hand


def check_pixels(clip, pixels: Tensor) -> None:
    """Raise a ValueError with a sentence where pixels do not fit the model."""
    size, want = clip.image.size, "preprocess(images) makes what is wanted"
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
        shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise ValueError(f"pixels are {shape}, not (B, 3, {size}, {size}); {want}")
    if pixels.layout != torch.strided:
        raise ValueError(f"pixels are {str(pixels.layout).removeprefix('torch.')}, not dense; give pixels.to_dense()")
    if pixels.dtype != clip.text.embedding.dtype:
        raise ValueError(f"pixels are {pixels.dtype}, not {clip.text.embedding.dtype} as this model's weights; {want}")
    _check_device(clip, "pixels", pixels)
    if not len(pixels) or not pixels.isfinite().all():
        wrong = int((~pixels.isfinite()).sum())
        got = f"hold {wrong} values that are not finite" if wrong else "are of no picture"
        raise ValueError(f"pixels {got}; {want}")


def check_ids(clip, ids: list[Tensor]) -> None:
    """Raise a ValueError with a sentence where ids do not fit the model."""
    if isinstance(ids, Tensor) or not len(ids):
        got = "one tensor" if isinstance(ids, Tensor) else "empty"
        raise ValueError(f"ids must be a list of 1-D int64 tensors, not {got}; tokenize(texts) makes such a list")
    for k, i in enumerate(ids):
        if not isinstance(i, Tensor) or i.ndim != 1 or i.dtype != torch.int64 or not len(i):
            got = f"{tuple(i.shape)} {i.dtype}" if isinstance(i, Tensor) else type(i).__name__
            raise ValueError(f"ids[{k}] is {got}, not a non-empty 1-D int64 tensor; tokenize(texts) makes such a list")
        if len(i) > clip.text.context:
            most = clip.text.context
            raise ValueError(f"ids[{k}] has {len(i)} tokens; this model reads at most {most}: shorten the text")
        _check_device(clip, f"ids[{k}]", i)
    for k, i in enumerate(at_hand(ids)):
        low, high = int(i.min()), int(i.max())
        if low < 0 or high >= len(clip.text.embedding):
            wrong = low if low < 0 else high
            raise ValueError(f"ids[{k}] holds {wrong}; this vocabulary is 0..{len(clip.text.embedding) - 1}")


def _check_device(clip, what: str, tensor: Tensor) -> None:
    if tensor.device != clip.device:
        there = str(clip.device)
        raise ValueError(f"{what} on {tensor.device}, model on {there}; move one of them: .to({there!r})")


def check_model(clip, model: torch.nn.Module) -> None:
    """Raise a ValueError with a sentence where a model is of another kind than the Clip's, or not in single
    precision.
    """
    kind = type(clip.model)
    if not isinstance(model, kind):
        raise ValueError(f"a {type(model).__name__} is no {kind.__name__}, which {clip.name} is; load one of its kind")
    kinds = {p.dtype for p in model.parameters()}
    if kinds not in ({torch.float32}, {torch.float64}):
        found = ", ".join(sorted(map(str, kinds)))
        raise ValueError(f"the model's weights are {found}; give model.float(), or dtype='bfloat16' with it")


def check_sizes(clip, other) -> None:
    """Raise a ValueError with a sentence where another Clip does not take the same pixels and ids."""
    ours, theirs = ((c.image.size, c.image.grid, len(c.text.embedding), c.text.context) for c in (clip, other))
    if ours != theirs:
        what = "(pixels, grid, vocabulary, context)"
        raise ValueError(f"the model takes {what} {theirs}, {clip.name} {ours}; load one like it")


def check_as_many(ids: list[Tensor], pixels: Tensor) -> None:
    """Raise a ValueError with a sentence where there is not a text for each picture."""
    if len(ids) != len(pixels):
        raise ValueError(
            f"ids must be a list of {len(pixels)} 1-D int64 tensors, one for each picture, not {len(ids)}; "
            "tokenize(texts) makes such a list"
        )


def list_of_pictures(images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
    """One picture or several as a list; a ValueError where there is none, or something else."""
    images = [images] if isinstance(images, Image.Image) else list(images)
    if not images:
        raise ValueError("there is no picture; give one or more")
    if wrong := [i for i in images if not isinstance(i, Image.Image)]:
        what = type(wrong[0]).__name__
        raise ValueError(f"a {what} is not a picture; open one first, such as by PIL.Image.open(path)")
    return images


def list_of_texts(texts: str | Sequence[str]) -> list[str]:
    """One text or several as a list; a ValueError for anything else, and for a text that no tokenizer can take."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    if halves := [text for text in texts if isinstance(text, str) and re.search("[\ud800-\udfff]", text)]:
        what = "half of a sign (a lone surrogate, such as half an emoji)"
        raise ValueError(f"{halves[0][:60]!r} holds {what}: take it out")
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"{wrong[0]!r} is a {type(wrong[0]).__name__}, not a text")
    return texts
