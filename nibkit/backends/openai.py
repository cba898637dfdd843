"""OpenAI's `clip` package (on PyPI: rf-clip; `clip` there is another program)."""

import torch

from ..towers import Block, ImageTower, State, TextTower, norm


def _block(b) -> Block:
    weights, biases = b.attn.in_proj_weight.chunk(3), b.attn.in_proj_bias.chunk(3)
    q, k, v = zip(weights, biases)
    return Block(b.attn.num_heads, norm(b.ln_1), q, k, v, b.attn.out_proj, norm(b.ln_2), b.mlp)


class OpenAIImage(ImageTower):
    def __init__(self, visual):
        if not hasattr(visual, "transformer"):
            raise ValueError("this CLIP has a ResNet image encoder; nibkit's towers are cut between transformer blocks (ViT)")
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


class OpenAIText(TextTower):
    def __init__(self, model):
        self._model = model
        self.blocks = [_block(b) for b in model.transformer.resblocks]
        self.width = model.transformer.width
        self.context = model.positional_embedding.shape[0]
        self.embedding, self.positions = model.token_embedding.weight, model.positional_embedding

    def head(self, row):
        return norm(self._model.ln_final)(row) @ self._model.text_projection


def towers(model) -> tuple[ImageTower, TextTower]:
    """`clip.model.CLIP` with a ViT -> its two towers."""
    return OpenAIImage(model.visual), OpenAIText(model)
