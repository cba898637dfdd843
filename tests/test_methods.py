"""What all methods share: shapes, ranges, refusals, and no trace left on the model."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

import nibkit
import nibkit.benchmark
from nibkit import checks, plots
from nibkit.methods import registry
from nibkit.metrics import stats
from nibkit.models.towers import Tower

METHODS = sorted(nibkit.METHODS)
QUICK = {
    "rise": {"masks": 20, "text_masks": 10},
    "m2ib": {"samples": 2, "steps": 3},
    "ig": {"steps": 4},
    "lime": {"samples": 20},
    "agi": {"k": 2, "steps": 3},
}
LAYERED = {name for name, method in nibkit.METHODS.items() if "layer" in method.takes}


def run(name, clip, pair, **options):
    return nibkit.METHODS[name](clip, *pair, **{**QUICK.get(name, {}), **options})


@pytest.fixture
def untouched(golden_clip, golden_pair):
    """Everything a method could disturb, compared bit for bit after the test."""
    model, (pixels, ids) = golden_clip.model, golden_pair

    def picture():
        return {
            "image": golden_clip.embed_image(pixels),
            "text": golden_clip.embed_text(ids),
            "library image": getattr(model.get_image_features(pixels), "pooler_output", None),
            "torch": torch.get_rng_state(),
            "numpy": torch.from_numpy(np.random.get_state()[1].astype(np.int64)),
            "pixels": pixels.clone(),
            **{f"ids {k}": i.clone() for k, i in enumerate(ids)},
            **{name: p.detach().clone() for name, p in model.named_parameters()},
        }

    def flags():
        parts = {name: (m.training, len(m._forward_hooks), len(m._backward_hooks)) for name, m in model.named_modules()}
        return parts, {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()}, pixels.requires_grad

    tensors, others = picture(), flags()
    yield
    assert others == flags()
    for name, after in picture().items():
        assert torch.equal(tensors[name], after), name


@pytest.mark.parametrize("name", METHODS)
def test_no_trace_is_left(name, golden_clip, golden_pair, untouched):
    run(name, golden_clip, golden_pair)


@pytest.mark.parametrize("name", METHODS)
def test_no_trace_is_left_by_a_bad_layer(name, golden_clip, golden_pair, untouched):
    with pytest.raises(ValueError, match=r"layer=12 is not in 0\.\.11 of this 12-block image tower"):
        run(name, golden_clip, golden_pair, layer=12)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"random", "centre"}))
def test_no_trace_is_left_by_an_exception_in_the_middle(name, golden_clip, golden_pair, untouched, monkeypatch):
    def breaks(*_):
        raise KeyError("in the middle")

    with monkeypatch.context() as patch:
        for part in type(golden_clip.image).mro() + type(golden_clip.text).mro():
            if "head" in vars(part) and part is not Tower:
                patch.setattr(part, "head", breaks)
        with pytest.raises(KeyError, match="in the middle"):
            run(name, golden_clip, golden_pair)


@pytest.mark.parametrize("name", METHODS)
def test_the_shared_call(name, golden_clip, golden_pair):
    """METHODS[name](clip, pixels, ids, protocol="paper", layer=9, steps=10): shapes, ranges and finite scores."""
    a = run(name, golden_clip, golden_pair, protocol="paper", layer=9, steps=3)
    assert a.image.ndim == 3 and len(a) == 4 and a.image.dtype == np.float32
    assert a.heatmap().shape == (4, 224, 224) and 0 <= a.heatmap().min() and a.heatmap().max() <= 1
    for scores, words, ids in zip(a.text, a.word_scores(), golden_pair[1]):
        assert scores.shape == words.shape == ids.shape and np.isfinite(scores).all()
        assert 0 <= words.min() and words.max() <= 1
    assert np.isfinite(a.image).all() and len(a.info) == 4 and (a.info.seconds > 0).all() and "passes" in a.info


@pytest.mark.parametrize("name", sorted(LAYERED))
def test_layer_is_alive(name, golden_clip, golden_pair):
    nine, eight = (run(name, golden_clip, golden_pair, layer=layer) for layer in (9, 8))
    assert not np.allclose(nine.image, eight.image, rtol=1e-3) and not np.allclose(
        nine.text[1], eight.text[1], rtol=1e-3
    )


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_option_names_those_there_are(name, golden_clip, golden_pair):
    with pytest.raises(TypeError, match=f"method '{name}' has no option 'layers'"):
        run(name, golden_clip, golden_pair, layers=9)


def test_a_caller_without_gradients_gets_the_same_scores(golden_clip, golden_pair):
    with torch.no_grad():
        quiet = run("nib", golden_clip, golden_pair, steps=2)
    assert (quiet.image == run("nib", golden_clip, golden_pair, steps=2).image).all()


@pytest.mark.parametrize("name", sorted(LAYERED))
def test_layer_of_each_tower_by_itself(name, golden_clip, golden_pair):
    nine, eight, mixed = (run(name, golden_clip, golden_pair, layer=layer) for layer in (None, 8, (9, 8)))
    assert np.array_equal(mixed.image, nine.image)  # the default is the paper's 9 of 12
    for a, b in zip(mixed.text, eight.text):
        np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match=r"layer=12 is not in 0\.\.11 of this 12-block text tower"):
        run(name, golden_clip, golden_pair, layer=(9, 12))


def test_what_the_registry_says_of_a_method_is_so(golden_clip):
    assert LAYERED == {"nib", "m2ib", "gradcam", "gradcam_pooled", "xgrad"}
    assert {name for name, method in nibkit.METHODS.items() if method.attention} == {
        "chefer", "saliency", "fastig", "gae", "grad_eclip", "legrad"
    }
    assert nibkit.METHODS["m2ib"].unit == "nats" and nibkit.METHODS["gae"].unit is None
    with pytest.raises(ValueError, match="there is a method 'nib' in nibkit.methods.nib; give yours another name"):
        registry.method()(_named("nib"))


def _named(name):
    def function(clip, pixels, ids):
        return nibkit.METHODS["centre"](clip, pixels, ids)

    function.__name__ = name
    return function


def test_explain_refuses_an_option_without_effect_and_a_benchmark_does_not(golden_clip):
    picture = Image.new("RGB", (64, 64), "red")
    with pytest.raises(
        ValueError, match="method 'chefer' has no use for layer=0; it takes batch_size; methods with layer: nib, m2ib"
    ):
        nibkit.explain(golden_clip, picture, "a dog", method="chefer", layer=0)
    with pytest.raises(
        ValueError, match="'centre' has no use for steps=3; it takes no option; methods with steps: nib, m2ib, mfaba"
    ):
        nibkit.explain(golden_clip, picture, "a dog", method="centre", steps=3)
    assert (
        len(run("chefer", golden_clip, (golden_clip.preprocess(picture), golden_clip.tokenize("a dog")), layer=0)) == 1
    )


def test_a_method_of_a_few_lines_goes_all_the_way(scenes):
    """Registered at run time: explained, benchmarked, summarised, compared, drawn and shown beside all others."""

    @registry.method(unit="pixels", weight=checks.number)
    def brightness(clip, pixels, ids, *, layer=None, weight=1.0):
        """Brighter patches and later words."""
        image = weight * np.float32([clip.picture(x).mean(-1).reshape(7, 32, 7, 32).mean((1, 3)) for x in pixels])
        cost = pd.DataFrame({"passes": [0] * len(ids)})
        return nibkit.Attribution(image, [np.arange(len(i), dtype=np.float32) for i in ids], clip.image.size, cost)

    pairs = nibkit.data.load("scenes-captions")[:4]
    assert nibkit.explain(scenes, pairs[0].image, pairs[0].text, "brightness", weight=2).image.max() > 0
    with pytest.raises(ValueError, match="weight=-1 is not >= 0"):
        nibkit.explain(scenes, pairs[0].image, pairs[0].text, "brightness", weight=-1)
    rows = nibkit.benchmark.run(scenes, pairs, ["brightness", "xgrad", "centre"], options={"layer": 9}, progress=False)
    assert (rows.error == "").all() and len(rows) == 12
    summary = nibkit.benchmark.summary(rows)
    assert list(summary.index) == ["brightness", "xgrad", "centre"] and (summary.n == 4).all()
    assert stats.compare(rows, label="brightness").best_other.isin(["xgrad", "centre"]).all()
    assert "brightness" in nibkit.benchmark.style(summary).to_html()
    fig, ax = plt.subplots()
    line = plots.line(ax, summary.set_index("n"), "image_drop", **plots.style("brightness", "brightness")).lines[0]
    colours = [plots.colour(name) for name in nibkit.METHODS]
    assert line.get_color() == plots.colour("brightness") and len(set(map(str, colours))) == len(colours)
    plt.close(fig)


def test_any_number_of_methods_have_colours_of_their_own():
    for k in range(12):
        registry.method()(_named(f"toy{k}"))
    colours = np.array([to_rgb(plots.colour(name)) for name in nibkit.METHODS])
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1) + np.eye(len(colours))
    assert apart.min() > 0.05
    assert plots.colour("no method") == "0.6"
