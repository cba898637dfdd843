"""The two encoders of a `clip.model.CLIP`, which also say how much of their early attention tokens give to each
other.
"""

import math

import torch
import torch.nn.functional as F
from clip.model import CLIP
from torch import Tensor


def _weights(block) -> tuple[Tensor, ...]:
    """The parameters of one residual block, in the order of `_block`."""
    norms = (block.ln_1, block.ln_2)
    linears = (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj)
    joint = (block.attn.in_proj_weight, block.attn.in_proj_bias)
    return (*joint, *(p for module in (*norms, *linears) for p in (module.weight, module.bias)))


def _block(x: Tensor, weights: tuple[Tensor, ...], heads: int, causal: bool) -> tuple[Tensor, Tensor]:
    """One residual block: x (B, T, C) -> the same, and what share of its attention each token gives to others (B, T).

    The first token, CLS or BOS, does not count as another: it holds nothing that a picture or a text says.
    """
    joint, joint_bias, scale_1, shift_1, scale_2, shift_2, out, out_bias, up, up_bias, down, down_bias = weights
    width = x.shape[-1:]
    qkv = F.linear(F.layer_norm(x, width, scale_1, shift_1), joint, joint_bias)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
    logits = (q @ k.transpose(-2, -1)).float() / math.sqrt(q.shape[-1])
    if causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        logits = logits.masked_fill(later, -torch.inf)
    probabilities = logits.softmax(-1)
    x = x + F.linear((probabilities.to(v.dtype) @ v).transpose(1, 2).flatten(2), out, out_bias)
    hidden = F.linear(F.layer_norm(x, width, scale_2, shift_2), up, up_bias)
    x = x + F.linear(hidden * torch.sigmoid(1.702 * hidden), down, down_bias)
    own = probabilities.diagonal(dim1=-2, dim2=-1) + F.pad(probabilities[..., 1:, 0], (1, 0))
    return x, 1 - own.mean(1)


def _run(blocks, x: Tensor, row: Tensor, content: Tensor, causal: bool, before: int) -> tuple[Tensor, Tensor]:
    """Blocks over x (B, T, C), read at `row` (B,), and two shares of attention, means over the blocks before `before`:
    what the readout gives to content tokens, and what content tokens give to each other; content: bool (B, T)."""
    shares = []
    for number, block in enumerate(blocks):
        x, given = _block(x, _weights(block), block.attn.num_heads, causal)
        if number < before:
            shares.append(torch.stack([given.gather(1, row[:, None]).mean(), (given * content).sum() / content.sum()]))
    read = x.gather(1, row[:, None, None].expand(-1, 1, x.shape[-1]))[:, 0]
    return read, torch.stack(shares).mean(0) if shares else torch.zeros(2, device=x.device)


def encode_image(model: CLIP, pixels: Tensor, before: int = 0) -> tuple[Tensor, Tensor]:
    """`model.encode_image`, (B, 3, H, W) -> (B, E), and the shares of `_run`."""
    v = model.visual
    x = v.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([v.class_embedding.expand(len(x), 1, -1).to(x.dtype), x], 1) + v.positional_embedding
    row = torch.zeros(len(x), dtype=torch.long, device=x.device)
    content = (torch.arange(x.shape[1], device=x.device) > 0).expand(len(x), -1)
    row, shares = _run(v.transformer.resblocks, v.ln_pre(x), row, content, False, before)
    return v.ln_post(row) @ v.proj, shares


def encode_text(model: CLIP, ids: Tensor, before: int = 0) -> tuple[Tensor, Tensor]:
    """`model.encode_text` for ids (B, T), T at most the context, -> (B, E), and the shares of `_run`."""
    x = model.token_embedding(ids) + model.positional_embedding[: ids.shape[1]]
    row, places = ids.argmax(1), torch.arange(ids.shape[1], device=ids.device)
    content = (places > 0) & (places < row[:, None])
    row, shares = _run(model.transformer.resblocks, x, row, content, True, before)
    return model.ln_final(row) @ model.text_projection, shares
