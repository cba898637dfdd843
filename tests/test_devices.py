"""Everything on a GPU that is not there (`pretend`): no tensor left behind, no pair waited for, the CPU's numbers."""

import functools
import warnings

import numpy as np
import pytest
import torch
from near import assert_near
from pretend import WAITS, Pretend, gpu, there

import nibkit
from nibkit import benchmark
from nibkit.metrics import localisation, perturbation
from nibkit.metrics.confidence import confidence
from nibkit.metrics.contract import Batch
from nibkit.models import devices
from nibkit.models.sharing import shared
from nibkit.models.towers import Block
from nibkit.study import ablation, convergence, deviations, efficiency, falcon, lico, sanity, textspan, theory
from nibkit.study.cocoa import cocoa
from nibkit.study.exemplars import exemplars

QUICK = {"rise": {"masks": 20, "text_masks": 10}, "m2ib": {"samples": 2, "steps": 3}, "mfaba": {"steps": 2}}
QUICK |= {"ig": {"steps": 4}, "lime": {"samples": 12}, "agi": {"k": 1, "steps": 1}}
SETTINGS = {
    **{name: (name, QUICK.get(name, {})) for name in nibkit.METHODS},
    **{f"nib {rule}": ("nib", {"rule": rule, "max_passes": 12}) for rule in ("gauss", "exact")},
    **{f"{name} corrected": (name, QUICK[name] | {"protocol": "corrected"}) for name in ("rise", "mfaba")},
}


@pytest.fixture(scope="module")
def pairs():
    return nibkit.data.load("scenes-captions")[:4]


@pytest.fixture(scope="module")
def here(pairs):
    clip = nibkit.load("scenes", device="cpu")
    return clip, clip.preprocess([p.image for p in pairs]), clip.tokenize([p.text for p in pairs])


@pytest.fixture(scope="module")
def away(here):
    with gpu():
        yield tuple(there(x) for x in here)


def near(got, want) -> None:
    """Attributions, tables, arrays, or lists of them."""
    if isinstance(want, nibkit.Attribution):
        got, want = [got.image, *got.text], [want.image, *want.text]
    if hasattr(want, "select_dtypes"):
        got, want = (
            table.select_dtypes("number").drop(columns="seconds", errors="ignore").to_numpy(float)
            for table in (got, want)
        )
    if isinstance(want, list | tuple):
        for g, w in zip(got, want, strict=True):
            near(g, w)
        return
    got, want = (x.cpu() if isinstance(x, torch.Tensor) else np.asarray(x, float) for x in (got, want))
    finite = np.isfinite(np.asarray(want))
    assert_near(np.asarray(got)[finite], np.asarray(want)[finite], 1e-3)


# --- the pretended device refuses what a GPU would -------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: x.numpy(),
        lambda x: torch.ones(3)[x.long()],
        lambda x: torch.randn(3, generator=torch.Generator(), device=x.device),
        lambda x: torch.nn.functional.linear(x, torch.eye(3)),
    ],
)
def test_two_devices_are_a_mistake(mistake):
    with gpu(), pytest.raises((RuntimeError, TypeError)):
        mistake(there(torch.ones(3)))


def test_what_a_gpu_takes():
    with gpu():
        x = there(torch.arange(3.0)).requires_grad_()
        assert x.device == torch.device("cuda:0") and isinstance(torch.arange(2, device=x.device), Pretend)
        (gradient,) = torch.autograd.grad((x * torch.tensor(2.0)).square().sum() + x[torch.tensor([1])].sum(), x)
        assert (
            isinstance(gradient, Pretend)
            and gradient.tolist() == [0, 9, 16]
            and gradient.cpu().numpy().tolist() == [0, 9, 16]
        )


# --- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", SETTINGS)
def test_methods(label, here, away):
    name, options = SETTINGS[label]
    near(nibkit.METHODS[name](*away, **options), nibkit.METHODS[name](*here, **options))


