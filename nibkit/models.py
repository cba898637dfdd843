"""`load` a CLIP: two towers, preprocess and tokenizer together."""

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import clip as openai_clip
import numpy as np
import torch
import torch.nn.functional as F
from clip.clip import _transform
from clip.model import CLIP, build_model
from PIL import Image
from torch import Tensor

from .backends import openai as openai_backend
from .paths import bundled
from .towers import ImageTower, Layer, TextTower

PIXEL_MEAN = np.float32([0.48145466, 0.4578275, 0.40821073])  # CLIP's own pixel statistics, RGB
PIXEL_STD = np.float32([0.26862954, 0.26130258, 0.27577711])

# embed, picture, image blocks, image width, patch, context, vocabulary, text width, text heads, text blocks
_OPENAI_VITS = {
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-B/16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
    "ViT-L/14@336px": (768, 336, 24, 1024, 14, 77, 49408, 768, 12, 12),
}
NAMES = ("scenes", *_OPENAI_VITS, "hf:FOLDER-OR-NAME", "FILE.pt", "FILE.safetensors")


class Clip:
    """An image tower and a text tower that share an embedding space, with what turns pictures and texts into their inputs.

    `preprocess`: PIL picture(s) -> pixels (B, 3, H, W) float32, normalised, on the model's device.
    `tokenize`: text(s) -> a list of B 1-D int64 tensors, BOS .. EOS, not padded.
    `decode`: ids -> a list of word pieces.
    """

    image: ImageTower
    text: TextTower

    def __init__(self, name: str, model, backend, transform: Callable, tokenizer: Callable, device: torch.device):
        self.name, self.model = name, model.eval().requires_grad_(False).to(device)
        self.image, self.text = backend.towers(self.model)
        self._backend, self._transform, self._tokenizer = backend, transform, tokenizer

    def around(self, model) -> "Clip":
        """The same CLIP around another `model` of the same architecture: other weights, another dtype."""
        return type(self)(self.name, model, self._backend, self._transform, self._tokenizer, self.device)

    def __deepcopy__(self, memo) -> "Clip":
        return self.around(copy.deepcopy(self.model, memo))  # towers look at their model's weights: a copy needs its own

    def __repr__(self):
        i, t = self.image, self.text
        return (
            f"Clip({self.name}: image {i.size}x{i.size}, {i.grid[0]}x{i.grid[1]} patches, {len(i.blocks)} blocks of {i.width}; "
            f"text {len(t.blocks)} blocks of {t.width}; on {self.device})"
        )

    @property
    def device(self) -> torch.device:
        return self.text.embedding.device

    @property
    def logit_scale(self) -> Tensor:
        """exp of the model's learnt log temperature, a scalar."""
        return self.model.logit_scale.exp()

    def layers(self, layer: Layer = None) -> tuple[int, int]:
        """Where to cut the (image, text) towers.

        layer: a number for both, a pair, or None: three quarters up each tower, the paper's 9 of 12 (`Tower.default_layer`).
        Errors: ValueError for a number that a tower does not have.
        """
        if layer is None:
            return self.image.default_layer, self.text.default_layer
        image, text = layer if isinstance(layer, tuple | list) and len(layer) == 2 else (layer, layer)
        return self.image.check_layer(image), self.text.check_layer(text)

    def preprocess(self, images: Image.Image | Sequence[Image.Image]) -> Tensor:
        images = [images] if isinstance(images, Image.Image) else images
        return torch.stack([self._transform(i.convert("RGB")) for i in images]).to(self.device)

    def tokenize(self, texts: str | Sequence[str]) -> list[Tensor]:
        texts = [texts] if isinstance(texts, str) else texts
        ids = [torch.tensor(self._tokenizer(t), device=self.device) for t in texts]
        for text, i in zip(texts, ids):
            if len(i) > self.text.context:
                raise ValueError(f"{text[:60]!r}... has {len(i)} tokens; this model reads at most {self.text.context}: shorten it")
        return ids

    def decode(self, ids: Tensor) -> list[str]:
        """Each id's piece of text, a space behind the pieces that end a word."""
        return [_bpe().decoder[int(i)].replace("</w>", " ") for i in ids]

    def check(self, pixels: Tensor, ids: list[Tensor]) -> None:
        """Raise a ValueError with a sentence where pixels or ids do not fit this model."""
        size, want = self.image.size, "preprocess(images) makes what is wanted"
        if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
            shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
            raise ValueError(f"pixels are {shape}, not (B, 3, {size}, {size}); {want}")
        if not pixels.is_floating_point():
            raise ValueError(f"pixels are {pixels.dtype}, not float; {want}")
        if isinstance(ids, Tensor) or len(ids) != len(pixels):
            raise ValueError(
                f"ids must be a list of {len(pixels)} 1-D int64 tensors, one for each picture, "
                f"not {'one tensor' if isinstance(ids, Tensor) else len(ids)}; tokenize(texts) makes such a list"
            )
        for k, i in enumerate(ids):
            if not isinstance(i, Tensor) or i.ndim != 1 or i.dtype != torch.int64 or not len(i):
                got = f"{tuple(i.shape)} {i.dtype}" if isinstance(i, Tensor) else type(i).__name__
                raise ValueError(f"ids[{k}] is {got}, not a non-empty 1-D int64 tensor; tokenize(texts) makes such a list")
            if len(i) > self.text.context:
                raise ValueError(f"ids[{k}] has {len(i)} tokens; this model reads at most {self.text.context}: shorten the text")
            if int(i.min()) < 0 or int(i.max()) >= len(self.text.embedding):
                raise ValueError(f"ids[{k}] holds {int(i.max())}; this vocabulary is 0..{len(self.text.embedding) - 1}")
        for what, tensor in [("pixels", pixels), *((f"ids[{k}]", i) for k, i in enumerate(ids))]:
            if tensor.device != self.device:
                raise ValueError(f"{what} on {tensor.device}, model on {self.device}; move one of them: .to({str(self.device)!r})")

    @torch.no_grad()
    def embed_image(self, images) -> Tensor:
        """Pixels (B, 3, H, W), or PIL picture(s), -> embeddings (B, E), not normalised."""
        pixels = images if isinstance(images, Tensor) else self.preprocess(images)
        self.check(pixels, [torch.zeros(1, dtype=torch.int64, device=self.device)] * len(pixels))
        return self.image.encode(pixels)

    @torch.no_grad()
    def embed_text(self, texts) -> Tensor:
        """A list of id tensors, or text(s), -> embeddings (B, E), not normalised."""
        ids = self.tokenize(texts) if isinstance(texts, str) or isinstance(texts[0], str) else texts
        return self.text.encode(ids)

    def similarity(self, images, texts) -> Tensor:
        """Cosine of each picture with its own text, (B,), in [-1, 1]."""
        return F.cosine_similarity(self.embed_image(images), self.embed_text(texts))


