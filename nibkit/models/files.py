"""Checkpoint files, read without running anything that is stored in them, and what to say where there is none."""

import contextlib
import json
import os
import pickle
import socket
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..paths import WAIT

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

NESTS = ("state_dict", "model_state_dict", "model", "ema_state_dict", "module", "weights")  # where weights are kept
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
PARTS = {"visual", "text", "transformer", "vision_model", "text_model"}  # of a model: no prefixes


def absent(what: str, where: str, error: Exception) -> OSError:
    """The error for weights that are neither here nor to be had."""
    reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
    return OSError(
        f"{what} are not on this machine and could not be downloaded ({reason}). From a machine with network, bring "
        f"{where}; or load a file or a folder that you have: nibkit.load('FILE'), or --model FILE on the command line "
        "(`nibkit models` lists the three sources, their forms and their cache folders)"
    )


@contextlib.contextmanager
def patience():
    """A network that does not answer is given up after WAIT seconds."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(WAIT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def ask_hub(repository: str, what: str, where: str) -> None:
    """One quick question to the hub, or an OSError: its libraries retry for most of a minute before they give up.

    where: what else could be brought than the repository's folder of the hub's cache.
    """
    import huggingface_hub

    try:
        huggingface_hub.HfApi().model_info(repository, timeout=WAIT)
    except Exception as error:  # each release has another family of them
        cache = huggingface_hub.constants.HF_HUB_CACHE
        folder = f"the folder models--{repository.replace('/', '--')} of its cache into {cache}"
        raise absent(what, f"{folder}; or {where}", error) from error


def hub_folder() -> Path:
    """The cache that the hub's libraries share, here or not."""
    folder = os.environ.get("HF_HUB_CACHE") or os.path.join(os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub")
    return Path(folder).expanduser()


def hub_models() -> list[str]:
    """Names on the hub that its cache has a folder of."""
    return [
        folder.name.removeprefix("models--").replace("--", "/") for folder in sorted(hub_folder().glob("models--*"))
    ]


@contextlib.contextmanager
def said(name: str):
    """Whatever fails while a model is built becomes one sentence with its name: libraries fail in their own ways."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:400]
        if isinstance(error, ValueError | OSError | ImportError) and Path(name).name in why:
            raise
        kind = OSError if isinstance(error, OSError) else ImportError if isinstance(error, ImportError) else ValueError
        raise kind(f"{name} was not loaded: {why or 'the library says no more'} ({type(error).__name__})") from error


def read(*paths: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, whatever training program kept them; of all its files.

    .safetensors; a state dict of torch.save, bare or in a checkpoint (under one of NESTS); a TorchScript (JIT) archive,
    whose code is not loaded. A prefix that all names share ("module.", "_orig_mod.", a LightningModule's) is dropped.
    Errors: ValueError for a file that holds anything but weights, or no weights; OSError for one that cannot be read.
    """
    state = {name: value for path in paths for name, value in _stored(path).items()}
    while all("." in name for name in state):
        first = {name.partition(".")[0] for name in state}
        if len(first) > 1 or first & PARTS:
            break
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def _stored(path: Path) -> dict[str, Tensor]:
    try:
        if not zipfile.is_zipfile(path) and _is_safetensors(path):
            from safetensors.torch import load_file

            state = load_file(path)
        elif _is_archive(path):
            state = _archive(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # SafetensorError, UnpicklingError, EOFError, BadZipFile, KeyError, RuntimeError, ...
        code = "unsupported" in str(error).lower() or "global" in str(error).lower()
        why = "it would run code when loaded" if code else "it is broken, or no weights alone"
        raise ValueError(
            f"{path} was not loaded: {why}. nibkit reads .safetensors, state dicts of torch.save, and TorchScript "
            f"archives; whoever made the file can save model.state_dict() ({_short(error)})"
        ) from error
    while isinstance(state, Mapping) and (nest := next((n for n in NESTS if isinstance(state.get(n), Mapping)), None)):
        state = state[nest]
    if not isinstance(state, Mapping) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds a {type(state).__name__}, no named weights")
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def metadata(path: Path) -> dict[str, str]:
    """What a .safetensors file says about itself; any other file, and a broken one, of which `read` tells, nothing."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError:
        return {}


def shards(folder: Path) -> list[Path]:
    """The files that hold a `save_pretrained` folder's weights, as its index names them; none without weights.

    Errors: ValueError for an index that is none, or that names a file outside the folder.
    """
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None or found.suffix != ".json":
        return [found] if found else sorted(folder.glob("*.safetensors"))[:1]
    try:
        names = sorted({str(file) for file in json.loads(found.read_text())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{found} is not an index of weights: it needs a 'weight_map' of names to files") from error
    if outside := [file for file in names if Path(file).name != file or file in ("", ".", "..")]:
        raise ValueError(f"{found} names {outside[0]!r}, which is not a file of its own folder; nothing was loaded")
    return [folder / file for file in names]


def fit(state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]], path: Path) -> dict[str, Tensor]:
    """The tensors that a model wants, by name; ValueError where the file has not just those, in these shapes."""
    lacks = [name for name in shapes if name not in state]
    spare = [name for name in state if name not in shapes and not name.endswith("position_ids")]  # which are numbers
    pairs = {name: (tuple(state[name].shape), tuple(shapes[name])) for name in shapes if name in state}
    odd = [f"{name} {its}, not {wanted}" for name, (its, wanted) in pairs.items() if its != wanted]
    said = {"lacks": lacks, "has, beyond the model's,": spare, "has in another shape": odd}
    if said := [f"{what} {len(names)} tensors ({', '.join(names[:3])})" for what, names in said.items() if names]:
        if any("lora_" in name for name in state):
            said.append("has an adapter that is not merged: model.merge_and_unload()")
        raise ValueError(f"{path} does not fit the model's architecture: it {'; it '.join(said)}")
    return {name: state[name] for name in shapes}


def _short(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line for line in lines if "GLOBAL" in line), lines[0])[:160]


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 27


# ---- TorchScript archives: a zip of tensors, a pickle of the module tree, and code, which is left alone


class _Module:
    """Stands for any scripted class of the archive: attributes, no code."""


def _is_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


class _Unpickler(pickle.Unpickler):
    """Knows tensors and modules by name, and nothing that could run."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(archive.open(f"{root}/data.pkl"))
        self._archive, self._root, self._storages = archive, root, {}

    def find_class(self, module: str, name: str):
        if module.startswith("__torch__"):
            return type(name, (_Module,), {})
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return torch._utils._rebuild_tensor_v2
        if module == "torch.jit._pickle":  # typed lists of constants
            return lambda value, *_: value
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"unsupported GLOBAL {module}.{name}")

    def persistent_load(self, key):
        _, kind, name, *_ = key
        if name not in self._storages:
            raw = torch.frombuffer(bytearray(self._archive.read(f"{self._root}/data/{name}")), dtype=torch.uint8)
            storage = torch.storage.TypedStorage(wrap_storage=raw.untyped_storage(), dtype=kind, _internal=True)
            self._storages[name] = storage
        return self._storages[name]


def _archive(path: Path) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).rsplit("/", 1)[0]
        return dict(_tensors(_Unpickler(archive, root).load(), ""))


def _tensors(module: _Module, prefix: str):
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
