"""NIB against the authors' outputs, closed forms and its own completeness."""

import golden
import numpy as np
import pytest
import torch

import nibkit
from nibkit.methods import nib as narrowing
from nibkit.methods.nib import Bottleneck, fixed_rule, gauss, path, riemann
from nibkit.models.towers import State
from nibkit.study import theory

NIB = nibkit.METHODS["nib"]


@pytest.mark.parametrize("setting", ["10/9", "5/9", "20/9", "10/3", "10/6"])
def test_golden(golden_clip, golden_pair, setting):
    steps, layer = map(int, setting.split("/"))
    a = NIB(golden_clip, *golden_pair, protocol="paper", layer=layer, steps=steps)
    np.testing.assert_allclose(golden.thin(a.heatmap()), golden.outputs(f"nib/{setting}/image"), atol=golden.TOLERANCE)
    np.testing.assert_allclose(golden.thin(a.signed_map()), golden.outputs(f"nib_raw/{setting}/image"), atol=1e-6)
    for got, want in zip(a.word_scores(), golden.outputs_text(f"nib/{setting}")):
        np.testing.assert_allclose(got, want, atol=golden.TOLERANCE)
    for got, want in zip(a.text, golden.outputs_text(f"nib_raw/{setting}")):
        np.testing.assert_allclose(got, want, atol=1e-6)


class Toy:
    """A one-block "tower" whose embedding is a closed form of the state, to know the integral by hand."""

    blocks = [None]

    def __init__(self, function):
        self.embed = lambda state, layer: function(state.tokens)


def _bottleneck(function, tokens) -> Bottleneck:
    # the target (1, 0) against the embedding (f, sqrt(1 - f^2)) has cosine f
    def embedding(x):
        return torch.stack([function(x), (1 - function(x) ** 2).sqrt()], 1)
    state = State(tokens, torch.zeros(len(tokens), dtype=torch.long))
    return Bottleneck(Toy(embedding), state, 0, torch.tensor([[1.0, 0.0]], dtype=tokens.dtype).repeat(len(tokens), 1))


@pytest.mark.parametrize("n", [1, 2, 10])
def test_right_riemann_of_a_square(n):
    """F = z^2: the right Riemann sum is z^2 (1 + 1/n) exactly, Gauss with n >= 1 nodes is z^2."""
    square = _bottleneck(lambda x: x[:, 0, 0] ** 2, torch.full((1, 1, 1), 0.5, dtype=torch.float64))
    assert fixed_rule(square, *riemann(n)).scores.item() == pytest.approx(0.25 * (1 + 1 / n), rel=1e-12)
    path = fixed_rule(square, *gauss(n))
    assert path.scores.item() == pytest.approx(0.25, rel=1e-12)
    assert path.gap.item() < 1e-12 and path.change.item() == pytest.approx(0.25, rel=1e-12)


def test_exact_credits_each_entry():
    """f = 0.1 a + b^2 + sin(c): each entry's integral is its own term, at every scale."""
    tokens = torch.tensor([[[0.3], [0.5], [0.2]], [[0.3], [5e-3], [-0.4]]], dtype=torch.float64)
    entries = _bottleneck(lambda x: 0.1 * x[:, 0, 0] + x[:, 1, 0] ** 2 + x[:, 2, 0].sin(), tokens)
    found = path(entries, "exact", 200, 1e-4)
    a, b, c = tokens[..., 0].T
    torch.testing.assert_close(found.scores, torch.stack([0.1 * a, b**2, c.sin()], 1), atol=1e-4, rtol=1e-3)
    assert found.certified(1e-4).all()


@pytest.mark.parametrize("layer", [0, 6, 10])
def test_exact_is_certified_or_says_so(golden_clip, golden_pair, layer):
    a = NIB(golden_clip, *golden_pair, layer=layer, rule="exact", tol=0.01, max_passes=192)
    for side in ("image", "text"):
        met = a.info[f"gap_{side}"] <= 0.01 * a.info[f"change_{side}"].abs() + 1e-6
        assert (a.info[f"stopped_{side}"].isin(["tol"]) <= met).all()
        assert (a.info[f"converged_{side}"] == (a.info[f"stopped_{side}"] == "tol")).all()
    assert a.info.converged.mean() >= 0.75 and a.info.passes.max() <= 192 + 10
    short = NIB(golden_clip, *golden_pair, layer=layer, rule="exact", tol=0, max_passes=12)
    assert (short.info.stopped_text != "tol").all() and (short.info.passes == 10 + 10).all()  # and the published sum


