"""TEXTSPAN: what attention heads write, and the texts that span it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nibkit.study import textspan
from nibkit.study.textspan import basis, decompose


@pytest.fixture(scope="module")
def pairs(golden_pair):
    pixels, ids = golden_pair
    return pixels[:2], ids[:2]


@pytest.mark.parametrize("which", ["golden_clip", "scenes"])
def test_the_parts_add_up_to_the_embedding(which, pairs, request):
    clip = request.getfixturevalue(which)
    parts, embedding = decompose(clip.image, pairs[0]), clip.embed_image(pairs[0])
    blocks = len(clip.image.blocks)
    assert parts.heads.shape == (2, blocks, clip.image.blocks[0].heads, embedding.shape[1])
    assert parts.mlps.shape == (2, blocks, embedding.shape[1])
    assert (parts.total() - embedding).norm() < 1e-4 * embedding.norm()
    assert all(part.norm() > 1e-2 * embedding.norm() for part in (parts.heads, parts.mlps, parts.start))


def test_a_heads_part_is_what_the_head_writes(golden_clip, pairs):
    """Silencing one head of the last block takes its part out of what the attention adds to CLS."""
    tower, block = golden_clip.image, golden_clip.image.blocks[-1]
    x = tower.state(pairs[0], len(tower.blocks) - 1).tokens
    probabilities, values = block.attention(x)
    quiet = values.clone()
    quiet[:, 1] = 0
    written = [block.out((probabilities @ v).transpose(1, 2).flatten(2))[:, 0] for v in (values, quiet)]
    row = block.from_attention(x, probabilities, values)[:, 0]
    std = textspan._std(row)
    matrix, _ = textspan._linear_head(tower, row)
    bias = block.out(torch.zeros_like(row)) / block.heads
    expected = (written[0] - written[1] + bias) @ matrix / std
    assert torch.allclose(decompose(tower, pairs[0]).heads[:, -1, 1], expected, atol=1e-5)


def test_greedy_basis_finds_planted_directions_in_the_order_of_their_variance():
    directions = torch.eye(6)
    amounts = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])
    outputs = 7 + amounts @ directions[[4, 2]]  # variance 9 along direction 4, 1 along direction 2, and a constant
    chosen, explained = basis(outputs, directions, 3)
    assert chosen == [4, 2]  # two dimensions are spanned by two texts: the third is not asked for
    assert explained == pytest.approx([0.9, 1.0])


def test_greedy_basis_takes_no_text_twice_and_skips_its_copy():
    directions = torch.eye(3)
    texts = torch.stack([directions[0], directions[0], F.normalize(directions[0] + directions[1], dim=0)])
    outputs = torch.tensor([[2.0, 0, 0], [-2.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]])
    chosen, explained = basis(outputs, texts, 2)
    assert chosen == [0, 2] and explained == pytest.approx([0.8, 1.0])


def test_textspan_table(golden_clip, golden_pair):
    texts = ["a cat", "a dog", "a bus", "a tree"]
    table = textspan.textspan(golden_clip, golden_pair[0], texts, heads=2, n=2)
    assert list(table["place"]) == [1, 2, 1, 2] and set(table["text"]) <= set(texts)
    assert table["share"].is_monotonic_decreasing and table["explained"].between(0, 1).all()
    with pytest.raises(ValueError, match="1 picture: TEXTSPAN describes how a head varies"):
        textspan.textspan(golden_clip, golden_pair[0][:1], texts)


# --- as the authors' code shares LayerNorm's mean


@pytest.mark.parametrize("which", ["golden_clip", "scenes"])
def test_the_authors_parts_add_up_to_the_unit_embedding(which, pairs, request):
    clip = request.getfixturevalue(which)
    parts, embedding = decompose(clip.image, pairs[0], share="authors"), clip.embed_image(pairs[0])
    assert torch.allclose(parts.total(), F.normalize(embedding, dim=-1), atol=1e-5) and not parts.constant.any()


def test_an_authors_part_has_an_even_share_of_the_mean(golden_clip, pairs):
    """By their formula, (raw - mean / (parts heads)) weight / std + bias / (parts heads), projected, over the norm."""
    tower, model = golden_clip.image, golden_clip.model
    norm, block = model.vision_model.post_layernorm, tower.blocks[-1]
    x = tower.state(pairs[0], len(tower.blocks) - 1).tokens
    probabilities, values = block.attention(x)
    alone = torch.zeros_like(values)
    alone[:, 1] = values[:, 1]
    bias = block.out(torch.zeros_like(x[:, 0]))
    raw = block.out((probabilities @ alone).transpose(1, 2).flatten(2))[:, 0] - bias + bias / block.heads
    row = block.from_attention(x, probabilities, values)[:, 0]
    among = (2 * len(tower.blocks) + 1) * block.heads
    std = (row.var(-1, correction=0, keepdim=True) + norm.eps).sqrt()
    share = (raw - row.mean(-1, keepdim=True) / among) * norm.weight / std + norm.bias / among
    wanted = model.visual_projection(share) / tower.encode(pairs[0]).norm(dim=-1, keepdim=True)
    found = decompose(tower, pairs[0], share="authors").heads[:, -1, 1]
    assert torch.allclose(found, wanted, atol=1e-6)
    assert not torch.allclose(found * 3, decompose(tower, pairs[0]).heads[:, -1, 1], atol=1e-4)


def test_textspan_takes_either_share_and_no_other(scenes, golden_pair):
    texts = ["a cat", "a dog", "a bus", "a tree"]
    ours, theirs = (textspan.textspan(scenes, golden_pair[0], texts, heads=2, n=2, share=s) for s in textspan.SHARES)
    assert list(ours.columns) == list(theirs.columns) and not np.allclose(ours["share"], theirs["share"])
    with pytest.raises(ValueError, match="share='mean' is not one of: centred, authors"):
        textspan.textspan(scenes, golden_pair[0], texts, share="mean")
    with pytest.raises(ValueError, match=r"texts=\[\] is not a list of at least one text"):
        textspan.textspan(scenes, golden_pair[0], [])
