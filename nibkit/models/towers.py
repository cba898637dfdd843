"""Encoders that can be cut: run to block l, touch the state, run on.

Every method works through these two classes. They read a library's weights in place: no copy, hook or patch is left.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import whole
from .devices import at_hand, bytes_of, onto
from .modes import plain
from .sharing import once, shared
from .weights import Projection

Mask = bool | Tensor  # who sees whom: False, everyone; True, no token a later one; (B, 1, T, T) bool, as it says
Layer = int | tuple[int, int] | None  # of both towers, of (image, text), or each tower's default


def at_least_single(x: Tensor) -> Tensor:
    """float32 where a pass in half precision left less."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class State(NamedTuple):
    """What flows between blocks: `tokens` (B, T, C), and `readout` (B,), the row that the embedding is read from;
    where all tokens are pooled (see `Pool`), row 0 of what the pooling block puts out.
    """

    tokens: Tensor
    readout: Tensor

    def repeat(self, n: int) -> "State":
        """The batch stacked n times: (n * B, T, C)."""
        return State(self.tokens.repeat(n, 1, 1), self.readout.repeat(n))

    def pick(self, rows) -> "State":
        """The chosen pairs of the batch: `rows` is what a tensor's first axis takes, a slice or indices."""
        return State(self.tokens[rows], self.readout[rows])


@dataclass
class Block:
    """One pre-LayerNorm transformer block: x + attention(norm1(x)), then + mlp(norm2(.)).

    `query`, `key`, `value` give (weight, bias), read from the model at every use: a parameter may have been replaced.
    `out`, `mlp` and the norms are the library's own modules.
    """

    heads: int
    norm1: Callable
    query: Projection
    key: Projection
    value: Projection
    out: Callable
    norm2: Callable
    mlp: Callable

    def _normed(self, x: Tensor) -> Tensor:
        """norm1, in half precision where autocast would take it there for each of query, key and value."""
        h, kind = self.norm1(x), x.device.type
        return h.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else h

    def _heads(self, x: Tensor, projection: Projection) -> Tensor:
        return F.linear(x, *projection()).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, T, C / heads)

    def _queries(self, h: Tensor) -> Tensor:
        return self._heads(h, self.query)

    def _join(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))

    def __call__(self, x: Tensor, mask: Mask = False) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        h = self._normed(x)
        q, k, v = self._queries(h), self._heads(h, self.key), self._heads(h, self.value)
        rule = {"attn_mask": mask} if isinstance(mask, Tensor) else {"is_causal": mask}
        return self._join(x, F.scaled_dot_product_attention(q, k, v, **rule))

    def at_row(self, x: Tensor, row: Tensor, mask: Mask = False) -> Tensor:
        """The block's output at one row per sequence, (B, C): what a CLS or EOS readout needs of the last block."""
        h, here = self._normed(x), torch.arange(len(x), device=x.device)
        q = self._queries(h[here, row][:, None])
        k, v = self._heads(h, self.key), self._heads(h, self.value)
        if isinstance(mask, Tensor):
            seen = mask[here, :, row][:, :, None]
        else:
            seen = (torch.arange(x.shape[1], device=x.device) <= row[:, None])[:, None, None] if mask else None
        return self._join(x[here, row][:, None], F.scaled_dot_product_attention(q, k, v, attn_mask=seen))[:, 0]

    def attention(self, x: Tensor, mask: Mask = False) -> tuple[Tensor, Tensor]:
        """Attention probabilities (B, heads, T, T) and values (B, heads, T, C / heads), for methods that need them."""
        h = self._normed(x)
        q, k, v = self._queries(h), self._heads(h, self.key), self._heads(h, self.value)
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        if mask is not False:
            scores = scores.masked_fill(~allowed(mask, x), float("-inf"))
        return scores.softmax(-1), v

    def from_attention(self, x: Tensor, probabilities: Tensor, values: Tensor) -> Tensor:
        """The block's output (B, T, C), given what `attention` returned."""
        return self._join(x, probabilities @ values)

    def similarity(self, x: Tensor, row: Tensor) -> Tensor:
        """Cosine of one row's query with every key, the heads side by side: (B, T)."""
        h, here = self._normed(x), torch.arange(len(x), device=x.device)
        query = self._queries(h)[here, :, row].flatten(1)
        return F.cosine_similarity(query[:, None], F.linear(h, *self.key()), dim=-1)


