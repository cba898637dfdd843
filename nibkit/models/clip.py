"""`load` a CLIP: two towers, preprocess and tokenizer together."""

import copy
import functools
import importlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..checks import one_of
from ..data.pictures import upright_rgb
from . import open_clip, openai, transformers
from .devices import onto
from .files import said
from .inputs import check_as_many, check_ids, check_model, check_pixels, check_sizes, list_of_pictures, list_of_texts
from .modes import plain, same_storage, seeded, unwrapped, view
from .sharing import once
from .towers import ImageTower, Layer, TextTower

# A backend is a module of this folder, for one library. It declares FORMS, what `load` may be given (form -> help;
# {hub} is the hub's cache); NAMES, those among them that are whole names; matches(name, path), whether a name has
# another of these forms; of_name(name, pretrained) -> (model, Transform, tokenizer, label); towers(model) ->
# (ImageTower, TextTower); and here(), what is on this machine. Those that know a kind of folder by its configuration
# come first.
BACKENDS = (transformers, open_clip, openai)
NAMES = tuple(form for backend in reversed(BACKENDS) for forms in backend.FORMS for form in forms.split(", "))
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALVES, torch.float64)
GRADIENTS = (torch.float32, torch.bfloat16)


class Clip:
    """An image tower and a text tower that share an embedding space, with what makes their inputs.

    `preprocess`: PIL picture(s) -> pixels (B, 3, H, W), normalised, on the device and in the dtype of the weights.
    `tokenize`: text(s) -> a list of B 1-D int64 tensors, BOS .. EOS, not padded.
    `decode`: ids -> a list of word pieces.
    """

    image: ImageTower
    text: TextTower
    source: dict | None = None  # the arguments of the `load` that made it
    _theirs: torch.nn.Module | None = None  # the model of `around`, whose weights it looks at

    def __init__(
        self,
        name: str,
        model,
        backend,
        transform: Callable,
        tokenizer: Callable,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        gradients: torch.dtype = torch.float32,
    ):
        self.name, self.model, self.dtype = name, model.eval().requires_grad_(False).to(device), dtype
        self.gradients = gradients
        self.image, self.text = backend.towers(self.model)
        self._backend, self._transform, self._tokenizer = backend, transform, tokenizer
        self.text.before = tokenizer.before
        if self.text.pad is not None and tokenizer.pad is not None:
            self.text.pad = tokenizer.pad
        for tower in (self.image, self.text):
            if dtype in HALVES:
                tower.forward_only = functools.partial(plain, half=(self.device.type, dtype))
            if gradients in HALVES:
                tower.differentiated = functools.partial(plain, half=(self.device.type, gradients))

    def around(self, model, dtype: torch.dtype | None = None, gradients: torch.dtype | None = None) -> "Clip":
        """The same CLIP around a `model` of the same architecture, one in training too. dtype, gradients: as in `load`.

        The model stays as it is: the Clip looks at its weights, where they are, through a frozen copy of its modules.
        What changes the weights later is seen; other changes of the modules, such as hooks, are not. Errors: ValueError
        for a model of another kind or size, or with weights that are neither float32 nor float64.
        """
        inner = unwrapped(model)
        check_model(self, inner)
        device = next(inner.parameters()).device
        halves = _dtype("dtype", dtype or self.dtype), _dtype("gradients", gradients or self.gradients, GRADIENTS)
        clip = self._with(view(inner), device, *halves)
        check_sizes(self, clip)
        clip._theirs = inner
        return clip

    def _with(self, model, device: torch.device, *halves: torch.dtype) -> "Clip":
        return type(self)(self.name, model, self._backend, self._transform, self._tokenizer, device, *halves)

    def _follow(self) -> None:
        """Look at the weights that the model of `around` has now, if some were replaced."""
        if self._theirs is not None and not same_storage(self.model, self._theirs):
            now = self.around(self._theirs)
            self.model, self.image, self.text = now.model, now.image, now.text

    def __deepcopy__(self, memo) -> "Clip":
        return self._with(copy.deepcopy(self.model, memo), self.device, self.dtype, self.gradients)

    def __reduce__(self):
        made = self._backend.__name__, self._transform, self._tokenizer, self.device, self.dtype, self.gradients
        return _unpickled, (type(self), self.name, self.model, *made), {"source": self.source}

    def __repr__(self):
        i, t = self.image, self.text
        return (
            f"Clip({self.name}: image {i.size}x{i.size}, {i.grid[0]}x{i.grid[1]} patches, {len(i.blocks)} blocks of "
            f"{i.width}; text {len(t.blocks)} blocks of {t.width}; on {self.device})"
        )

    @property
    def label(self) -> str:
        """The model's name, and the dtype of its passes where that is not float32: their numbers differ."""
        label = self.name if self.dtype == torch.float32 else f"{self.name} in {str(self.dtype).removeprefix('torch.')}"
        half = self.gradients in HALVES
        return f"{label}, gradients in {str(self.gradients).removeprefix('torch.')}" if half else label

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where inputs must be."""
        return self.text.embedding.device

    @property
    def logit_scale(self) -> Tensor:
        """exp of the model's learnt log temperature, a scalar."""
        return self.model.logit_scale.exp()

    def layers(self, layer: Layer = None) -> tuple[int, int]:
        """Where to cut the (image, text) towers.

        layer: a number for both, a pair, or None: `Tower.default_layer`, the paper's 9 of 12.
        Errors: ValueError for a number that a tower does not have.

        >>> load("scenes").layers((3, 4))
        (3, 4)
        """
        if layer is None:
            return self.image.default_layer, self.text.default_layer
        image, text = layer if isinstance(layer, tuple | list) and len(layer) == 2 else (layer, layer)
        return self.image.check_layer(image), self.text.check_layer(text)

    def preprocess(self, images: Image.Image | Sequence[Image.Image], device: str | None = None) -> Tensor:
        """PIL picture(s) of any mode and size -> pixels (B, 3, H, W), normalised, on the model's device or another.

        They are turned upright and made RGB as files are, DataError included: see `data.pictures.upright_rgb`.
        """
        images = list_of_pictures(images)
        with plain():
            pixels = torch.stack([self._transform(upright_rgb(i)) for i in images])
            return pixels.to(self.device if device is None else device, self.text.embedding.dtype)

    def picture(self, pixels: Tensor) -> np.ndarray:
        """What `preprocess` made of one picture, (3, H, W), as RGB to look at, (H, W, 3) in [0, 1]."""
        return self._transform.undo(pixels.cpu().numpy())

    def seen(self, mask: np.ndarray) -> np.ndarray:
        """The part of a picture's mask (H, W) that the model sees, at the mask's resolution.

        CLIP looks at the square in the middle, SigLIP at all of it; a model that pads pictures gets a padded mask. A
        map that meets the mask is enlarged to what this returns: `Attribution.signed_map(seen.shape)`.
        """
        return self._transform.seen(mask)

    def tokenize(self, texts: str | Sequence[str]) -> list[Tensor]:
        """Text(s) -> B 1-D int64 tensors, BOS .. EOS, not padded; ValueError for one that is too long for the model."""
        texts = list_of_texts(texts)
        ids = [self._tokenizer(t) for t in texts]
        for text, i in zip(texts, ids):
            if len(i) > self.text.context:
                raise ValueError(
                    f"{text[:60]!r}... has {len(i)} tokens; this model reads at most {self.text.context}: shorten it"
                )
        together = onto(self.device, torch.tensor([token for i in ids for token in i], dtype=torch.long))
        return list(together.split([len(i) for i in ids]))

    def decode(self, ids: Tensor) -> list[str]:
        """Each id's piece of text, a space behind the pieces that end a word.

        >>> clip = load("scenes")
        >>> clip.decode(clip.tokenize("a cat")[0])
        ['<|startoftext|>', 'a ', 'cat ', '<|endoftext|>']
        """
        return self._tokenizer.pieces(ids.tolist())

    def check(self, pixels: Tensor, ids: list[Tensor]) -> None:
        """Raise a ValueError with a sentence where pixels or ids do not fit this model, or each other.

        Within `shared`, once for the same inputs: what they hold is read back from a GPU.
        """
        self._follow()
        once((self, pixels, "checked"), lambda: check_pixels(self, pixels))
        once((self, ids, "checked"), lambda: check_ids(self, ids))
        check_as_many(ids, pixels)

    def _pixels(self, images) -> Tensor:
        return images if isinstance(images, Tensor) else self.preprocess(images)

    def _ids(self, texts) -> list[Tensor]:
        # a list stays itself: `sharing` knows it
        texts = texts if isinstance(texts, Sequence | Tensor) else list(texts)
        return self.tokenize(texts) if isinstance(texts, str) or any(isinstance(text, str) for text in texts) else texts

    @torch.no_grad()
    def embed_image(self, images) -> Tensor:
        """Pixels (B, 3, H, W), or PIL picture(s), -> embeddings (B, E), not normalised. Errors: as in `check`."""
        self._follow()
        pixels = self._pixels(images)
        once((self, pixels, "checked"), lambda: check_pixels(self, pixels))
        return self.image.encode(pixels)

    @torch.no_grad()
    def embed_text(self, texts) -> Tensor:
        """A list of id tensors, or text(s), -> embeddings (B, E), not normalised. Errors: ValueError, as in `check`."""
        self._follow()
        ids = self._ids(texts)
        once((self, ids, "checked"), lambda: check_ids(self, ids))
        return self.text.encode(ids)

    def similarity(self, images, texts) -> Tensor:
        """Cosine of each picture with its own text, (B,), in [-1, 1]. Errors: ValueError, as in `check`.

        >>> from nibkit import data
        >>> photo = data.load("cat-and-dog")[0].image
        >>> dog, bus = load("scenes").similarity([photo, photo], ["a dog", "a bus"])
        >>> bool(dog > bus)
        True
        """
        pixels, ids = self._pixels(images), self._ids(texts)
        if len(pixels) != len(ids):
            raise ValueError(f"{len(pixels)} pictures and {len(ids)} texts do not pair up; give each its own")
        self.check(pixels, ids)
        return F.cosine_similarity(self.image.encode(pixels), self.text.encode(ids))


