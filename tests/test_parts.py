"""carry and norm against closed forms, their certificate, and what happens where a rule fails."""

import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from test_nib import _bottleneck

import nibkit
from nibkit import plots
from nibkit.__main__ import main
from nibkit.methods.nib import Bottleneck, path
from nibkit.models import Clip
from nibkit.models.towers import Block, State, Tower
from nibkit.study import theory

NIB = nibkit.METHODS["nib"]


@pytest.fixture(scope="module")
def scenes():
    """The model whose curves and maps the settings below were chosen on."""
    return nibkit.load("scenes-early", device="cpu")


class Linear(Tower):
    """One block x + norm1(x) as a tower: its embedding reads both by a linear head, so each part is known by hand."""

    name = "image"

    def __init__(self, eps: float, head: torch.Tensor):
        c = len(head)
        nothing = (torch.zeros(c, c).double(), None)
        self.head_weights = head
        self.blocks = [Block(1, lambda x: F.layer_norm(x, (c,), eps=eps), nothing, nothing, nothing, None, None, None)]

    def embed(self, state, layer):
        x = state.tokens + self.blocks[0].norm1(state.tokens)
        value = (x * self.head_weights).sum((1, 2))
        return torch.stack([value, (1 - value**2).sqrt()], 1)  # cosine with (1, 0) is the value itself


@pytest.mark.parametrize("eps", [1e-5, 1e-6, 1e-12])
def test_a_linear_head_behind_one_layernorm(eps):
    """f = w . (z + norm1(z)): a token's carry is w . z, its norm w . norm1(z), F(0+) the sum of the latter, at every
    eps.
    """
    rng = torch.Generator().manual_seed(0)
    z, w = torch.randn(2, 3, 8, generator=rng).double(), 0.01 * torch.randn(8, generator=rng).double()
    z[0, 1] = 0.7  # a token without variance
    bottleneck = Bottleneck(
        Linear(eps, w), State(z, torch.zeros(2, dtype=torch.long)), 0, torch.tensor([[1.0, 0.0]] * 2).double()
    )
    carry, norm = (path(bottleneck, rule, 200, 1e-4) for rule in ("carry", "norm"))
    eps_free = (z - z.mean(-1, keepdim=True)) / z.std(-1, correction=0, keepdim=True).clamp(min=1e-9)
    torch.testing.assert_close(carry.scores, z @ w, atol=1e-9, rtol=0)
    torch.testing.assert_close(norm.scores, eps_free @ w, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(norm.opened, (eps_free @ w).sum(1), atol=1e-4, rtol=0)
    torch.testing.assert_close(carry.closed, norm.opened)
    assert norm.closed.abs().max() < 1e-12 and carry.certified(1e-4).all() and norm.certified(1e-4).all()
    assert norm.scores[0, 1] == 0


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("layer", [3, 9])
def test_the_parts_add_up_to_the_integral(scenes, side, layer):
    pairs = nibkit.data.load("scenes-captions")[48:50]
    inputs = clip_inputs(scenes, pairs)
    bottleneck = theory.bottlenecks(scenes, *inputs, layer)[side]
    carry, norm, exact = (path(bottleneck, rule, 400, 1e-3) for rule in ("carry", "norm", "exact"))
    torch.testing.assert_close(carry.closed, norm.opened, atol=1e-6, rtol=0)
    torch.testing.assert_close(norm.closed, bottleneck.closed(), atol=1e-5, rtol=0)
    for k in range(2):
        assert np.corrcoef((carry.scores + norm.scores)[k], exact.scores[k])[0, 1] > 0.9999


def clip_inputs(clip, pairs):
    return clip.preprocess([p.image for p in pairs]), clip.tokenize([p.text for p in pairs])


def test_carry_does_not_depend_on_eps(scenes):
    """1e-5 (CLIP's), 1e-6 and 1e-12 in every LayerNorm: the same scores to 1e-3 of the largest."""
    inputs, found = clip_inputs(scenes, nibkit.data.load("scenes-captions")[48:50]), []
    for eps in (1e-5, 1e-6, 1e-12):

        def change(model, eps=eps):
            for module in model.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.eps = eps

        found.append(NIB(theory.altered(scenes, change), *inputs, layer=9, rule="carry"))
    for other in found[1:]:
        assert abs(other.image - found[0].image).max() < 1e-3 * abs(found[0].image).max()


@pytest.mark.parametrize("rule", ["carry", "norm", "exact"])
def test_the_certificate_holds(scenes, rule):
    """Where a pair is met at tol, no token is off by more than three times that, against many more nodes."""
    inputs = clip_inputs(scenes, nibkit.data.load("scenes-captions")[48:52])
    inputs = inputs[0], [*inputs[1][2:], *inputs[1][:2]]  # mismatched captions
    for layer in (6, 9):
        for bottleneck in theory.bottlenecks(scenes, *inputs, layer).values():
            rough, fine = path(bottleneck, rule, 128, 0.01), path(bottleneck, rule, 600, 1e-4)
            off = (rough.scores - fine.scores).abs().amax(1) / fine.scores.abs().amax(1).clamp(min=1e-4)
            met = rough.certified(0.01)
            assert (off[met] < 0.03).all() and met.float().mean() > 0.7 and (rough.passes <= 128).all()


def test_nothing_is_left_behind(scenes):
    before = [id(block.norm1) for tower in (scenes.image, scenes.text) for block in tower.blocks]
    keys = set(vars(scenes.image))
    NIB(scenes, *clip_inputs(scenes, nibkit.data.load("scenes-captions")[48:49]), rule="norm", max_passes=20)
    assert before == [id(block.norm1) for tower in (scenes.image, scenes.text) for block in tower.blocks]
    assert keys == set(vars(scenes.image)) and not any(len(m._forward_hooks) for m in scenes.model.modules())


def test_at_the_last_block_no_patch_is_carried(scenes):
    """A patch reaches the embedding only through a LayerNorm there: its carry is 0, not rounding noise."""
    with pytest.warns(UserWarning, match="the image scores of 2 of 2 pairs at layer 11 are 0 or rounding noise"):
        a = NIB(scenes, *clip_inputs(scenes, nibkit.data.load("scenes-captions")[48:50]), layer=11, rule="carry")
    assert (a.image == 0).all() and (a.heatmap() == 0).all() and a.info.converged.all()


def test_a_block_without_a_norm_has_no_norm_part():
    square = _bottleneck(lambda x: x[:, 0, 0] ** 2, torch.full((1, 1, 1), 0.5, dtype=torch.float64))
    carry, norm = (path(square, rule, 20, 1e-3) for rule in ("carry", "norm"))
    assert carry.scores.item() == pytest.approx(0.25, rel=1e-12) and norm.scores.item() == 0 and norm.change.item() == 0


@pytest.fixture(scope="module")
def pathological(scenes):
    """12 + 12 random blocks, image width 96, text width 64, in the format of transformers."""
    import transformers

    from nibkit.models import transformers as backend
    from nibkit.models.tokenizers import BPE

    shape = {"num_hidden_layers": 12, "num_attention_heads": 2}
    vision = {"hidden_size": 96, "intermediate_size": 384, "image_size": 224, "patch_size": 16} | shape
    text = {"hidden_size": 64, "intermediate_size": 256, "eos_token_id": 2} | shape
    torch.manual_seed(0)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=64)
    ).eval()
    return Clip("random", model, backend, scenes._transform, BPE(), torch.device("cpu"))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A picture that the random CLIP's exact rule cannot explain."""
    path = tmp_path_factory.mktemp("noise") / "noise.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (224, 224, 3), np.uint8)).save(path)
    return path


