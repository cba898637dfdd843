"""Train the bundled CLIP on the scenes world.

The architecture is OpenAI's `clip.model.CLIP`, small: 224 x 224 pictures, patch 32, 12 + 12 blocks, width 128. Every batch is a
function of (seed, step), so a run that was killed and resumed sees what an undisturbed one sees.

Left alone, so small a model gathers everything in CLS and EOS within a few blocks, and the patches and words that enter block 9
no longer matter. In a large CLIP they do. So in training the readout token forgets: before a block drawn at random it
goes back to its first state and must read patches or words again with the blocks that remain.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import clip
import numpy as np
import torch
import torch.nn.functional as F
from clip.model import CLIP
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.captions import prompt
from ..paths import replace
from . import world

WIDTH, BLOCKS, CONTEXT, VOCABULARY = 128, 12, 77, 49408
PIXEL_MEAN = np.float32([0.48145466, 0.4578275, 0.40821073])  # CLIP's own pixel statistics, RGB
PIXEL_STD = np.float32([0.26862954, 0.26130258, 0.27577711])


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights."""

    steps: int = 2000
    finish: int = 500  # steps of a finish, in which half of the readout tokens never forget, as when the model is used
    finishes: int = 2  # each has a cosine of its own, from finish_lr; the mean of their ends is what is kept
    batch: int = 128
    lr: float = 1e-3
    finish_lr: float = 3e-4
    warmup: int = 100
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    easy: float = 0.4  # share of the run with mostly single-object scenes
    partial: float = 0.15  # share of captions that leave an object out
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate: warm-up and cosine decay, and one more cosine for each finish."""
        if step < self.steps:
            return self.lr * min((step + 1) / self.warmup, 0.5 + 0.5 * math.cos(math.pi * step / self.steps))
        return self.finish_lr * (0.5 + 0.5 * math.cos(math.pi * ((step - self.steps) % self.finish) / self.finish))


def new_model() -> CLIP:
    """The untrained architecture; seed torch first."""
    return CLIP(WIDTH, world.SIZE, BLOCKS, WIDTH, 32, CONTEXT, VOCABULARY, WIDTH, WIDTH // 64, BLOCKS)


def tokens(texts: list[str]) -> torch.Tensor:
    """Token ids (B, T), padded only to the longest text of the batch."""
    ids = clip.tokenize(texts)
    return ids[:, : int(ids.argmax(1).max()) + 1]


def normalise(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> CLIP's pixels (B, 3, H, W)."""
    return torch.from_numpy((pictures / np.float32(255) - PIXEL_MEAN) / PIXEL_STD).permute(0, 3, 1, 2).contiguous()


class Batches(Dataset):
    """Item `step` is the batch of that step: pictures, token ids, which caption is true of which picture, and the block
    before which each picture's CLS and each text's EOS forget (0: never)."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def __len__(self):
        return self.recipe.steps + self.recipe.finish * self.recipe.finishes

    def __getitem__(self, step):
        r = self.recipe
        rng = np.random.default_rng([r.seed, step])
        odds = [0.8, 0.15, 0.05] if step < r.easy * r.steps else [0.34, 0.38, 0.28]
        scenes = [world.random_scene(rng, int(n), names=world.FIRST) for n in rng.choice([1, 2, 3], r.batch, p=odds)]
        captions, claims = zip(*(world.describe(s, rng, partial=r.partial) for s in scenes))
        true = np.array([[world.is_true(c, s) for c in claims] for s in scenes], np.float32)
        pictures = np.stack([np.asarray(world.render(s)[0]) for s in scenes])
        forget = rng.integers(0, BLOCKS - 1, (2, r.batch))
        if step >= r.steps:
            forget *= rng.integers(0, 2, forget.shape)
        return pictures, tokens(list(captions)), true, forget


def _run(blocks, x: torch.Tensor, row: torch.Tensor, forget: torch.Tensor | None) -> torch.Tensor:
    """Blocks over x (T, B, C); readout token `row` (B,) goes back to its first state before block `forget` (B,) if > 0."""
    here = torch.arange(len(row), device=x.device)
    first = x[row, here]
    for number, block in enumerate(blocks):
        if forget is not None and number and (now := forget == number).any():
            x = x.index_put((row[now], here[now]), first[now].to(x.dtype))
        x = block(x)
    return x[row, here]


def encode_image(model: CLIP, pixels: torch.Tensor, forget: torch.Tensor | None = None) -> torch.Tensor:
    """`model.encode_image`, with forgetting: (B, 3, H, W) -> (B, E)."""
    v = model.visual
    x = v.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([v.class_embedding.expand(len(x), 1, -1).to(x.dtype), x], 1) + v.positional_embedding
    row = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return v.ln_post(_run(v.transformer.resblocks, v.ln_pre(x).transpose(0, 1), row, forget)) @ v.proj


def encode_text(model: CLIP, ids: torch.Tensor, forget: torch.Tensor | None = None) -> torch.Tensor:
    """`model.encode_text` for texts shorter than the context, with forgetting: (B, T) -> (B, E)."""
    blocks, full = model.transformer.resblocks, model.transformer.resblocks[0].attn_mask
    for block in blocks:
        block.attn_mask = full[: ids.shape[1], : ids.shape[1]]
    x = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]]
    x = _run(blocks, x.transpose(0, 1), ids.argmax(1), forget)
    for block in blocks:
        block.attn_mask = full
    return model.ln_final(x) @ model.text_projection


def contrastive_loss(images, texts, scale, true) -> torch.Tensor:
    """CLIP's symmetric cross-entropy; captions that are true of several pictures of the batch share the credit."""
    logits = scale * F.normalize(images.float()) @ F.normalize(texts.float()).T
    rows = F.cross_entropy(logits, true / true.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, true.T / true.sum(0)[:, None])
    return (rows + columns) / 2