@dataclass
class Pool(Block):
    """Attention pooling as the last block of a tower without CLS: one learnt query, the probe, draws from all tokens.

    It puts out one row, (B, 1, C): there is one row of attention, and no way around it (no residual connection).
    """

    probe: Callable[[], Tensor]  # (C,), read at every use

    def _queries(self, h: Tensor) -> Tensor:
        return self._heads(self.probe().expand(len(h), 1, -1), self.query)

    def _join(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))

    def at_row(self, x: Tensor, row: Tensor, mask: Mask = False) -> Tensor:
        """The pooled row itself, (B, C), whatever `row` says: there is no other."""
        return self(x)[:, 0]


@dataclass
class Stage:
    """A block without attention: a stage of a ResNet, whose map has its own size and channels, or a plain pooling."""

    apply: Callable

    def __call__(self, x: Tensor, mask: Mask = False) -> Tensor:
        """(B, T, C) -> (B, T', C')."""
        return self.apply(x)

    def at_row(self, x: Tensor, row: Tensor, mask: Mask = False) -> Tensor:
        """The stage's output at one row per sequence, (B, C')."""
        return self(x)[torch.arange(len(x), device=x.device), row]


def allowed(mask: Mask, x: Tensor) -> Tensor:
    """`mask` for tokens x (B, T, C) as a bool that broadcasts to (B, heads, T, T); not for False."""
    if isinstance(mask, Tensor):
        return mask
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()