@pytest.mark.parametrize("label", sorted(set(SETTINGS) - {"nib exact", "lime", "agi"}))  # these go pair by pair
def test_no_pair_is_waited_for(label, away):
    """As many synchronisations for four pairs as for two."""
    clip, pixels, ids = away
    name, options = SETTINGS[label]
    counts = []
    for n in (2, 4):
        run = functools.partial(nibkit.METHODS[name], clip, pixels[:n], ids[:n], **options)
        run()  # what stays on the device is there
        WAITS.clear()
        run()
        counts.append(len(WAITS))
    assert counts[0] == counts[1] <= 40, WAITS


def test_metrics_wait_for_no_pair(away):
    clip, pixels, ids = away
    counts = []
    for n in (2, 4):
        a = nibkit.METHODS["centre"](clip, pixels[:n], ids[:n])
        for protocol in ("paper", "corrected"):
            WAITS.clear()
            confidence(clip, pixels[:n], ids[:n], a.heatmap(), a.word_scores(), protocol)
            counts.append(len(WAITS))
    assert counts[:2] == counts[2:] and max(counts) <= 12


def test_methods_read_what_they_share_once(away):
    clip, pixels, ids = away
    WAITS.clear()
    nibkit.METHODS["chefer"](clip, pixels, ids)
    alone = len(WAITS)
    WAITS.clear()
    with shared():
        for name in ("chefer", "saliency", "fastig"):
            nibkit.METHODS[name](clip, pixels, ids)
    assert len(WAITS) < 2 * alone


# --- metrics and studies ---------------------------------------------------------------------------------------------


def measured(clip, pixels, ids, pairs):
    a = nibkit.METHODS["nib"](clip, pixels, ids, steps=2)
    yield confidence(clip, pixels, ids, a.heatmap(), a.word_scores(), "paper")
    yield confidence(clip, pixels, ids, a.heatmap(), a.word_scores(), "corrected", relative=True)
    for metric in (perturbation.areas(points=2), localisation.truth):
        yield metric(clip, Batch(pairs, pixels, ids), a)


def theories(clip, pixels, ids, pairs):
    for b in theory.bottlenecks(clip, pixels[:2], ids[:2], 9).values():
        yield theory.along(b, [0.1, 1.0])
        yield theory.noise_limit(b, [0.5], [0.1], draws=2)
        for rule in ("riemann", "gauss", "exact"):
            yield theory.completeness(b, rule, 10)
    states = clip.image.state(pixels, 9).tokens
    yield theory.narrowed(states, 0.25) - states / 4
    yield theory.patch_covariance(clip, pixels, 6)


def published(clip, pixels, ids, pairs):
    for name in efficiency.PUBLISHED:
        options = dict(QUICK.get(name, {}))
        yield efficiency.published(clip, name, pixels[:1], ids[:1], **options)


def relatives(clip, pixels, ids, pairs):
    yield cocoa(clip, pixels[:1], clip.tokenize(["a cat"]), clip.tokenize(["a dog"]), steps=2).scores
    parts = textspan.decompose(clip.image, pixels)
    yield parts.total()
    yield textspan.textspan(clip, pixels, ["a cat", "a dog", "grass", "snow", "a bus"], heads=1, n=1)
    yield textspan.decompose(clip.image, pixels, share="authors").total()
    yield falcon.falcon(falcon.describe(clip, pixels, ["a cat", "a dog"], 1), pixels[:, 0, 0, 0], top=1, bottom=1)
    names = [f"number {k}" for k in range(len(pixels))]
    yield exemplars(clip, pixels[:1], pixels, names, k=2)[["distance", "limit"]]
    yield lico.lico(clip, pixels, names, steps=1, batch=len(pixels))[1]


STUDIES = {"metrics": measured, "theory": theories, "published loops": published, "related": relatives}


@pytest.mark.parametrize("what", STUDIES)
def test_studies(what, here, away, pairs):
    near(list(STUDIES[what](*away, pairs)), list(STUDIES[what](*here, pairs)))


def succeeded(*args, **options):
    rows = benchmark.run(*args, **options)
    return rows[rows.error == ""]


