"""OpenAI's `clip` package (on PyPI: rf-clip; `clip` there is another program): ViT and ResNet."""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from clip import load as download_and_load
from clip.clip import _transform
from clip.model import CLIP

from ..paths import bundled
from .files import absent, fit, metadata, patience, read
from .tokenizers import BPE
from .towers import Block, ImageTower, Stage, State, TextTower
from .transform import Transform
from .weights import norm, parts

# embed, picture, image blocks, image width, patch, context, vocabulary, text width, text heads, text blocks
ARCHITECTURES = {
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12),
    "ViT-B/16": (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12),
    "ViT-L/14": (768, 224, 24, 1024, 14, 77, 49408, 768, 12, 12),
    "ViT-L/14@336px": (768, 336, 24, 1024, 14, 77, 49408, 768, 12, 12),
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49408, 512, 8, 12),
    "RN101": (512, 224, (3, 4, 23, 3), 64, None, 77, 49408, 512, 8, 12),
    "RN50x4": (640, 288, (4, 6, 10, 6), 80, None, 77, 49408, 640, 10, 12),
    "RN50x16": (768, 384, (6, 8, 18, 8), 96, None, 77, 49408, 768, 12, 12),
    "RN50x64": (1024, 448, (3, 15, 36, 10), 128, None, 77, 49408, 1024, 16, 12),
}
CACHE = os.path.expanduser("~/.cache/clip")


def _block(b) -> Block:
    qkv = parts(3, lambda: (b.attn.in_proj_weight, b.attn.in_proj_bias))
    return Block(b.attn.num_heads, norm(b.ln_1), *qkv, b.attn.out_proj, norm(b.ln_2), b.mlp)


