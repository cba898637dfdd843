"""The gradient methods against the authors' outputs, and against the library's own model and plain loops."""

import copy
from importlib import import_module

import golden
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from near import array, assert_near

from nibkit.methods.nib import nib

PUBLISHED = ["gradcam", "chefer", "saliency", "fastig"]
NAMES = [*PUBLISHED, "gae", "grad_eclip", "legrad", "gradcam_pooled", "xgrad"]
METHODS = {name: getattr(import_module(f"nibkit.methods.{name}"), name) for name in NAMES}
LAYERED = ["gradcam", "gradcam_pooled", "xgrad"]


def close(got, want):
    """Equal within 1e-4 of the largest score."""
    want = array(want)
    assert_near(got, want)


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden(golden_clip, golden_pair, name):
    a = METHODS[name](golden_clip, *golden_pair, protocol="paper")
    np.testing.assert_allclose(golden.thin(a.heatmap()), golden.outputs(f"{name}/image"), atol=golden.TOLERANCE)
    for got, want in zip(a.word_scores(), golden.outputs_text(name), strict=True):
        np.testing.assert_allclose(got, want, atol=golden.TOLERANCE)


def test_golden_holds_a_flat_text(golden_clip, golden_pair):
    """Where every score is cut to 0 the map is 0, not a division by zero: the third pair's gradcam."""
    assert not golden.outputs_text("gradcam")[2].any()
    assert not METHODS["gradcam"](golden_clip, *golden_pair).word_scores()[2].any()


class Encoder:
    """One encoder of the library's own CLIPModel, run on one input with everything recorded, gradients on."""

    def __init__(self, model, inputs, vision: bool):
        encoder = model.vision_model if vision else model.text_model
        self.outputs, self.weights, self.parts = [], [], {}
        hooks = []
        for layer in encoder.encoder.layers:
            attention, first = layer.self_attn, lambda o: o[0] if type(o) is tuple else o
            hooks.append(layer.register_forward_hook(lambda m, i, o, first=first: self.outputs.append(first(o))))
            hooks.append(attention.register_forward_hook(lambda m, i, o: self.weights.append(o[1])))
            for part in ("q_proj", "k_proj", "v_proj"):
                def record(m, i, o, part=part):
                    return self.parts.setdefault(part, []).append(o)
                hooks.append(getattr(attention, part).register_forward_hook(record))
            def record(m, i, o):
                return self.parts.setdefault("attended", []).append(i[0])
            hooks.append(attention.out_proj.register_forward_hook(record))
        try:
            pooled = encoder(pixel_values=inputs).pooler_output if vision else encoder(input_ids=inputs).pooler_output
        finally:
            [h.remove() for h in hooks]
        self.embedding = (model.visual_projection if vision else model.text_projection)(pooled)
        norm = encoder.post_layernorm if vision else encoder.final_layer_norm
        self.head = lambda row: (model.visual_projection if vision else model.text_projection)(norm(row))
        self.readout = 0 if vision else inputs.shape[1] - 1
        self.kept = slice(1, None) if vision else slice(None)  # the tokens that get a score


@pytest.fixture(scope="module")
def oracle(golden_folder, golden_pair):
    """Pair 1's two encoders (12 tokens of text), each with the other's embedding, on the library's eager attention."""
    model = transformers.CLIPModel.from_pretrained(golden_folder, attn_implementation="eager").eval()
    pixels, ids = golden_pair
    image, text = Encoder(model, pixels[1:2], True), Encoder(model, ids[1][None], False)
    image.target, text.target = text.embedding.detach(), image.embedding.detach()
    image.scale = text.scale = model.logit_scale.exp()
    return image, text


def cosine(side) -> torch.Tensor:
    return F.cosine_similarity(side.embedding, side.target).sum()


def gradient(value, tensor):
    return torch.autograd.grad(value, tensor, retain_graph=True)[0]


def by_outputs(combine):
    """An oracle that sees the state behind nine or ten blocks and its gradient, without the batch axis."""

    def score(side, blocks):
        state = side.outputs[blocks - 1]
        return combine(state[0].detach(), gradient(cosine(side), state)[0], side.kept)

    return score


def pooled(state, slope, kept):
    return torch.relu(state[kept] @ slope[kept].mean(0))


def rolled_out(side):
    eye = relevance = torch.eye(side.weights[0].shape[-1], device=side.weights[0].device)
    for weights in side.weights:
        slope = side.scale.detach() * gradient(cosine(side), weights)
        relevance = relevance + (slope * weights).clamp(min=0).mean(1)[0].detach() @ relevance
    return (relevance - eye)[side.readout, side.kept]


def eclip(side):
    """Channel by channel, as the paper writes it."""
    total = 0
    for block in [11] if side.readout == 0 else range(4, 12):
        weight = gradient(cosine(side), side.parts["attended"][block])[0, side.readout]
        value = side.parts["v_proj"][block][0, side.kept]
        query = side.parts["q_proj"][block][0, side.readout]
        key = side.parts["k_proj"][block][0, side.kept]
        lam = key @ query / key.norm(dim=1) / query.norm()
        lam = (lam - lam.min()) / (lam.max() - lam.min())
        total = total + (weight * value * lam[:, None]).sum(1)
    return torch.relu(total).detach()


