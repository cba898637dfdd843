"""What the authors' published code computes on a small random CLIP: tests/golden.npz, packed from our own measurements.

The weights are stored byte-shuffled (one plane per byte of a float32) because that compresses; 224 x 224 maps are
stored at every eighth pixel, from the fourth (`THIN`).
"""

import functools
import json
from pathlib import Path

import numpy as np
import torch
from near import SLACK
from safetensors.torch import save_file

HERE = Path(__file__).parent
TOLERANCE = SLACK * 2e-5  # separates right from wrong (5e-4 for m2ib/0.01), on a GPU too
CONFIG = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 64,
    "text_config": {
        "model_type": "clip_text_model",
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "projection_dim": 64,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "projection_dim": 64,
    },
}
MEAN = np.float32([0.48145466, 0.4578275, 0.40821073])
STD = np.float32([0.26862954, 0.26130258, 0.27577711])


def thin(maps):
    """(..., 224, 224) -> the stored (..., 28, 28) samples."""
    return maps[..., 3::8, 3::8]


@functools.cache
def archive() -> dict[str, np.ndarray]:
    with np.load(HERE / "golden.npz") as packed:
        return {name: packed[name] for name in packed}


def outputs(name: str) -> np.ndarray:
    return archive()[f"outputs/{name}"]


def outputs_text(name: str) -> list[np.ndarray]:
    return [outputs(f"{name}/text/{k}") for k in range(4)]


def metrics() -> dict[str, list[dict[str, float]]]:
    return json.loads((HERE / "golden_metrics.json").read_text())


def pixels() -> torch.Tensor:
    scaled = (archive()["inputs/images"] / np.float32(255) - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def ids() -> list[torch.Tensor]:
    return [torch.from_numpy(archive()[f"inputs/ids/{k}"]) for k in range(4)]


def weights() -> dict[str, torch.Tensor]:
    """The model under transformers' key names."""
    flat = np.ascontiguousarray(archive()["weights"].T).view(np.float32).ravel()
    state, start = {}, 0
    for name, shape in json.loads(str(archive()["layout"])).items():
        size = int(np.prod(shape))
        state[name] = torch.from_numpy(flat[start : start + size].reshape(shape).copy())
        start += size
    table = "text_model.embeddings.token_embedding.weight"
    embedding = torch.zeros(49408, 64)
    embedding[torch.from_numpy(archive()["token_rows"])] = state.pop(f"{table}/values")
    return {**state, table: embedding}


def write_folder(folder: Path) -> Path:
    """The model as `save_pretrained` leaves it."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    save_file(weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
