"""The one reader of pictures: any file that Pillow knows -> upright 8-bit RGB, or a DataError with the reason."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .pairs import DataError

MAX_ASPECT = 100  # a preprocess enlarges the short side: of a 1 x 60000 picture it would make one of 10 GB


def opened(source: Path | bytes, name: str = "") -> Image.Image:
    """The decoded picture as it is stored, first frame of an animation. `name` is what an error calls it.

    DataError where it is missing, broken or cut short, or has more pixels than Pillow's limit for decompression bombs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels are the limit here (a decompression bomb?); shrink it"
        raise DataError(f"{name or source} cannot be read as a picture: too large, {limit}") from error
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error, ...
        reason = _reason(error, source)
        raise DataError(f"{name or source} cannot be read as a picture: {reason}") from error
    return image


def read(source: Path | bytes, name: str = "") -> Image.Image:
    """The picture as a person sees it: turned as EXIF says, on white where it is transparent, 8 bits, RGB.

    16-bit grey values are scaled by 1/257. DataError as `opened`, and for pixels without a known range (32-bit integer
    and floating point), and where one side is more than 100 times the other.
    """
    image = opened(source, name)
    if max(image.size) > MAX_ASPECT * min(image.size):
        size = f"{image.width} x {image.height}"
        raise DataError(f"{name or source} is {size}; one side may be at most {MAX_ASPECT} times the other: crop it")
    try:
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "F" or image.mode.startswith("I"):
            image = _eight_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except Exception as error:
        raise DataError(f"{name or source} cannot be read as a picture: {error}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its pixels (Pillow's mode {image.mode}) have no known range; save it with 8 or 16 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _reason(error: Exception, source: Path | bytes) -> str:
    if not source if isinstance(source, bytes) else os.path.isfile(source) and not os.path.getsize(source):
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "no format that Pillow knows"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
