"""The experiments of notebook 01 can fail: each is fed something whose answer is known, and something that breaks
it.
"""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import nibkit
from nibkit.methods.nib import Bottleneck
from nibkit.models.towers import State, Tower
from nibkit.study import theory

S = np.array([[4.0, 1.0, 0.0], [1.0, 1.0, 0.3], [0.0, 0.3, 0.25]])


@pytest.fixture(scope="module")
def pair(scenes):
    """Two bundled pairs: pixels and ids."""
    pairs = nibkit.data.load("scenes-captions")[:2]
    return scenes.preprocess([p.image for p in pairs]), scenes.tokenize([p.text for p in pairs])


def toy(function, tokens) -> Bottleneck:
    """F = function(tokens), as the cosine of (f, sqrt(1 - f^2)) with (1, 0)."""
    tower = Tower()
    tower.embed = lambda state, layer: torch.stack([f := function(state.tokens), (1 - f**2).sqrt()], 1)
    target = torch.tensor([[1.0, 0.0]], dtype=tokens.dtype).expand(len(tokens), 2)
    return Bottleneck(tower, State(tokens, torch.zeros(len(tokens), dtype=torch.long)), 0, target)


def test_information_by_hand():
    """One entry: log(1 + lam^2 v / s^2) / 2; many: a difference of two Gaussian entropies."""
    assert theory.information(np.array([[3.0]]), 0.5, 0.5) == pytest.approx(0.5 * np.log(4))
    out, noise = multivariate_normal(cov=0.49 * S + 0.04 * np.eye(3)), multivariate_normal(cov=0.04 * np.eye(3))
    assert theory.information(S, 0.7, 0.2) == pytest.approx(out.entropy() - noise.entropy(), rel=1e-12)


def test_information_grows_from_zero():
    curve = theory.information(S, np.linspace(0, 1, 1001), 0.1)
    assert curve[0] == 0 and (np.diff(curve) > 0).all()


def test_information_sampled_without_the_formula():
    table = theory.information_table(S, [0, 0.3, 1], [0.1, 1], draws=4000)
    assert (table.sampled[table.lam == 0].abs() < 1e-12).all()
    moved = table[table.lam > 0]
    assert ((moved.sampled - moved.closed).abs() < 4 * moved.error).all() and (moved.error < 0.1).all()
    unit = np.sqrt(np.trace(S) / 3)
    assert table.closed.iloc[-1] == pytest.approx(theory.information(S, 1, unit))
    sampled, error = theory.information_sampled(S, 1, unit, 4000)
    assert abs(sampled - theory.information(1.5 * S, 1, unit)) > 4 * error  # it would tell a wrong S


def test_patch_covariance_leaves_out_the_readout(scenes, pair):
    tokens = scenes.image.state(pair[0], 9).tokens[:, 1:].flatten(0, 1).double()
    centred = tokens - tokens.mean(0)
    want = (centred.T @ centred).cpu() / (len(tokens) - 1)
    torch.testing.assert_close(torch.tensor(theory.patch_covariance(scenes, pair[0], 9)), want)


def test_noise_limit_of_a_known_function():
    """F = (z1^2 + z2) / 10: the deviation is s |(2 lam z1, 1)| / 10 and the bias lam-free, s^2 mean(eps1^2) / 10."""
    z = torch.tensor([[[1.0, 1.0]], [[2.0, 0.5]]], dtype=torch.float64)
    square = toy(lambda x: (x[:, 0, 0] ** 2 + x[:, 0, 1]) / 10, z)
    noise = np.geomspace(1e-5, 1e-3, 3)
    table = theory.noise_limit(square, [1, 0.5], noise, draws=2000)
    first = table[(table.pair == 0) & (table.lam == 0.5)]
    np.testing.assert_allclose(first.predicted, noise * np.hypot(1, 1) / 10, rtol=1e-9)
    np.testing.assert_allclose(table.deviation, table.predicted, rtol=0.05)
    np.testing.assert_allclose(first.bias, noise**2 / 10, rtol=0.1)
    assert theory.order(noise, first.deviation) == pytest.approx(1, abs=0.01)
    assert theory.order(noise, first.bias) == pytest.approx(2, abs=0.01)


