"""Hugging Face transformers' CLIPModel, releases 4 and 5.

Their layers' call signature and what `get_image_features` returns changed between the two; their weights did not, and only these
are read here.
"""

import torch

from ..towers import Block, ImageTower, State, TextTower


def _block(layer) -> Block:
    a = layer.self_attn
    q, k, v = ((p.weight, p.bias) for p in (a.q_proj, a.k_proj, a.v_proj))
    return Block(a.num_heads, layer.layer_norm1, q, k, v, a.out_proj, layer.layer_norm2, layer.mlp)


class HFImage(ImageTower):
    def __init__(self, model):
        self._vision, self._projection = model.vision_model, model.visual_projection
        self.blocks = [_block(layer) for layer in self._vision.encoder.layers]
        config = model.config.vision_config
        self.width, self.size = config.hidden_size, config.image_size
        self.grid = (config.image_size // config.patch_size,) * 2

    def rows(self, pixels):
        x = self._vision.embeddings(pixels)
        return State(x, torch.zeros(len(x), dtype=torch.long, device=x.device))

    def start(self, rows):
        return State(self._vision.pre_layrnorm(rows.tokens), rows.readout)  # their spelling

    def head(self, row):
        return self._projection(self._vision.post_layernorm(row))


class HFText(TextTower):
    def __init__(self, model):
        self._text, self._projection = model.text_model, model.text_projection
        self.blocks = [_block(layer) for layer in self._text.encoder.layers]
        config = model.config.text_config
        self.width, self.context = config.hidden_size, config.max_position_embeddings
        # 2 is what OpenAI's conversions carry by mistake; the library then reads at the largest id, and so do we
        self._eos = None if config.eos_token_id == 2 else config.eos_token_id
        self.embedding = self._text.embeddings.token_embedding.weight
        self.positions = self._text.embeddings.position_embedding.weight

    def readout(self, ids):
        if self._eos is None:
            return super().readout(ids)
        return int((ids == self._eos).int().argmax())  # the library's own rule: the first EOS, or row 0 without one

    def head(self, row):
        return self._projection(self._text.final_layer_norm(row))


def towers(model) -> tuple[ImageTower, TextTower]:
    """`transformers.CLIPModel` -> its two towers."""
    return HFImage(model), HFText(model)