@torch.no_grad()
def zero_shot(model: CLIP, n: int = 256, seed: int = 10**6) -> float:
    """Accuracy of naming the one object of `n` scenes on grounds never trained on."""
    rng = np.random.default_rng(seed)
    scenes = [world.random_scene(rng, 1, range(1000, 1048), world.FIRST) for _ in range(n)]
    device = model.text_projection.device
    pictures = normalise(np.stack([np.asarray(world.render(s)[0]) for s in scenes])).to(device)
    texts = F.normalize(encode_text(model, tokens([prompt(o) for o in world.FIRST]).to(device)))
    best = (model.visual(pictures) @ texts.T).argmax(1).tolist()
    return float(np.mean([world.FIRST[b] == s.names[0] for b, s in zip(best, scenes)]))


def export(model: CLIP, path: Path) -> None:
    """Write the weights under OpenAI's own key names, float16, with the token rows no caption uses set to zero."""
    words = set(" ".join([*world.FIRST, *world.GROUNDS.values()]).split())
    words |= set("a an the and next to with there is photo picture of , . on in at".split())
    used = torch.unique(clip.tokenize(sorted(words)))
    state = {k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}
    rows = torch.zeros_like(state["token_embedding.weight"])
    rows[used] = state["token_embedding.weight"][used]
    save_file({**state, "token_embedding.weight": rows}, path, metadata={"format": "pt", "model": "nibkit scenes CLIP"})


def train(folder: Path, recipe: Recipe = Recipe(), device: str = "cpu", workers: int = 1, every: int = 100) -> Path:
    """Train, or go on where `folder`/checkpoint.pt stopped, and write `folder`/model.safetensors.

    A checkpoint is written every `every` steps. bfloat16 autocast, float32 weights. The weights written are the mean of
    those at the end of each finish (stochastic weight averaging, Izmailov et al. 2018).
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    torch.manual_seed(recipe.seed)
    model = new_model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, (0.9, 0.98), weight_decay=recipe.weight_decay)
    start, ends = 0, []
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved["recipe"] != vars(recipe):
            raise ValueError(f"{checkpoint} belongs to the recipe {saved['recipe']}; choose another folder or delete it")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start, ends = saved["step"], saved["ends"]

    batches = Batches(recipe)
    loader = DataLoader(batches, batch_size=None, sampler=range(start, len(batches)), num_workers=workers)
    bar = tqdm(loader, initial=start, total=len(batches), unit="step", mininterval=5)
    for step, (pictures, ids, true, forget) in enumerate(bar, start):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        pixels, ids, true = normalise(np.asarray(pictures)).to(device), ids.to(device), torch.as_tensor(true).to(device)
        forget = torch.as_tensor(forget).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            images, texts = encode_image(model, pixels, forget[0]), encode_text(model, ids, forget[1])
        loss = contrastive_loss(images, texts, model.logit_scale.exp(), true)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        done = step + 1
        if done > recipe.steps and (done - recipe.steps) % recipe.finish == 0:
            ends.append({k: v.clone() for k, v in model.state_dict().items()})
        if done % every == 0 or done == len(batches):
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            state |= {"ends": ends, "recipe": vars(recipe)}
            replace(checkpoint, lambda part, state=state: torch.save(state, part))
            bar.write(f"step {done}  loss {loss.item():.3f}  zero-shot {zero_shot(model):.3f}")
    if ends:
        model.load_state_dict({k: sum(end[k] for end in ends) / len(ends) for k in ends[0]})
    export(model, folder / "model.safetensors")
    return folder / "model.safetensors"