def test_along_and_below():
    """F = lam^2 / 2 on a grid: a quarter of its movement is below lam = 1/2."""
    path = theory.along(toy(lambda x: x[:, 0, 0] ** 2 / 2, torch.ones(1, 1, 1, dtype=torch.float64)), [0, 0.25, 0.5, 1])
    np.testing.assert_allclose(path.match, [0, 1 / 32, 1 / 8, 1 / 2])
    assert theory.below(path, 0.5) == pytest.approx(0.25)


@pytest.mark.parametrize("n", [1, 2, 10])
def test_completeness_of_a_square(n):
    """F = z^2: the right Riemann sum is z^2 (1 + 1/n), so its relative gap is 1/n; Gauss has none."""
    square = toy(lambda x: x[:, 0, 0] ** 2, torch.full((1, 1, 1), 0.5, dtype=torch.float64))
    row = theory.completeness(square, "riemann", n).iloc[0]
    assert row.total == pytest.approx(0.25 * (1 + 1 / n)) and row.gap == pytest.approx(1 / n) and row.passes == n
    assert theory.completeness(square, "gauss", n).gap.item() < 1e-12


def test_completeness_on_the_encoders(scenes, pair):
    for side, bottleneck in theory.bottlenecks(scenes, *pair, layer=9).items():
        tables = {rule: theory.completeness(bottleneck, rule, n) for rule, n in [("riemann", 10), ("exact", 96)]}
        np.testing.assert_allclose(tables["riemann"].change, tables["exact"].change, atol=1e-5)
        assert tables["exact"].gap.mean() < min(0.05, tables["riemann"].gap.mean()), side
        package = nibkit.METHODS["nib"](scenes, *pair, layer=9, steps=10).info
        np.testing.assert_allclose(
            tables["riemann"].gap, package[f"gap_{side}"] / package[f"change_{side}"].abs(), rtol=1e-4, atol=1e-5
        )


def test_appendix_g(scenes, pair):
    assert theory.narrowed(torch.tensor([[[8.0, 6.0]]]), 0.25).tolist() == [[[2.0, 1.5]]]
    states = scenes.image.state(pair[0], 9).tokens  # on the model's device
    assert torch.equal(theory.narrowed(states, 0.25), states / 4)


def test_invariance_and_its_control(scenes, pair):
    def nib(clip):
        return nibkit.METHODS["nib"](clip, *pair, layer=9)
    original, rewritten = nib(scenes), theory.altered(scenes, theory.rewrite)
    for twin in (theory.as_transformers(scenes), theory.as_open_clip(scenes)):
        assert type(twin.model) is not type(scenes.model) and theory.difference(original, nib(twin)) < 1e-3
    assert theory.difference(original, nib(rewritten)) < 1e-3
    weights = [c.model.visual.transformer.resblocks[9].mlp.c_fc.weight for c in (scenes, rewritten)]
    assert not torch.allclose(*weights)
    other = theory.altered(scenes, lambda m: m.visual.transformer.resblocks[9].attn.in_proj_weight[:128].mul_(1.1))
    assert theory.difference(original, nib(other)) > 1e-3


def test_altered_leaves_the_original_alone(scenes, pair):
    before = scenes.embed_image(pair[0])
    theory.altered(scenes, lambda m: m.visual.proj.zero_())
    assert torch.equal(before, scenes.embed_image(pair[0])) and before.abs().max() > 0


def test_only_openais_vit_is_taken_apart(golden_clip):
    with pytest.raises(ValueError, match="is not a ViT in the format of OpenAI's clip"):
        theory.altered(golden_clip, torch.nn.Module.double)


def test_transformers_twin_embeds_the_same(scenes, pair):
    twin = theory.as_transformers(scenes)
    for ours, theirs in [
        (scenes.embed_image(pair[0]), twin.model.get_image_features(pixel_values=pair[0])),
        (scenes.embed_text(pair[1][:1]), twin.model.get_text_features(input_ids=pair[1][0][None])),
    ]:
        theirs = getattr(theirs, "pooler_output", theirs)  # transformers 5 wraps it
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_difference_and_rank_agreement():
    a = nibkit.Attribution(np.array([[[1.0, 2.0], [3.0, -4.0]]]), [np.array([0.0, 1.0, 2.0])], 4)
    b = nibkit.Attribution(-a.image, [np.array([0.0, 1.0, 4.0])], 4)
    assert theory.difference(a, a) == 0 and theory.difference(a, b) == 2
    row = theory.rank_agreement(a, b).iloc[0]
    assert row.image == pytest.approx(-1) and row.text == pytest.approx(1)