class Tower:
    """One encoder of a CLIP. `layer` counts blocks that have been applied: 0 is the input of the first block.

    Backends subclass it with three small functions: `rows` (inputs -> embeddings before anything else: patches with
    their positions, or token rows without), `start` (rows -> the first block's input) and `head` (readout row (B, C) ->
    (B, E)). Where the embedding is read from is the tower's own affair: a row of the last block (CLS, EOS), or all
    rows, pooled by a `Pool` or a `Stage` that stands last among the blocks.

    >>> from nibkit.models import load
    >>> tower = load("scenes", device="cpu").text
    >>> ids = [torch.tensor([49406, 320, 2368, 49407])]  # a cat
    >>> torch.equal(tower.embed(tower.state(ids, 9), 9), tower.encode(ids))
    True
    """

    name: str  # "image" or "text"
    blocks: list[Block | Stage]
    width: int
    causal: bool = False  # no token sees a later one
    prefix: int = 0  # tokens that stand for no patch or word of the input
    forward_only: Callable = staticmethod(plain)  # opens a pass that nobody differentiates: half precision, if wanted
    differentiated: Callable = staticmethod(plain)  # the same of the blocks in a pass that is differentiated
    unattended: str = ""  # why methods that read attention cannot be used: "is a ResNet"

    def rows(self, inputs) -> State:
        """Inputs (pixels, or a list of id tensors) -> embedding rows (B, T, C), before anything else."""
        raise NotImplementedError

    def start(self, rows: State) -> State:
        """Embedding rows -> the state that enters block 0."""
        raise NotImplementedError

    def head(self, row: Tensor) -> Tensor:
        """The last block's readout row (B, C) -> the embedding (B, E), not normalised."""
        raise NotImplementedError

    def mask(self, state: State) -> Mask:
        """Who sees whom among a state's tokens."""
        return self.causal

    @property
    def default_layer(self) -> int:
        """Three quarters up: the paper's 9 of 12, 18 of 24, stage 3 of a ResNet (its 4 stages and the pooling are 5).

        Never the last, whose output no method can use.
        """
        n = len(self.blocks)
        return max(0, min(3 * n // 4, n - 2))

    def check_layer(self, layer: int) -> int:
        """`layer` as an int, or a ValueError that says which layers there are."""
        n = len(self.blocks)
        return whole("layer", layer, 0, n - 1, f" of this {n}-block {self.name} tower")

    def rows_at_once(self, batch_size: int | str, state: State, layer: int) -> int:
        """How many rows such as those of `state` go forward and backward from block `layer` on together: at least 1.

        batch_size: that number, or a budget in bytes such as "2GB" that the rows' estimated memory fits; "auto" is
        500MB, and on CUDA a quarter of what is free. Estimated is what a backward pass needs per block and token, about
        20 float32 values a channel (LayerNorms, query, key, value, what attention puts out, twice the four-fold MLP
        layer) and 2 x heads x tokens of attention; and as much again as one block takes, for what comes and goes.
        """
        if isinstance(batch_size, int):
            return batch_size
        _, tokens, channels = state.tokens.shape
        values = tokens * (20 * channels + 2 * getattr(self.blocks[0], "heads", 0) * tokens)
        return max(1, bytes_of(batch_size, state.tokens.device) // ((len(self.blocks) - layer + 1) * values * 4))

    def run(self, state: State, first: int, last: int) -> State:
        """Apply blocks first .. last - 1."""
        tokens, mask = state.tokens, self.mask(state)
        for block in self.blocks[first:last]:
            tokens = block(tokens, mask)
        return State(tokens, state.readout)

    @torch.no_grad()
    def state(self, inputs, layer: int) -> State:
        """The state that enters block `layer`, without gradients. Within `shared`, from the highest one known."""
        known = once((self, inputs, "layers"), set)

        def make() -> State:
            below = max((k for k in known if k < layer), default=None)
            with self.forward_only():
                first = self.start(self.rows(inputs)) if below is None else self.state(inputs, below)
                state = self.run(first, below or 0, layer)
            return State(at_least_single(state.tokens), state.readout)

        state = once((self, inputs, self.check_layer(layer)), make)
        known.add(layer)
        return state

    def states(self, inputs) -> list[State]:
        """The state that enters each block, without gradients, all from one forward pass."""
        with shared():
            return [self.state(inputs, layer) for layer in range(len(self.blocks))]

    @torch.no_grad()
    def encode(self, inputs) -> Tensor:
        """The whole encoder, (B, E), without gradients. Within `shared`, it goes on from the highest state known."""

        def make() -> Tensor:
            layer = max(once((self, inputs, "layers"), set), default=0)
            with self.forward_only():
                return at_least_single(self.embed(self.state(inputs, layer), layer))

        return once((self, inputs, "embedding"), make)

    def embed(self, state: State, layer: int) -> Tensor:
        """Run the rest of the encoder on a state that enters block `layer`: the embedding (B, E), not normalised.

        Of a tower that runs in half precision too, it is float32: cosines lie close together.
        """
        self.check_layer(layer)
        with self.differentiated() if torch.is_grad_enabled() else plain():
            state = self.run(state, layer, len(self.blocks) - 1)
            row = self.blocks[-1].at_row(state.tokens, state.readout, self.mask(state))
        with plain():
            embedding = self.head(at_least_single(row))
        return embedding.to(torch.promote_types(embedding.dtype, torch.float32))

    def fed(self, layer: int, normed: Tensor) -> "Tower":
        """A view of this tower whose block `layer` takes `normed` (B, T, C) for its normalised input."""
        view = copy.copy(self)
        view.blocks = [*self.blocks]
        view.blocks[layer] = replace(self.blocks[layer], norm1=lambda x: normed)
        return view

    def embed_rows(self, rows: State) -> Tensor:
        """The whole encoder from its embedding rows: (B, E)."""
        return self.embed(self.start(rows), 0)


class ImageTower(Tower):
    """An image encoder: normalised pixels (B, 3, size, size) in; tokens are CLS, where there is one, then patches."""

    name = "image"
    size: int  # side of the picture the tower takes, pixels
    grid: tuple[int, int]  # patches: rows, columns
    prefix: int = 1  # CLS

    def patches(self, scores: Tensor) -> Tensor:
        """Token scores (..., T) -> patch scores (..., rows, columns), the CLS token dropped."""
        return scores[..., self.prefix :].unflatten(-1, self.grid)


class TextTower(Tower):
    """A text encoder: a list of B 1-D int64 tensors of ids in; tokens are those ids, in order."""

    name = "text"
    causal = True
    context: int  # the longest text, tokens
    embedding: Tensor  # (vocabulary, C)
    positions: Tensor  # (context, C)
    pad: int | None = None  # texts are filled up with this token, where the model sees the padding (SigLIP)
    before: int = 1  # tokens in front of the first word (BOS); behind the last there is always EOS

    def readout(self, ids: Tensor) -> int:
        """Position of the token the embedding is read from: the largest id (EOS)."""
        return int(ids.argmax())

    def rows(self, ids: list[Tensor]) -> State:
        """Token rows, without positions. Causal texts are cut after their readout token: what follows cannot matter."""
        ids, device = at_hand(ids), self.embedding.device
        if self.pad is not None:
            ids = [F.pad(i, (0, self.context - len(i)), value=self.pad) for i in ids]
        ends = [self.readout(i) for i in ids]
        if self.causal:
            ids = [i[: end + 1] for i, end in zip(ids, ends)]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        return State(self.embedding[onto(device, padded)], onto(device, torch.tensor(ends)))

    def start(self, rows: State) -> State:
        return State(rows.tokens + self.positions[: rows.tokens.shape[1]], rows.readout)


def ragged(scores: Tensor, ids: list[Tensor]) -> list[Tensor]:
    """Padded text scores (B, T) -> one (len,) tensor per text, on the CPU; tokens behind the readout score 0."""
    scores = scores.cpu()
    return [F.pad(row[: len(i)], (0, max(0, len(i) - len(row)))) for row, i in zip(scores, ids)]