def checksum(clip) -> str:
    """CRC-32 of all weights, 8 hexadecimal digits: which model made a table, whatever its file is called."""
    crc = 0
    for tensor in clip.model.state_dict().values():
        crc = zlib.crc32(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy(), crc)
    return f"{crc:08x}"


def pick_device(device: str = "auto") -> torch.device:
    """For "auto": CUDA if there is one, else Apple's MPS, else the CPU. ValueError for a device that is not here."""
    if device != "auto":
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # torch's own reason may be many lines
            why = str(error).strip().splitlines()[0]
            raise ValueError(f"device={device!r} cannot be used here ({why[:200]}); take 'cpu', or 'auto'") from error
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def load(
    name: str | Path = "scenes",
    device: str = "auto",
    pretrained: bool = True,
    dtype: torch.dtype | str = "float32",
    gradients: torch.dtype | str = "float32",
) -> Clip:
    """Load a CLIP by name, or from a folder or file, which is recognised by what is in it.

    name: "scenes" (bundled); a model of OpenAI's `clip` package, ViT or ResNet, such as "ViT-B/32";
        "open_clip:ARCH/TAG" or "open_clip:ARCH/FILE", such as "open_clip:ViT-B-32/laion2b_s34b_b79k"; "hf:NAME" or a
        `save_pretrained` folder (CLIPModel, SiglipModel, Siglip2Model); a folder with open_clip_config.json; a
        checkpoint file in OpenAI's format and of one of its widths, or "openai:FILE" for one of any width that OpenAI's
        code made (open_clip's files have the same key names, another activation and other heads: name their ARCH).
    device: "auto" (CUDA, else MPS, else the CPU), "cpu", "cuda", "mps", ...
    pretrained: False gives a name, or the folder's configuration, its true architecture with seeded random weights.
    dtype: of passes that nobody differentiates (embeddings, the blocks below a method's layer, RISE): "float32",
        "bfloat16" or "float16". Weights, gradients and NIB's integrand are float32 all the same. "float64": everything,
        not on MPS.
    gradients: "bfloat16" takes the blocks of differentiated passes there too (nib, m2ib, mfaba, the forms of Grad-CAM,
        xgrad; not methods that read attention), about twice as fast on a GPU; `nibkit bench --dtype
        bf16-gradients` measures how far scores move.
    A name's first use downloads through its library. Weights are frozen, in eval mode. Errors, before any work, with
    the name: ValueError for an unknown name, and for a file or folder that does not hold just the model's weights,
    holds some that are not finite, or would run code; OSError for weights that are not to be had.

    >>> load("scenes", device="cpu")
    Clip(scenes: image 224x224, 7x7 patches, 12 blocks of 128; text 12 blocks of 128; on cpu)
    """
    where, name = pick_device(device), str(name)
    dtype, gradients = _dtype("dtype", dtype), _dtype("gradients", gradients, GRADIENTS)
    if dtype == torch.float64 and where.type == "mps":
        raise ValueError("dtype='float64' does not exist on Apple's MPS; take device='cpu', or float32")
    backend = _backend(name)
    with plain(), seeded(0 if not pretrained else None), said(name):
        model, transform, tokenizer, label = backend.of_name(name, pretrained)
        label += "" if pretrained else " (random weights)"
        model = model.double() if dtype == torch.float64 else model.float()
        wrong = [n for n, value in model.state_dict().items() if not value.isfinite().all()]
        if wrong := [n for n in wrong if not n.startswith("text_decoder.")]:  # CoCa's captions, which are not read here
            first = ", ".join(wrong[:3])
            raise ValueError(f"{name} holds weights that are not finite, in {len(wrong)} tensors: {first}")
        clip = Clip(label, model, backend, transform, tokenizer, where, dtype, gradients)
    clip.source = {"name": name, "device": device, "pretrained": pretrained, "dtype": dtype, "gradients": gradients}
    return clip


def _dtype(what: str, given: torch.dtype | str, allowed: tuple[torch.dtype, ...] = DTYPES) -> torch.dtype:
    found = getattr(torch, given, given) if isinstance(given, str) else given
    if found not in allowed:
        one_of(what, str(found).removeprefix("torch."), [str(d).removeprefix("torch.") for d in allowed])
    return found


def _unpickled(kind: type, name: str, model, backend: str, *parts) -> Clip:
    return kind(name, model, importlib.import_module(backend), *parts)


def _backend(name: str):
    """The module of BACKENDS that loads `name`: the one whose very name it is, or else the first that matches."""
    for backend in BACKENDS:
        if name in backend.NAMES:
            return backend
    for backend in BACKENDS:
        if backend.matches(name, Path(name)):
            return backend
    raise ValueError(f"model {name!r} is neither a file nor a folder nor one of: {', '.join(NAMES)}")