def pick_device(device: str = "auto") -> torch.device:
    """"auto": CUDA if there is one, else Apple's MPS, else the CPU."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


@functools.cache
def _bpe():
    return openai_clip.simple_tokenizer.SimpleTokenizer()


def _bpe_ids(text: str) -> list[int]:
    bpe = _bpe()
    return [bpe.encoder["<|startoftext|>"], *bpe.encode(text), bpe.encoder["<|endoftext|>"]]


def _openai(name: str, model, device: torch.device) -> Clip:
    return Clip(name, model.float(), openai_backend, _transform(model.visual.input_resolution), _bpe_ids, device)


def _openai_file(path: Path, name: str, device: torch.device) -> Clip:
    """A checkpoint with OpenAI's own key names: .safetensors, or a .pt state dict or JIT archive."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        try:
            state = torch.jit.load(path, map_location="cpu").state_dict()
        except RuntimeError:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
    if "visual.conv1.weight" not in state:
        raise ValueError(f"{path} has no 'visual.conv1.weight': it is not a checkpoint in OpenAI CLIP's format")
    with torch.random.fork_rng(devices=[]):  # the library draws initial weights before it loads these
        return _openai(name, build_model(dict(state)), device)


def _openai_name(name: str, pretrained: bool, device: torch.device) -> Clip:
    if not pretrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _openai(f"{name} (random weights)", CLIP(*_OPENAI_VITS[name]), device)
    try:
        model, _ = openai_clip.load(name, device="cpu")
    except OSError as error:
        raise OSError(
            f"the weights of {name} are not in ~/.cache/clip and could not be downloaded ({error}); put the file that OpenAI's clip "
            f"package names there, or load a local file: nibkit.load('FILE.pt')"
        ) from error
    return _openai(name, model, device)


def _transformers(source: str, device: torch.device) -> Clip:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("hf: models need transformers; install it with: pip install 'nibkit[transformers]'") from error
    from .backends import transformers as backend

    try:
        model = transformers.CLIPModel.from_pretrained(source, dtype=torch.float32)
    except OSError as error:
        raise OSError(
            f"hf:{source} is neither a folder with config.json and model.safetensors nor a model that could be downloaded; "
            f"save one with model.save_pretrained(FOLDER) and load 'hf:FOLDER' ({str(error).splitlines()[0]})"
        ) from error
    transform, tokenizer = _transform(model.config.vision_config.image_size), _bpe_ids
    if (Path(source) / "tokenizer_config.json").exists() or not Path(source).exists():
        hf = transformers.AutoTokenizer.from_pretrained(source)
        tokenizer = lambda text: hf(text)["input_ids"]  # noqa: E731
    return Clip(Path(source).name, model, backend, transform, tokenizer, device)


def load(name: str = "scenes", device: str = "auto", pretrained: bool = True) -> Clip:
    """Load a CLIP by name.

    name: "scenes" (bundled); a ViT of OpenAI's `clip` package such as "ViT-B/32"; "hf:FOLDER" or "hf:NAME" for a transformers
        CLIPModel; the path of a checkpoint file in OpenAI's format.
    device: "auto", "cpu", "cuda", "mps", ...
    pretrained: False gives an OpenAI name its true architecture with seeded random weights.
    Weights are float32, frozen, in eval mode. Errors: ValueError for an unknown name, OSError for missing weights.
    """
    where = pick_device(device)
    if name == "scenes":
        return _openai_file(bundled("scenes/model.safetensors"), name, where)
    if name in _OPENAI_VITS:
        return _openai_name(name, pretrained, where)
    if name.startswith("hf:"):
        return _transformers(name.removeprefix("hf:"), where)
    if Path(name).is_file():
        return _openai_file(Path(name), Path(name).stem, where)
    raise ValueError(f"model {name!r} is neither a file nor one of: {', '.join(NAMES)}")