RUNS = {
    "benchmark": lambda clip, pairs: succeeded(clip, pairs, ["nib", "random"], batch=1, progress=False),
    "ablation": lambda clip, pairs: ablation.against_integral(clip, pairs, [2], layer=9, max_passes=10),
    "convergence": lambda clip, pairs: convergence.measure(clip, pairs[:2], [9], {"exact": [10]}, points=20),
    "deviations": lambda clip, pairs: deviations.measure(clip, pairs, rise_masks=4, few=2),
    "sanity": lambda clip, pairs: sanity.run(clip, pairs[:2], {"chefer": nibkit.METHODS["chefer"]}),
}


@pytest.mark.parametrize("what", RUNS)
def test_runs(what, here, away, pairs):
    """Whole studies go through; rounding may turn their ranks and verdicts, so only shapes are compared."""
    got, want = (RUNS[what](x[0], pairs) for x in (away, here))
    assert got.shape == want.shape and len(got)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_auto_is_a_share_of_what_is_free(here, away):
    """500 MB on a CPU; a quarter of what is free on a GPU."""
    state = [x[0].image.state(x[1], 9) for x in (here, away)]
    one, many = (x[0].image.rows_at_once("auto", s, 9) for x, s in zip((here, away), state))
    with gpu(free=8 * 10**9):
        assert away[0].image.rows_at_once("auto", state[1], 9) == pytest.approx(4 * one, abs=4)
    assert many == pytest.approx(one / 2, abs=1)  # of 10**9 bytes


class Full:
    """A GPU that holds so many rows at once, of passes with gradients or of all."""

    def __init__(self, rows: int, real, gradients: bool = True):
        self.rows, self.real, self.gradients = rows, real, gradients

    def __call__(self, block, x, *rest):
        if len(x) > self.rows and torch.is_grad_enabled() >= self.gradients:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return self.real(block, x, *rest)


@pytest.mark.parametrize("name", sorted(set(nibkit.METHODS) - {"random", "centre"}))
def test_full_memory_halves_the_batch_and_is_said_once(name, here, monkeypatch):
    """Every way through a tower: at_row, attention, or a whole block."""
    clip, pixels, ids = here
    want = nibkit.METHODS[name](clip, pixels, ids, batch_size=4, **QUICK.get(name, {}))
    monkeypatch.setattr(devices, "_said", set())
    limit = {"rows": 4, "gradients": False} if name in ("rise", "lime") else {"rows": 2}
    full = {way: Full(real=getattr(Block, way), **limit) for way in ("at_row", "attention")}
    for way, function in full.items():
        monkeypatch.setattr(Block, way, lambda block, x, *rest, f=function: f(block, x, *rest))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            got = nibkit.METHODS[name](clip, pixels, ids, batch_size=64, **QUICK.get(name, {}))
    near(got, want)
    assert sum("did not hold" in str(w.message) for w in said) == 1


def test_a_single_row_that_does_not_fit_is_an_error():
    full = Full(0, Block.at_row)
    with pytest.raises(torch.cuda.OutOfMemoryError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        list(devices.in_parts(3, 3, lambda part: full(None, torch.zeros(part.stop - part.start))))


# --- half precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nib", "gradcam", "xgrad"])
def test_gradients_in_bfloat16_are_close_and_off_by_default(name, here):
    clip, pixels, ids = here
    half = clip.around(clip.model, gradients=torch.bfloat16)
    assert clip.gradients == torch.float32 and half.label == "scenes, gradients in bfloat16"
    a, b = (nibkit.METHODS[name](c, pixels, ids) for c in (half, clip))
    off = max(
        abs(a.image - b.image).max() / abs(b.image).max(),
        *(abs(x - y).max() / abs(y).max() for x, y in zip(a.text, b.text)),
    )
    assert 1e-5 < off < 0.1
    assert np.corrcoef(a.image.ravel(), b.image.ravel())[0, 1] > 0.998
    assert torch.equal(half.embed_image(pixels), clip.embed_image(pixels))


def test_gradients_dtype_is_checked():
    with pytest.raises(ValueError, match="gradients='float16' is not one of: float32, bfloat16"):
        nibkit.load("scenes", device="cpu", gradients="float16")
