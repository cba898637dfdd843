"""The one reader of pictures: any file or picture of Pillow's -> upright 8-bit RGB, or a DataError with the reason."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .pairs import DataError

# What is read. Pillow knows more, one of which runs a program that the file brings along (EPS, by Ghostscript).
# HEIF is there where pillow-heif is, and registered.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF")
MAX_ASPECT = 100  # a preprocess enlarges the short side: of a 1 x 60000 picture it would make one of 10 GB
SIXTEEN_BITS_AT_MOST = ("PNG", "PPM")  # formats whose 16-bit grey Pillow may open in mode I, as it does 32-bit TIFFs


def opened(source: Path | bytes, name: str = "") -> Image.Image:
    """The decoded picture as it is stored, first frame of an animation. `name` is what an error calls it.

    DataError where it is missing, broken or cut short, is in none of FORMATS whatever its name says, or has more pixels
    than Pillow's limit for decompression bombs.
    """
    Image.init()
    try:
        endless = not isinstance(source, bytes) and os.path.exists(source) and not os.path.isfile(source)
        if endless and not os.path.isdir(source):
            raise ValueError("it is a pipe or a device, not a file")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            known = [name for name in FORMATS if name in Image.OPEN]  # AVIF and HEIF may be missing
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=known)
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels are the limit here (a decompression bomb?); shrink it"
        raise DataError(f"{name or source} cannot be read as a picture: too large, {limit}") from error
    except Exception as error:  # decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error, ...
        reason = _reason(error, source)
        raise DataError(f"{name or source} cannot be read as a picture: {reason}") from error
    return image


def read(source: Path | bytes, name: str = "") -> Image.Image:
    """The picture as a person sees it, 8 bits, RGB: `upright_rgb` of `opened`, with their errors."""
    return upright_rgb(opened(source, name), name or str(source))


def upright_rgb(image: Image.Image, name: str = "the picture") -> Image.Image:
    """A copy turned as EXIF says, on white where it is transparent, 8 bits, RGB.

    16-bit grey values are scaled by 1/257. DataError for a file of another format than FORMATS, for pixels without a
    known range (32-bit integer and floating point), where there are no pixels, and where one side is more than 100
    times the other.
    """
    if image.format and image.format not in FORMATS:  # opened by hand; its pixels may not have been decoded yet
        known = ", ".join(FORMATS)
        raise DataError(f"{name} cannot be read as a picture: {image.format} is none of the formats {known}")
    if not min(image.size):
        raise DataError(f"{name} is {image.width} x {image.height}: it has no pixels")
    if max(image.size) > MAX_ASPECT * min(image.size):
        size = f"{image.width} x {image.height}"
        raise DataError(f"{name} is {size}; one side may be at most {MAX_ASPECT} times the other: crop it")
    try:
        if image.mode == "F" or (image.mode == "I" and image.format not in SIXTEEN_BITS_AT_MOST):
            raise ValueError(f"its pixels (Pillow's mode {image.mode}) have no known range; save it with 8 or 16 bits")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:
        raise DataError(f"{name} cannot be read as a picture: {error}") from error


def _reason(error: Exception, source: Path | bytes) -> str:
    if not source if isinstance(source, bytes) else os.path.isfile(source) and not os.path.getsize(source):
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"it is in none of the formats {', '.join(FORMATS)}"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
