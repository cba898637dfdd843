"""Train the bundled CLIP on the scenes world.

The architecture is OpenAI's `clip.model.CLIP`, small: 224 x 224 pictures, patch 32, 12 + 12 blocks. Pictures are drawn
in other processes, in twins that differ in one thing. The last `pool` twins stay in memory, and a batch is drawn from
them by (seed, step), so a run that was killed and resumed sees what an undisturbed one sees.

Left alone, so small a model gathers everything in CLS and EOS within a few blocks, and the patches and words that enter
block 9 no longer matter. In a large CLIP they do (Gandelsman et al., 2024). So attention costs something before block
9: the loss adds the share of its attention that a readout token gives to patches or words, and that a patch or word
gives to others. Nothing of this remains when the model is used.
"""

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import clip
import numpy as np
import torch
import torch.nn.functional as F
from clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.captions import prompt
from ..paths import replace
from . import world
from .encoders import encode_image, encode_text

BLOCKS, CONTEXT, VOCABULARY = 12, 77, 49408
LENGTH, CAPTIONS, CLAIMS = 24, 3, 8  # most tokens of a caption, captions per picture, most claims of one
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own pixel statistics, RGB
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, but for a device's rounding."""

    steps: int = 7400
    batch: int = 128  # twins of a step: twice as many pictures and captions
    fresh: int = 12  # twins drawn anew for a step
    pool: int = 32768  # twins in memory, of which a batch is drawn
    width: int = 128
    lr: float = 1e-3
    warmup: int = 300
    decay: float = 0.4  # share of the run in which the rate falls to 0
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    late: float = 10.0  # weight of the attention that CLS and EOS give to patches and words ...
    apart: tuple[float, float] = (
        0.05,
        0.2,
    )  # ... and of what patches, and what words, give to each other, in the blocks ...
    before: int = 9  # ... before this one
    seed: int = 0

    @property
    def ahead(self) -> int:
        """How many times `fresh` twins are drawn before the first step: enough for a batch."""
        return -(-self.batch // self.fresh)

    def rate(self, step: int) -> float:
        """Learning rate: a linear warm-up, a plateau, and a linear decay."""
        return self.lr * min((step + 1) / self.warmup, 1, (self.steps - step) / (self.decay * self.steps))


def new_model(width: int = Recipe.width) -> CLIP:
    """The untrained architecture; seed torch first."""
    return CLIP(width, world.SIZE, BLOCKS, width, 32, CONTEXT, VOCABULARY, width, width // 64, BLOCKS)


def tokens(texts: list[str]) -> Tensor:
    """Token ids (B, LENGTH) of captions of this world."""
    return clip.tokenize(texts, LENGTH)


def normalise(pictures: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> CLIP's pixels (B, 3, H, W)."""
    mean, std = (torch.tensor(values, device=pictures.device) for values in (PIXEL_MEAN, PIXEL_STD))
    return ((pictures / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, true: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy; captions that are true of several pictures of the batch share the credit."""
    logits = scale * F.normalize(images.float()) @ F.normalize(texts.float()).T
    rows = F.cross_entropy(logits, true / true.sum(1, keepdim=True))
    columns = F.cross_entropy(logits.T, (true / true.sum(0)).T)
    return (rows + columns) / 2


# --- pictures ----------------------------------------------------------------------------------------------------


def _numbered(facts: frozenset[str], length: int, fill: int) -> list[int]:
    """Facts as `length` numbers, 31 bits of their CRC-32, filled up with `fill`."""
    if len(facts) > length:
        raise ValueError(f"{len(facts)} facts are more than {length}: {sorted(facts)}")
    return sorted(zlib.crc32(fact.encode()) >> 1 for fact in facts) + [fill] * (length - len(facts))


class Twins(Dataset):
    """Item i: `fresh` twins as a dict of tensors (fresh, 2, ...): pictures, token ids, and claims and facts as numbers.
    """

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def __len__(self):
        return self.recipe.steps + self.recipe.ahead

    def __getitem__(self, i):
        seed, fresh = self.recipe.seed, self.recipe.fresh
        samples = [sample for j in range(i * fresh, (i + 1) * fresh) for sample in world.sample(seed, j, CAPTIONS)]
        found = {
            "pictures": torch.from_numpy(np.stack([s.picture for s in samples])),
            "ids": torch.stack([tokens(s.texts) for s in samples]).int(),
            "claims": torch.tensor([[_numbered(c, CLAIMS, -1) for c in s.claims] for s in samples]).int(),
            "facts": torch.tensor([_numbered(s.facts, world.FACTS, -2) for s in samples]).int(),
        }
        return {key: value.unflatten(0, (fresh, 2)) for key, value in found.items()}


def holds(claims: Tensor, facts: Tensor) -> Tensor:
    """Which captions are true of which pictures: claims (N, CLAIMS), facts (M, world.FACTS), numbers -> float (M, N).

    A claim of -1 is none.
    """
    found = torch.stack([(claim[None, :, None] == facts[:, None]).any(-1) | (claim == -1) for claim in claims.T])
    return found.all(0).float()


def _drawn(pool: dict[str, Tensor], filled: int, recipe: Recipe, step: int):
    """A batch of the pool's first `filled` twins: pictures, ids, and which caption is true of which picture."""
    rng = np.random.default_rng([recipe.seed, step])
    device = pool["pictures"].device
    which = torch.from_numpy(rng.choice(filled, min(recipe.batch, filled), replace=False)).to(device)
    text = torch.from_numpy(rng.integers(CAPTIONS, size=2 * len(which))).to(device)
    batch = {key: value[which].flatten(0, 1) for key, value in pool.items()}
    here = torch.arange(len(text), device=device)
    ids, claims = batch["ids"][here, text], batch["claims"][here, text]
    return normalise(batch["pictures"]), ids.long(), holds(claims, batch["facts"])


# --- training ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def zero_shot(model: CLIP, n: int = 256, seed: int = 10**6) -> float:
    """Accuracy of naming the one object of `n` scenes on grounds never trained on."""
    rng = np.random.default_rng(seed)
    scenes = [world.random_scene(rng, 1, range(1000, 1048)) for _ in range(n)]
    device, names = model.text_projection.device, list(world.OBJECTS)
    pictures = torch.from_numpy(np.stack([np.asarray(world.render(s)[0]) for s in scenes])).to(device)
    texts = F.normalize(encode_text(model, tokens([prompt(o) for o in names]).to(device))[0])
    best = (encode_image(model, normalise(pictures))[0] @ texts.T).argmax(1).tolist()
    return float(np.mean([names[b] == s.names[0] for b, s in zip(best, scenes)]))


def export(model: CLIP, path: Path) -> None:
    """Write the weights under OpenAI's own key names, float16, with only the token rows that a caption can use."""
    used = torch.unique(clip.tokenize(list(world.WORDS)))
    state = {k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}
    state["token_embedding.weight"] = state["token_embedding.weight"][used]
    state["token_embedding.ids"] = used.int()
    save_file(state, path, metadata={"format": "pt", "model": "nibkit scenes CLIP"})


class Run:
    """A training run: model, optimizer and pool, at a step; saved to and restored from `folder`/checkpoint.pt."""

    def __init__(self, folder: Path, recipe: Recipe, device: str, workers: int):
        self.recipe, self.device, self.checkpoint = recipe, torch.device(device), folder / "checkpoint.pt"
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        self.model = new_model(recipe.width).to(device)
        self.step, self.pool, self.rate = 0, {}, torch.tensor(recipe.lr, device=device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            self.rate,
            (0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=True,
            capturable=self._on_gpu,
        )
        self._graph, self._batch, self._losses = None, None, None
        if self.checkpoint.exists():
            self._restore()
        self._chunks = self._drawing(workers)

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def _drawing(self, workers: int):
        """Numbered chunks of twins, from the first that the pool of the next step holds."""
        first = max(0, self.step + self.recipe.ahead - self.recipe.pool // self.recipe.fresh)
        ahead = {"num_workers": workers, "prefetch_factor": 8 if workers else None, "pin_memory": self._on_gpu}
        chunks = Twins(self.recipe)
        return enumerate(DataLoader(chunks, None, sampler=range(first, len(chunks)), **ahead), first)

    def _restore(self) -> None:
        saved = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if saved["recipe"] != vars(self.recipe):
            raise ValueError(
                f"{self.checkpoint} is of the recipe {saved['recipe']}; choose another folder or delete it"
            )
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.step = saved["step"]

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {"step": self.step, "recipe": vars(self.recipe)}
        replace(self.checkpoint, lambda part: torch.save(state, part))

    def _fill(self) -> int:
        """Take new twins into the pool until it holds those of this step; returns how many twins it holds."""
        fresh, room, needed = self.recipe.fresh, self.recipe.pool // self.recipe.fresh, self.step + self.recipe.ahead
        for number, chunk in self._chunks:
            at = number % room * fresh
            for key, value in chunk.items():
                if key not in self.pool:
                    self.pool[key] = torch.zeros(room * fresh, *value.shape[1:], dtype=value.dtype, device=self.device)
                self.pool[key][at : at + fresh] = value.to(self.device, non_blocking=True)
            if number + 1 >= needed:
                break
        return min(needed, room) * fresh

    def _update(self) -> Tensor:
        """One step on the batch in `_batch`; returns the loss and its parts, (3,)."""
        (pixels, ids, true), model, recipe = self._batch, self.model, self.recipe
        with torch.autocast(self.device.type, torch.bfloat16, self._on_gpu, cache_enabled=False):
            images, seen = encode_image(model, pixels, recipe.before)
            texts, read = encode_text(model, ids, recipe.before)
        loss = contrastive_loss(images, texts, model.logit_scale.exp(), true)
        late, apart = (seen[0] + read[0]) / 2, recipe.apart[0] * seen[1] + recipe.apart[1] * read[1]
        (loss + recipe.late * late + apart / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        return torch.stack([loss, late, apart]).detach()

    def _capture(self) -> None:
        """Record a step as a CUDA graph: thousands of small kernels are then one launch. Nothing is computed here."""
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):  # the loader's thread goes on
            self._losses = self._update()

    def advance(self) -> Tensor:
        """One step; returns the loss and its parts: contrastive, late, apart."""
        batch = _drawn(self.pool, self._fill(), self.recipe, self.step)
        self.rate.fill_(self.recipe.rate(self.step))
        if self._batch is None:
            self._batch = batch
        for mine, new in zip(self._batch, batch):
            mine.copy_(new)
        if self._graph is not None:
            self._graph.replay()
            losses = self._losses
        else:
            losses = self._beside() if self._on_gpu else self._update()
        self.step += 1
        if self._on_gpu and self._graph is None and self.step % 8 == 0:
            self._capture()  # whose losses nothing has computed yet
        return losses

    def _beside(self) -> Tensor:
        """`_update` on a stream of its own, as the steps before a capture must be."""
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            losses = self._update()
        main.wait_stream(side)
        return losses


def train(folder: Path, recipe: Recipe = Recipe(), device: str = "cpu", workers: int = 1, every: int = 500) -> Path:
    """Train, or go on where `folder`/checkpoint.pt stopped, and write `folder`/model.safetensors.

    A checkpoint is written every `every` steps. Weights are float32; on a GPU the towers run in bfloat16.
    """
    run = Run(folder, recipe, device, workers)
    bar = tqdm(initial=run.step, total=recipe.steps, unit="step", mininterval=5)
    while run.step < recipe.steps:
        losses = run.advance()
        bar.update()
        if run.step % every == 0 or run.step == recipe.steps:
            run.save()
            loss, late, apart = losses.tolist()
            said = f"loss {loss:.3f}  late {late:.4f}  apart {apart:.4f}  zero-shot {zero_shot(run.model):.3f}"
            bar.write(f"step {run.step}  {said}")
    export(run.model, folder / "model.safetensors")
    return folder / "model.safetensors"
