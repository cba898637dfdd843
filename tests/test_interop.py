"""NIB beside Captum's layer integrated gradients, and nibkit's methods inside Quantus' metrics."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nibkit
from nibkit.interop import NIB, CaptionLogits, explain_func

CAPTIONS = ["a photo of a cat", "a photo of a dog", "a photo of a bus"]


class Rest(torch.nn.Module):
    """transformers' own encoder from block `layer` up, for Captum: state (B, T, C), target (B, E) -> cosine (B,)."""

    def __init__(self, model, layer: int, row: int | None):
        super().__init__()
        tower = model.vision_model if row is None else model.text_model
        self.cut, self.blocks, self.row = torch.nn.Identity(), tower.encoder.layers[layer:], row
        self.norm = tower.post_layernorm if row is None else tower.final_layer_norm
        self.projection = model.visual_projection if row is None else model.text_projection

    def forward(self, state, target):
        x, n = self.cut(state), state.shape[1]
        mask = None if self.row is None else torch.full((n, n), float("-inf")).triu(1)[None, None]
        for block in self.blocks:
            x = block(x, mask)
        return F.cosine_similarity(self.projection(self.norm(x[:, self.row or 0])), target)


@pytest.mark.parametrize(("method", "layer"), [("riemann_right", 9), ("riemann_right", 4), ("gausslegendre", 9)])
def test_path_rule_is_captums(golden_clip, golden_pair, method, layer):
    """Same cut, same nodes, zero state as baseline: scores and convergence deltas agree to 1e-5."""
    attr = pytest.importorskip("captum.attr", reason="Captum is optional: pip install '.[captum]'")
    pixels, ids = golden_pair
    options = {"n_steps": 8, "method": method, "return_convergence_delta": True}
    (image, texts), (delta, text_delta) = NIB(golden_clip, layer).attribute((pixels, ids), **options)

    def theirs(state, target, row=None):
        rest = Rest(golden_clip.model, layer, row)
        captum = attr.LayerIntegratedGradients(rest, rest.cut)
        scores, gap = captum.attribute(state, additional_forward_args=target, **options)
        return scores.sum(-1), gap

    embedded = golden_clip.embed_image(pixels), golden_clip.embed_text(ids)
    want, want_delta = theirs(golden_clip.image.state(pixels, layer).tokens, embedded[1])
    torch.testing.assert_close(image, want.float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(delta, want_delta.float(), atol=1e-5, rtol=0)
    assert delta.abs().max() > 1e-3  # there is something to agree on
    for k in range(len(ids)):
        state = golden_clip.text.state(ids[k : k + 1], layer)
        want, want_delta = theirs(state.tokens, embedded[0][k : k + 1], int(state.readout))
        torch.testing.assert_close(texts[k][: want.shape[1]], want[0].float(), atol=1e-5, rtol=0)
        torch.testing.assert_close(text_delta[k : k + 1], want_delta.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["riemann_right", "gausslegendre", "exact", "carry", "norm"])
def test_the_class_gives_the_methods_scores(golden_clip, golden_pair, method):
    rule = {"riemann_right": "riemann", "gausslegendre": "gauss"}.get(method, method)
    a = nibkit.METHODS["nib"](golden_clip, *golden_pair, layer=8, steps=6, rule=rule)
    image, texts = NIB(golden_clip, 8).attribute(golden_pair, n_steps=6, method=method)
    np.testing.assert_array_equal(golden_clip.image.patches(image).cpu().numpy(), a.image)
    for got, want in zip(texts, a.text):
        np.testing.assert_array_equal(got.numpy(), want)


def test_convergence_delta_is_signed(golden_clip, golden_pair):
    (image, _), (delta, _) = NIB(golden_clip).attribute(golden_pair, return_convergence_delta=True)
    info = nibkit.METHODS["nib"](golden_clip, *golden_pair).info
    np.testing.assert_allclose(image.sum(1).cpu().numpy() - info.change_image, delta.cpu().numpy(), atol=1e-6)
    np.testing.assert_allclose(delta.abs().cpu().numpy(), info.gap_image, atol=1e-7)
    assert (delta < 0).any()


def test_bad_arguments_are_refused(golden_clip, golden_pair):
    with pytest.raises(ValueError, match="layer=12 is not in 0..11"):
        NIB(golden_clip, 12)
    with pytest.raises(
        ValueError, match="method='riemann_left' is not one of: riemann_right, gausslegendre, exact, carry, norm"
    ):
        NIB(golden_clip).attribute(golden_pair, method="riemann_left")
    with pytest.raises(ValueError, match="n_steps=0 is not a whole number >= 1"):
        NIB(golden_clip).attribute(golden_pair, n_steps=0)
    with pytest.raises(ValueError, match="method='nb' is not one of: nib"):
        explain_func(CaptionLogits(golden_clip, CAPTIONS), golden_pair[0].cpu().numpy(), np.zeros(4), method="nb")


@pytest.fixture(scope="module")
def pictures(scenes):
    """A cat, a dog: pixels (2, 3, 224, 224) and their captions' numbers."""
    pairs = [next(p for p in nibkit.data.load("scenes-objects") if p.text == text) for text in CAPTIONS[:2]]
    return scenes.preprocess([p.image for p in pairs]), np.array([0, 1])


def test_logits_are_scaled_cosines(scenes, pictures):
    logits = CaptionLogits(scenes, CAPTIONS)(pictures[0])
    own = scenes.logit_scale * scenes.similarity(pictures[0], CAPTIONS[:2])
    torch.testing.assert_close(logits[[0, 1], [0, 1]], own, atol=1e-4, rtol=0)
    assert logits.argmax(1).tolist() == [0, 1]


def test_a_deep_copy_has_weights_of_its_own(golden_clip, golden_pair):
    """Quantus randomises copies: the copy's towers must see it, the original's must not."""
    model = CaptionLogits(golden_clip, CAPTIONS)
    before = model(golden_pair[0])
    other = copy.deepcopy(model)
    torch.testing.assert_close(other(golden_pair[0]), before, atol=0, rtol=0)
    for name, weight in other.named_parameters():
        if name.endswith("norm1.weight"):
            weight.zero_()
    assert (other(golden_pair[0]) - before).abs().max() > 1e-3
    torch.testing.assert_close(model(golden_pair[0]), before, atol=0, rtol=0)


def test_a_quantus_metric(scenes, pictures):
    """Pixel flipping: NIB's order removes the match sooner than the reverse of it."""
    quantus = pytest.importorskip("quantus", reason="Quantus is optional: pip install '.[quantus]'")
    x, y = pictures[0].cpu().numpy(), pictures[1]
    metric = quantus.PixelFlipping(features_in_step=224 * 224 * 3 // 6, perturb_baseline="black", disable_warnings=True)
    model = CaptionLogits(scenes, CAPTIONS)
    how = {"model": model, "x_batch": x, "y_batch": y, "a_batch": None, "device": "cpu"}
    nib = metric(**how, explain_func=explain_func, explain_func_kwargs={"method": "nib", "layer": 6})
    turned = metric(**how, explain_func=lambda **kwargs: -explain_func(**kwargs), explain_func_kwargs={"layer": 6})
    assert np.shape(nib) == (2, 6)  # pictures, steps: the probability of the caption after each
    assert np.mean(nib) < np.mean(turned) - 0.05