def test_panel_and_figure_say_where_a_rule_fell_back(pathological, noisy):
    panel = nibkit.explore(pathological, Image.open(noisy), "a cat")
    assert "published sum" not in panel.facts.value
    panel.rule.value = "exact"
    assert panel.message.value == "" and "the rule did not add up; this is the published sum" in panel.facts.value
    assert any("the rule did not add up" in text.get_text() for text in panel.figure().texts)


def test_the_command_line_says_where_a_rule_fell_back(pathological, noisy, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(nibkit, "load", lambda *_: pathological)
    drawn = []
    monkeypatch.setattr(plots, "overlay", lambda ax, image, scores, limit, title, unit: drawn.append(title))
    ask = ["explain", str(noisy), "a cat", "--json", str(tmp_path / "scores.json"), "--out", str(tmp_path / "map.png")]
    assert main([*ask, "--rule", "exact"]) == 0
    told = "image: the rule did not add up; this is the published sum"
    assert told in capsys.readouterr().out and drawn == [told.removeprefix("image: ")]
    assert json.loads((tmp_path / "scores.json").read_text())["photos"][0]["texts"][0]["notes"]["image"] == drawn[0]
    assert main([*ask, "--rule", "carry"]) == 0
    assert "note" not in capsys.readouterr().out and drawn[1] == ""


@pytest.mark.parametrize("rule", ["exact", "carry", "norm"])
def test_no_rule_adds_up_worse_than_the_published_sum(pathological, rule):
    ids = [torch.tensor([49406, 320, 2368, 49407])] * 2
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        a = NIB(pathological, pixels, ids, layer=9, rule=rule, max_passes=24)
    fell = (a.info[["stopped_image", "stopped_text"]] == "fell back").any(axis=1)
    assert bool(fell.any()) == any("are the published sum's" in str(w.message) for w in said)
    assert not (fell & a.info.converged).any() and fell.all() == (rule == "exact")
    published = NIB(pathological, pixels, ids, layer=9)
    sums = np.array([scores.sum() for scores in published.text])  # a text's scores are those of all its tokens
    assert (a.info.converged_text | (a.info.gap_text <= abs(sums - a.info.change_text) + 1e-6)).all()
    assert max(abs(scores).max() for scores in (a.image, *a.text)) < 10


def test_a_map_of_rounding_noise_is_flat_and_says_so(scenes):
    """The published sum at the last block: what its patches score is rounding, and min-max would make a heat map of
    it.
    """
    inputs = clip_inputs(scenes, nibkit.data.load("scenes-captions")[48:50])
    with pytest.warns(UserWarning, match="at layer 11 are 0 or rounding noise"):
        last = NIB(scenes, *inputs, layer=11)
    assert last.info.noise_image.all() and (last.heatmap() == 0).all()
    assert last.info.noise_text.all() and all((scores == 0).all() for scores in last.word_scores())
    assert set(last.notes()) == {"image", "text"} and "rounding noise" in last.notes()["image"]
    below = NIB(scenes, *inputs, layer=10)
    assert not below.info[["noise_image", "noise_text"]].any(axis=None) and not below.notes()
    assert (below.heatmap().max((1, 2)) == 1).all() and all(scores.max() == 1 for scores in below.word_scores())