def grown(side):
    total = 0
    for state, weights in zip(side.outputs, side.weights, strict=True):
        similarity = F.cosine_similarity(side.head(state.mean(1)), side.target).sum()
        slope = gradient(similarity, weights)[0]
        if side.readout:
            slope = slope.tril()
        total = total + torch.relu(slope).mean((0, 1))
    return total[side.kept]


ORACLES = {
    "gradcam": lambda side: by_outputs(lambda z, g, kept: torch.relu((z * g).sum(1))[kept])(side, 10),
    "gradcam_pooled": lambda side: by_outputs(pooled)(side, 10),
    "xgrad": lambda side: by_outputs(lambda z, g, kept: (z * g).sum(1)[kept])(side, 9),
    "gae": rolled_out,
    "grad_eclip": eclip,
    "legrad": grown,
}


@pytest.mark.parametrize("name", ORACLES)
def test_against_the_librarys_own_model(golden_clip, golden_pair, oracle, name):
    pixels, ids = golden_pair
    a = METHODS[name](golden_clip, pixels, ids)  # in company: three shorter texts are padded
    for side, got in zip(oracle, (a.image[1].ravel(), a.text[1])):
        want = ORACLES[name](side)
        assert want.any()
        close(got, want)


def test_xgrad_is_nib_in_one_step(golden_clip, golden_pair):
    one, other = METHODS["xgrad"](golden_clip, *golden_pair, layer=6), nib(golden_clip, *golden_pair, layer=6, steps=1)
    np.testing.assert_allclose(one.image, other.image, atol=1e-7)
    np.testing.assert_allclose(np.concatenate(one.text), np.concatenate(other.text), atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_sign(golden_clip, golden_pair, name):
    a = METHODS[name](golden_clip, *golden_pair)
    for scores in (a.image, np.concatenate(a.text)):
        assert (scores.min() < 0) == (name in ("fastig", "xgrad")) and scores.max() > 0
    assert a.image.shape == (4, 7, 7) and [len(t) for t in a.text] == [len(i) for i in golden_pair[1]]
    assert (a.info.passes == 1).all() and (a.info.seconds > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_batches_do_not_leak(golden_clip, golden_pair, name):
    """A pair's scores are the same alone, in any company, and at any batch_size."""
    pixels, ids = golden_pair
    together = METHODS[name](golden_clip, pixels, ids, batch_size=3)
    for k in range(4):
        alone = METHODS[name](golden_clip, pixels[k : k + 1], ids[k : k + 1])
        close(together.image[k], alone.image[0])
        close(together.text[k], alone.text[0])


@pytest.mark.parametrize("name", NAMES)
def test_tokens_behind_eos_do_not_count(golden_clip, golden_pair, name):
    """In a batch with a longer text they have rows of their own; they score 0 and change nothing."""
    pixels, ids = golden_pair[0][:2], golden_pair[1][:2]
    assert len(ids[0]) + 3 < len(ids[1])
    longer = [torch.cat([ids[0], ids[0][1:4]]), ids[1]]
    plain, padded = METHODS[name](golden_clip, pixels, ids), METHODS[name](golden_clip, pixels, longer)
    assert (padded.text[0] == np.pad(plain.text[0], (0, 3))).all() and (padded.image == plain.image).all()


@pytest.mark.parametrize("name", NAMES)
def test_knobs(golden_clip, golden_pair, name, monkeypatch):
    """`layer` changes the scores of the methods that have one and of no other; batch_size the number of backwards."""
    base, moved = (METHODS[name](golden_clip, *golden_pair, **o) for o in ({}, {"layer": 5}))
    assert np.array_equal(base.image, moved.image) == (name not in LAYERED)
    assert np.array_equal(base.text[0], moved.text[0]) == (name not in LAYERED)
    calls, real = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(a) or real(*a, **k))
    METHODS[name](golden_clip, *golden_pair, batch_size=2)
    assert len(calls) == 2 * 2 * (12 if name == "legrad" else 1)  # 2 parts x 2 encoders; legrad block by block


@pytest.mark.parametrize("name", ["gradcam", "gradcam_pooled"])
def test_the_last_block_is_refused(golden_clip, golden_pair, name):
    with pytest.raises(ValueError, match="layer=11 is the last block of the image tower: .* take a layer in 0..10"):
        METHODS[name](golden_clip, *golden_pair, layer=11)
    assert METHODS[name](golden_clip, *golden_pair, layer=10).image.any()


@pytest.mark.parametrize("name", NAMES)
def test_no_trace_left(golden_clip, golden_pair, name):
    clip = copy.deepcopy(golden_clip)
    pixels, ids = golden_pair
    before, weights = clip.embed_image(pixels), {k: v.clone() for k, v in clip.model.state_dict().items()}
    rng = torch.get_rng_state(), np.random.get_state()[1].copy()
    METHODS[name](clip, pixels, ids)
    assert (torch.get_rng_state() == rng[0]).all() and (np.random.get_state()[1] == rng[1]).all()
    assert torch.equal(clip.embed_image(pixels), before)
    assert all(torch.equal(v, weights[k]) for k, v in clip.model.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in clip.model.parameters())
    for m in clip.model.modules():
        assert not (m.training or m._forward_hooks or m._forward_pre_hooks or m._backward_hooks)
    assert not pixels.requires_grad