def test_a_rule_for_each_side(golden_clip, golden_pair):
    both = NIB(golden_clip, *golden_pair, rule=("carry", "riemann"))
    carry, published = (NIB(golden_clip, *golden_pair, rule=rule) for rule in ("carry", "riemann"))
    assert (both.image == carry.image).all() and all((a == b).all() for a, b in zip(both.text, published.text))
    assert set(both.info.rule_image) == {"carry"} and set(both.info.stopped_text) == {"steps"}
    assert (both.info.passes_image == carry.info.passes_image).all() and not both.info.converged.any()


def test_scores_add_up_to_the_reported_gap(golden_clip, golden_pair):
    """gap = |sum of all token scores - change|; for the text every token is in `text`."""
    a = NIB(golden_clip, *golden_pair, layer=9)
    total = np.array([t.sum() for t in a.text])
    np.testing.assert_allclose(abs(total - a.info.change_text), a.info.gap_text, atol=1e-6)


@pytest.mark.parametrize(("rule", "atol"), [("riemann", 2e-6), ("exact", 5e-4)])
def test_batches_do_not_leak(golden_clip, golden_pair, rule, atol):
    """A pair's scores are the same alone, in any company, and at any batch_size, but for float32 rounding.

    Near lam = 0 LayerNorm divides by almost nothing, so rounding shows there more than on the published path.
    """
    pixels, ids = golden_pair
    together = NIB(golden_clip, pixels, ids, layer=9, rule=rule, batch_size=3)
    for k in range(4):
        alone = NIB(golden_clip, pixels[k : k + 1], ids[k : k + 1], layer=9, rule=rule)
        np.testing.assert_allclose(together.image[k], alone.image[0], atol=atol)
        np.testing.assert_allclose(together.text[k], alone.text[0], atol=atol)


def test_deterministic(golden_clip, golden_pair):
    one, two = (NIB(golden_clip, *golden_pair, rule="exact") for _ in range(2))
    assert (one.image == two.image).all() and all((a == b).all() for a, b in zip(one.text, two.text))


def test_every_knob_is_alive(golden_clip, golden_pair):
    base = NIB(golden_clip, *golden_pair)
    rules = [{"rule": rule} for rule in ("gauss", "exact", "carry", "norm")]
    for options in [{"layer": 8}, {"steps": 9}, *rules, {"protocol": "corrected"}]:
        assert not np.allclose(base.image, NIB(golden_clip, *golden_pair, **options).image, atol=1e-5), options
    loose, tight = (NIB(golden_clip, *golden_pair, rule="exact", tol=tol).info.passes for tol in (0.5, 1e-3))
    assert (loose <= tight).all() and loose.sum() < tight.sum()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layer": 12}, "layer=12 is not in 0..11 of this 12-block image tower"),
        ({"layer": -1}, "layer=-1 is not in 0..11"),
        ({"steps": 0}, "steps=0 is not a whole number >= 1"),
        ({"rule": "simpson"}, "rule='simpson' is not one of: riemann, gauss, exact, carry, norm"),
        ({"rule": ("carry", "simpson")}, "rule='simpson' is not one of: riemann, gauss, exact, carry, norm"),
        ({"max_passes": 9}, "max_passes=9 is not a whole number >= 10"),
        ({"protocol": "papers"}, "protocol='papers' is not one of: paper, corrected"),
    ],
)
def test_bad_options_are_refused(golden_clip, golden_pair, options, sentence):
    with pytest.raises(ValueError, match=sentence.replace(".", r"\.")):
        NIB(golden_clip, *golden_pair, **options)


def test_an_unknown_option_is_refused(golden_clip, golden_pair):
    with pytest.raises(TypeError, match="method 'nib' has no option 'step'"):
        NIB(golden_clip, *golden_pair, step=3)


def test_a_path_by_an_unknown_rule_is_refused(golden_clip, golden_pair):
    """Not taken for another rule: theory, convergence and nib all come by here."""
    (bottleneck, *_) = theory.bottlenecks(golden_clip, *golden_pair, 1).values()
    with pytest.raises(ValueError, match="rule='simpson' is not one of: riemann, gauss, exact, carry, norm"):
        narrowing.path(bottleneck, "simpson", 4)
