"""Whether pixels and ids are what a model takes, before work starts."""

import torch
from torch import Tensor


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
        low, high = int(i.min()), int(i.max())
        if low < 0 or high >= len(clip.text.embedding):
            wrong = low if low < 0 else high
            raise ValueError(f"ids[{k}] holds {wrong}; this vocabulary is 0..{len(clip.text.embedding) - 1}")
        _check_device(clip, f"ids[{k}]", i)


def _check_device(clip, what: str, tensor: Tensor) -> None:
    if tensor.device != clip.device:
        there = str(clip.device)
        raise ValueError(f"{what} on {tensor.device}, model on {there}; move one of them: .to({there!r})")
