"""The sanity checks catch planted faults, pass what has none, and leave the model alone."""

import numpy as np
import pandas as pd
import pytest
import torch

import nibkit
from nibkit.attribution import Attribution
from nibkit.methods import METHODS
from nibkit.study import sanity

PAIRS = nibkit.data.load("scenes-captions")[:3]


@pytest.fixture(scope="module")
def scenes():
    """The model whose curves and maps the settings below were chosen on."""
    return nibkit.load("scenes-early", device="cpu")


def planted(image):
    """A method whose patch scores are image(pixels (B, 3, H, W)) -> (B, 7, 7), and whose words score by their place."""

    def method(clip, pixels, ids, *, seed=0):
        maps = image(pixels).float().cpu().numpy()
        return Attribution(maps, [np.arange(len(i), dtype=np.float32) for i in ids], clip.image.size)

    return method


def patches(pixels):
    return pixels.abs().mean(1).unflatten(1, (7, 32)).unflatten(3, (7, 32)).mean((2, 4))


FAULTS = {
    "edges": planted(patches),  # looks at the picture, not at the model or the text
    "leak": planted(lambda x: patches(x) - patches(x).mean(0, keepdim=True)),  # looks at the batch
    "fragile": planted(lambda x: (patches(x) * 1e4) % 1),  # blown up from the last digits
    "rounding": planted(lambda x: (patches(x).double() * 1e9) % 1),  # there is less in float32 than it shows
}


@pytest.fixture(scope="module")
def table(scenes):
    methods = {name: METHODS[name] for name in ("xgrad", "centre", "random")} | FAULTS
    rows = sanity.run(scenes, PAIRS, methods, every=6, few=2)
    return sanity.verdicts(rows).set_index(["method", "check", "part"])


def failures(table, method, part="image"):
    verdict = table.xs((method, part), level=("method", "part")).verdict
    return set(verdict.index[verdict == "fails"])


def test_a_map_that_ignores_the_model_fails(table):
    blind = {"weights", "weights, SSIM", "complexity", "other pair"}
    assert failures(table, "centre") == failures(table, "edges") == blind
    assert failures(table, "centre", "text") == {"weights", "other pair"}


def test_chance_fails_on_another_seed(table):
    """It also passes for stable under noise: a constant of the caption is."""
    assert failures(table, "random") == {"weights", "weights, SSIM", "complexity", "seed"}
    assert abs(table.value["random", "seed", "image"]) < 0.5
    assert table.verdict["random", "noise", "image"] == "passes"


def test_planted_faults_are_found(table):
    assert "batch" in failures(table, "leak")
    assert {"noise", "noise, top"} <= failures(table, "fragile")
    assert "float64" in failures(table, "rounding")
    assert "batch" not in failures(table, "edges") and "float64" not in failures(table, "edges")


def test_an_honest_gradient_passes(table):
    assert not failures(table, "xgrad") and not failures(table, "xgrad", "text")
    for check in ("weights", "noise", "seed", "batch", "threads", "float64"):
        assert table.verdict["xgrad", check, "image"] == "passes", check
    assert set(table.index.unique("check")) == set(sanity.CHECKS)


def test_the_number_of_threads_counts_where_it_matters(scenes):
    threads = planted(lambda x: patches(x) * torch.get_num_threads())
    rows = sanity.run(scenes, PAIRS, {"threads": threads}, every=12, few=2)
    assert "threads" in failures(sanity.verdicts(rows).set_index(["method", "check", "part"]), "threads")


def test_the_model_is_untouched_whatever_happens(scenes):
    before = {name: weight.clone() for name, weight in scenes.model.state_dict().items()}
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    calls = []

    def breaks(clip, pixels, ids, *, seed):
        calls.append(clip)
        if len(calls) == stop:
            raise RuntimeError("planted")
        return METHODS["centre"](clip, pixels, ids)

    for stop in (2, 9, 100):  # in the cascade, with other threads, never
        calls.clear()
        try:
            sanity.run(scenes, PAIRS, {"breaks": breaks}, every=6, few=2)
        except RuntimeError:
            assert len(calls) == stop
        assert all(torch.equal(weight, before[name]) for name, weight in scenes.model.state_dict().items())
        assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("name", ["scenes", "golden_clip"])
def test_the_cascade_goes_from_the_top_down(name, request):
    """A stage changes the towers above it and nothing below; entries are only put in another order."""
    clip = request.getfixturevalue(name)
    reached, blocks = [], len(clip.image.blocks)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ids = [torch.tensor([49406, 320, 2368, 49407])]
    for k, shuffled in sanity.cascade(clip, every=5):
        reached.append(k)
        for tower, theirs, x in ((clip.image, shuffled.image, pixels), (clip.text, shuffled.text, ids)):
            if k < blocks:
                assert torch.equal(tower.state(x, blocks - 1 - k).tokens, theirs.state(x, blocks - 1 - k).tokens)
            top = torch.randn(1, 4, tower.width, generator=torch.Generator().manual_seed(1))
            block, other = tower.blocks[blocks - k], theirs.blocks[blocks - k]
            assert (block(top) - other(top)).abs().max() > 1e-3
    assert reached == [5, 10, 12]
    for (parameter, was), now in zip(clip.model.named_parameters(), shuffled.model.parameters()):
        was, now = was[was != 0], now[now != 0]
        assert torch.equal(was.sort().values, now.sort().values), parameter
        if was.unique().numel() > 8:  # a scalar, or one of few values, has only one order
            assert not torch.equal(was, now), parameter


def test_verdicts_count_the_interval():
    values = {"clear": [0.1, 0.2, 0.1, 0.2], "wide": [0.1, 0.9, 0.2, 0.9], "wrong": [0.9, 0.8, 0.9, 0.8]}
    rows = [
        {"method": m, "check": "weights", "part": "image", "blocks": 12, "pair": str(k), "value": v}
        for m, vs in values.items()
        for k, v in enumerate(vs)
    ]
    rows += [{**row, "blocks": 4, "value": 5.0} for row in rows]  # an earlier stage does not count
    table = sanity.verdicts(pd.DataFrame(rows)).set_index("method")
    assert table.verdict.to_dict() == {"clear": "passes", "wide": "open", "wrong": "fails"}
    assert table.value.to_dict() == pytest.approx({"clear": 0.15, "wide": 0.525, "wrong": 0.85})
    assert (table.n == 4).all() and (table.threshold == "< 0.5").all()
    assert 0.1 <= table.low["clear"] < 0.15 < table.high["clear"] <= 0.2


def test_measures_by_hand():
    a = np.arange(20.0)
    assert sanity.alike(a, a**3) == pytest.approx(1) and sanity.alike(a, -a) == pytest.approx(-1)
    assert sanity.alike(a, np.ones(20)) == 0 and sanity.alike(np.ones(20), np.ones(20)) == 1
    assert sanity.top(a, np.roll(a, 1)) == 0.5  # of places 18 and 19, the second list has 19 and 0


def test_too_few_texts_are_refused(scenes):
    with pytest.raises(ValueError, match="1 pairs have 1 different texts; the checks need at least 2"):
        sanity.run(scenes, PAIRS[:1], {"centre": METHODS["centre"]})
    with pytest.raises(ValueError, match="every=0 and few=4 must be at least 1, noise=0.3 above 0"):
        sanity.run(scenes, PAIRS, {"centre": METHODS["centre"]}, every=0)
