"""COCOA, TEXTSPAN and the six properties of the paper's Table 1."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from nibkit.attribution import Attribution
from nibkit.methods import METHODS
from nibkit.study import related, textspan
from nibkit.study.related import PROPERTIES, Subject, attribution_subject, cocoa, examine, hide
from nibkit.study.textspan import basis, decompose


@pytest.fixture(scope="module")
def pairs(golden_pair):
    pixels, ids = golden_pair
    return pixels[:2], ids[:2]


def verdicts(subject, clip, pairs):
    table = examine(subject, clip, *pairs)
    assert list(table["property"]) == list(PROPERTIES) and set(table["how"]) == {"tested"}
    return dict(zip(table["property"], table["holds"]))


# --- COCOA


def test_cocoa_adds_up_to_the_change_of_contrastive_corpus_similarity(golden_clip, pairs):
    pixels, corpus, foil = pairs[0], ["a cat", "a photo of a cat"], ["a dog", "a bus", "a tree"]
    path = cocoa(golden_clip, pixels, corpus, foil)
    image = F.normalize(golden_clip.embed_image(pixels), dim=-1)
    cosines = [image @ F.normalize(golden_clip.embed_text(texts), dim=-1).T for texts in (corpus, foil)]
    assert torch.allclose(path.opened, cosines[0].mean(1) - cosines[1].mean(1), atol=1e-6)
    assert path.scores.shape == (2, 49) and path.change.abs().min() > 1e-5
    assert (path.gap / path.change.abs()).max() < 0.01
    coarse = cocoa(golden_clip, pixels, corpus, foil, steps=1)
    assert (coarse.gap > path.gap).all()


def test_cocoa_turns_its_sign_when_corpus_and_foil_change_places(golden_clip, pairs):
    cat, dog = ["a cat"], ["a dog"]
    one, other = (cocoa(golden_clip, pairs[0], *sets, steps=4) for sets in ((cat, dog), (dog, cat)))
    assert torch.allclose(one.scores, -other.scores, atol=1e-7) and one.scores.abs().max() > 1e-5


def test_cocoa_needs_two_sets_of_texts(golden_clip, pairs):
    with pytest.raises(ValueError, match=r"foil=\[\] is not a list of at least one text"):
        cocoa(golden_clip, pairs[0], ["a cat"], [])
    with pytest.raises(ValueError, match="corpus='a cat' is not a list"):
        cocoa(golden_clip, pairs[0], "a cat", ["a dog"])


# --- TEXTSPAN


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


# --- the six properties


@pytest.mark.parametrize(
    "name, fails",
    [
        ("nib", {"no information loss"}),  # ten steps: not the integral
        ("m2ib", {"no randomness", "no information loss"}),
        ("chefer", {"no specific structure", "no information loss"}),
        ("saliency", {"no specific structure", "no information loss"}),
        ("xgrad", {"no information loss"}),
        ("random", {"no randomness", "no information loss"}),
        ("centre", {"no information loss"}),
    ],
)
def test_known_methods(name, fails, golden_clip, pairs):
    found = verdicts(attribution_subject(METHODS[name]), golden_clip, pairs)
    assert {p for p, holds in found.items() if not holds} == fails


def test_nib_by_the_exact_rule_has_all_six(golden_clip, pairs):
    found = verdicts(attribution_subject(METHODS["nib"], rule="exact", tol=1e-3, max_passes=512), golden_clip, pairs)
    assert all(found.values()), found


def test_cocoa_and_textspan_need_more_than_a_pair(golden_clip, pairs):
    texts = ["a bus", "a tree", "a dog"]
    found = verdicts(related.cocoa_subject(texts), golden_clip, pairs)
    assert {p for p, holds in found.items() if not holds} == {"no extra examples"}
    found = verdicts(related.textspan_subject(texts), golden_clip, pairs)
    assert {p for p, holds in found.items() if not holds} == {"no extra examples", "no specific structure"}


def test_planted_offences_are_found(golden_clip, pairs):
    """A method that asks for labels, looks at the rest of the batch, and leaves a weight changed."""

    def offender(clip, pixels, ids, labels):
        return Attribution(np.full((len(ids), 7, 7), len(ids)), [np.full(len(i), len(ids)) for i in ids], 224)

    def nudge(clip, pixels, ids):
        clip.model.logit_scale.data += 1e-3
        return 0.0

    weight = golden_clip.model.logit_scale.data.clone()
    try:
        found = verdicts(Subject(offender, lambda clip, *_: [np.ones(1)], nudge), golden_clip, pairs)
    finally:
        golden_clip.model.logit_scale.data.copy_(weight)
    offences = {"no extra examples", "explains the current model", "no downstream task"}
    assert {p for p, holds in found.items() if not holds} == offences

    def crowd(clip, pixels, ids, *, seed=0):
        return offender(clip, pixels, ids, None)

    assert not verdicts(attribution_subject(crowd), golden_clip, pairs)["no extra examples"]


def test_a_method_that_draws_from_the_global_generators_is_random_and_they_are_left_alone(golden_clip, pairs):
    draw = lambda *_: [np.random.rand(2) + torch.rand(2).numpy()]  # noqa: E731
    subject = Subject(lambda clip, pixels, ids: None, draw, lambda *_: 0.0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert not verdicts(subject, golden_clip, pairs)["no randomness"]
    assert np.array_equal(np.random.get_state()[1], before[0]) and torch.equal(torch.get_rng_state(), before[1])


def test_bits_are_compared_on_two_pairs_and_sums_over_all(golden_clip, golden_pair):
    pixels, ids = golden_pair[0][[0, 1, 0]], [golden_pair[1][k] for k in (0, 1, 0)]
    ran, added = [], []
    run = lambda clip, pixels, ids, seed: ran.append(len(ids)) or [np.ones(1)]  # noqa: E731
    gap = lambda clip, pixels, ids: added.append(len(ids)) or 0.5  # noqa: E731
    table = examine(Subject(lambda clip, pixels, ids: None, run, gap), golden_clip, pixels, ids).set_index("property")
    assert set(ran) == {1, 2} and added == [3]
    assert table.evidence["no information loss"] == "misses 50.0% of the change, worst of 3 pairs"


def test_hidden_blocks_compute_the_same_and_show_no_attention(golden_clip, pairs):
    hidden = hide(golden_clip)
    assert torch.equal(hidden.similarity(*pairs), golden_clip.similarity(*pairs))
    with pytest.raises(AttributeError, match="attention"):
        _ = hidden.image.blocks[0].attention
    assert hasattr(golden_clip.image.blocks[0], "attention")


def test_one_pair_is_too_few(golden_clip, pairs):
    with pytest.raises(ValueError, match="1 pair: whether a score depends on other examples"):
        examine(attribution_subject(METHODS["centre"]), golden_clip, pairs[0][:1], pairs[1][:1])


def test_marks_tell_tested_from_argued(golden_clip, pairs):
    table = related.matrix({"centre": attribution_subject(METHODS["centre"])}, golden_clip, *pairs, {"told": ("So it is said.", {PROPERTIES[1]: True})})
    wide = related.marks(table)
    assert wide.loc["told"].tolist() == ["", "(✓)", "", "", "", ""]
    assert list(wide.index) == ["centre", "told"] and list(wide.columns) == list(PROPERTIES)
    assert list(wide.loc["centre"]) == ["✓", "✓", "✓", "✗", "✓", "✓"]
    assert list(wide.loc["LICO"]) == ["(✗)", "(✗)", "", "", "(✗)", "(✗)"]
    assert isinstance(table, pd.DataFrame) and (table.groupby("method")["how"].nunique() == 1).all()