class OpenAIImage(ImageTower):
    """The ViT of OpenAI's `clip`, read from CLS."""

    def __init__(self, visual):
        self._visual = visual
        self.blocks = [_block(b) for b in visual.transformer.resblocks]
        self.width = visual.conv1.out_channels
        self.size = visual.input_resolution
        self.grid = (self.size // visual.conv1.kernel_size[0],) * 2

    def rows(self, pixels):
        v = self._visual
        x = v.conv1(pixels).flatten(2).transpose(1, 2)  # (B, patches, C)
        x = torch.cat([v.class_embedding.expand(len(x), 1, -1), x], 1) + v.positional_embedding
        return State(x, torch.zeros(len(x), dtype=torch.long, device=x.device))

    def start(self, rows):
        return State(norm(self._visual.ln_pre)(rows.tokens), rows.readout)

    def head(self, row):
        return norm(self._visual.ln_post)(row) @ self._visual.proj


class ResNetImage(ImageTower):
    """A ModifiedResNet of `clip` or open_clip: places are tokens, and `layer` is the stage whose output is cut.

    layer 0 is the stem's map, 1 .. 4 are those of layer1 .. layer4, each with its own grid and channels; the attention
    pooling is the fifth block. Embedding rows are the stem's map.
    """

    prefix = 0
    unattended = "is a ResNet, without attention between its stages"

    def __init__(self, visual, size: int):
        self._visual, self.size = visual, size
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        self.blocks = [Stage(self._on_map(stage)) for stage in stages]
        self.blocks.append(Stage(lambda x: visual.attnpool(self._map(x))[:, None]))
        self.width = visual.attnpool.positional_embedding.shape[1]
        self.grid = (size // 32,) * 2

    def _on_map(self, stage):
        return lambda x: stage(self._map(x)).flatten(2).transpose(1, 2)

    def _map(self, tokens):
        return self.patches(tokens.transpose(1, 2))  # (B, C, rows, columns)

    def patches(self, scores):
        side = round(scores.shape[-1] ** 0.5)
        return scores.unflatten(-1, (side, side))

    def rows(self, pixels):
        v, x = self._visual, pixels
        for conv, bn in ((v.conv1, v.bn1), (v.conv2, v.bn2), (v.conv3, v.bn3)):
            x = F.relu(bn(conv(x)))
        x = v.avgpool(x).flatten(2).transpose(1, 2)
        return State(x, torch.zeros(len(x), dtype=torch.long, device=x.device))

    def start(self, rows):
        return rows

    def head(self, row):
        return row


class OpenAIText(TextTower):
    """The text transformer of OpenAI's `clip`, read at EOS."""

    def __init__(self, model):
        self._model = model
        self.blocks = [_block(b) for b in model.transformer.resblocks]
        self.width = model.transformer.width
        self.context = len(self.positions)

    @property
    def embedding(self):
        """Token rows, (vocabulary, C), as they are now."""
        return self._model.token_embedding.weight

    @property
    def positions(self):
        """Position rows, (context, C), as they are now."""
        return self._model.positional_embedding

    def head(self, row):
        return norm(self._model.ln_final)(row) @ self._model.text_projection


def towers(model) -> tuple[ImageTower, TextTower]:
    """`clip.model.CLIP` -> its two towers."""
    resnet = not hasattr(model.visual, "transformer")
    image = ResNetImage(model.visual, model.visual.input_resolution) if resnet else OpenAIImage(model.visual)
    return image, OpenAIText(model)


# ---- loading

BUNDLED = {"scenes": "scenes/model.safetensors", "scenes-early": "scenes/early.safetensors"}
NAMES = (*BUNDLED, *ARCHITECTURES)
FORMS = {
    ", ".join(BUNDLED): "bundled with nibkit; data/scenes/README.md tells them apart",
    ", ".join(ARCHITECTURES): f"OpenAI's clip package; downloaded into {CACHE}",
    "FOLDER": "what model.save_pretrained left, one with open_clip_config.json, or one with a single checkpoint file",
    "FILE.pt, FILE.safetensors": "a state dict or JIT archive with OpenAI's key names and widths",
    "openai:FILE": "the same of any width, made with OpenAI's code: a head for every 64 channels, QuickGELU",
}


def matches(name: str, path: Path) -> bool:
    """A file, or a folder that no other backend knows."""
    return name.startswith("openai:") or path.exists()


def here() -> list[str]:
    """Models whose weights are on this machine."""
    return [*BUNDLED, *(name for name in ARCHITECTURES if (Path(CACHE) / filename(name)).is_file())]


def filename(name: str) -> str:
    """What the package calls the file of a name of ARCHITECTURES."""
    return name.replace("/", "-").replace("@", "-") + ".pt"


def of_name(name: str, pretrained: bool):
    """One of NAMES, a checkpoint file, or a folder with one -> (model, transform, tokenizer, label).

    The package downloads the names of ARCHITECTURES to CACHE and checks their sums.
    """
    if name in BUNDLED:
        return *of_file(bundled(BUNDLED[name])), name
    if name not in ARCHITECTURES:
        path = Path(name.removeprefix("openai:"))
        path = _only_checkpoint(path) if path.is_dir() else path
        return *of_file(path, name.startswith("openai:")), path.stem
    if not pretrained:
        return *_parts(CLIP(*ARCHITECTURES[name])), name
    try:
        with patience():
            model, _ = download_and_load(name, device="cpu")
    except OSError as error:
        what = f"the file {filename(name)} that OpenAI's clip package downloads into {CACHE}"
        raise absent(f"the weights of {name}", what, error) from error
    return *_parts(model), name


def _only_checkpoint(folder: Path) -> Path:
    files = sorted(f for f in folder.iterdir() if f.suffix in (".pt", ".pth", ".bin", ".safetensors"))
    if len(files) == 1:
        return files[0]
    raise FileNotFoundError(
        f"the folder {folder} has neither config.json (transformers) nor open_clip_config.json (open_clip), and "
        f"{len(files) or 'no'} checkpoint files; name one file"
    )


def of_file(path: Path, stated: bool = False):
    """A checkpoint with OpenAI's own key names, of any form that `read` knows -> (model, transform, tokenizer).

    stated: the caller says that OpenAI's code made it; else its widths must, for no weight tells the number of heads.
    """
    state = _whole(read(path)) if _of_scenes(path) else read(path)
    if any(name.startswith(("vision_model.", "text_model.")) for name in state):
        if (path.parent / "config.json").is_file():
            raise ValueError(f"{path} is a transformers checkpoint: load its folder, nibkit.load({str(path.parent)!r})")
        raise ValueError(f"{path} is a transformers checkpoint without the config.json that belongs beside it")
    if any(name.startswith(("visual.trunk.", "text.", "text_decoder.")) for name in state):
        raise ValueError(f"{path} is an open_clip checkpoint: name its ARCH, nibkit.load('open_clip:ARCH/{path}')")
    if "visual.proj" not in state and "visual.attnpool.c_proj.weight" not in state:
        raise ValueError(f"{path} has no 'visual.proj': it is not a checkpoint in OpenAI CLIP's format")
    shape = _shape(state, path)
    known = {(isinstance(a[2], int), a[3], a[7]) for a in ARCHITECTURES.values()}
    if not stated and not _of_scenes(path) and (isinstance(shape[2], int), shape[3], shape[7]) not in known:
        raise ValueError(
            f"{path} is {shape[3]} and {shape[7]} channels wide, which none of OpenAI's models is, and weights do not "
            f"tell the number of attention heads; name its architecture, nibkit.load('open_clip:ARCH/{path}'), or, if "
            f"OpenAI's code made it, with heads of 64 channels, nibkit.load('openai:{path}')"
        )
    widths = shape[3] * (1 if isinstance(shape[2], int) else 32), shape[7]
    if any(width < 64 or width % 64 for width in widths):
        wide = f"{widths[0]} and {widths[1]} channels wide"
        raise ValueError(f"{path} is {wide}, no whole number of heads of 64 channels")
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in CLIP(*shape).state_dict().items()}
    spare = ("input_resolution", "context_length", "vocab_size")  # an archive's numbers
    state = fit({name: value for name, value in state.items() if name not in spare}, shapes, path)
    model = CLIP(*shape).eval()
    model.load_state_dict(state)
    return _parts(model)


def _of_scenes(path: Path) -> bool:
    """Whether nibkit's own training wrote the file: it says so."""
    return metadata(path).get("model") == "nibkit scenes CLIP"


def _whole(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of one of our own files, which leaves out the token rows that are zero and says which it has."""
    ids, kept = state.pop("token_embedding.ids"), state["token_embedding.weight"]
    rows = kept.new_zeros(ARCHITECTURES["ViT-B/32"][6], kept.shape[1])
    rows[ids.long()] = kept
    return {**state, "token_embedding.weight": rows}


def _shape(state: dict[str, torch.Tensor], path: Path) -> tuple:
    """What the package's CLIP is called with for such weights, a head for every 64 channels."""

    def blocks(prefix: str) -> int:
        numbers = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
        return 1 + max((int(n) for n in numbers if n.isdecimal()), default=-1)

    try:
        (context, _), (words, text), (_, embed) = (
            state[name].shape for name in ("positional_embedding", "token_embedding.weight", "text_projection")
        )
        if "visual.proj" in state:
            width, _, _, patch = state["visual.conv1.weight"].shape
            layers, cell = blocks("visual.transformer.resblocks."), patch
            positions = len(state["visual.positional_embedding"])
        else:
            width, patch, cell = len(state["visual.layer1.0.conv1.weight"]), None, 32
            layers = tuple(blocks(f"visual.layer{k}.") for k in (1, 2, 3, 4))
            positions = len(state["visual.attnpool.positional_embedding"])
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}: it is not all of a CLIP in OpenAI's format") from error
    except ValueError as error:
        raise ValueError(f"{path} holds a tensor whose number of axes is not that of OpenAI's ({error})") from error
    side = round((positions - 1) ** 0.5)
    if side < 1 or side**2 + 1 != positions or not cell:
        raise ValueError(f"{path} has {positions} image positions for patches of {cell} pixels: no square and CLS")
    return embed, side * cell, layers, width, patch, context, words, text, text // 64, blocks("transformer.resblocks.")


def _parts(model):
    return model.float(), transform(model.visual.input_resolution), BPE()


def transform(size: int) -> Transform:
    """The package's own preprocessing to `size` pixels a side."""
    steps = _transform(size)
    normalize = steps.transforms[-1]
    return Transform(steps, "shortest", normalize.mean, normalize.std)
