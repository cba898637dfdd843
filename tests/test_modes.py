"""Models that people hold in their hands, and whatever mode torch is in: nothing of theirs changes, no number moves."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clip.model import CLIP
from PIL import Image
from test_backends import BACKENDS, openai_model
from test_towers import library, shaken, transformers_clip
from test_weights import IDS, PIXELS

import nibkit
from nibkit.interop import NIB

MODELS = {**BACKENDS, "transformers": transformers_clip}


def replaced(module, name):
    old = getattr(module, name)
    setattr(module, name, torch.nn.Parameter(old.detach() + 0.3 * torch.randn_like(old)))


@pytest.mark.parametrize("kind", MODELS)
def test_a_parameter_that_was_replaced_is_seen(kind):
    """Every one, in the model itself and in one that `around` was given: `encode` is the library's embedding again."""
    torch.manual_seed(0)
    clip = MODELS[kind]()
    theirs = copy.deepcopy(clip.model)
    ids = clip.tokenize(["a cat", "a dog"])
    for model, seen in ((clip.model, clip), (theirs, clip.around(theirs))):
        seen.embed_text(ids)
        for module in [m for m in model.modules() if "text_decoder" not in type(m).__name__]:
            for name, value in list(module.named_parameters(recurse=False)):
                if value.ndim:
                    replaced(module, name)
        got = seen.embed_image(PIXELS), seen.embed_text(ids)
        want = library(SimpleNamespace(model=model, text=seen.text), PIXELS, ids)
        for a, b in zip(got, want):
            torch.testing.assert_close(a, b, atol=1e-3 * float(b.abs().max()), rtol=1e-3)


def test_a_model_in_training_is_left_as_it_was_and_followed(tmp_path):
    """Between backward and step, in a loop: the same training as without nibkit, and maps that follow it."""
    torch.manual_seed(0)
    start = shaken(CLIP(32, 64, (1, 1, 1, 1), 8, None, 77, 49408, 64, 1, 2))
    torch.save(start.state_dict(), tmp_path / "x.pt")
    loaded = nibkit.load(f"openai:{tmp_path}/x.pt", device="cpu")
    ids = torch.stack([torch.nn.functional.pad(i, (0, 73)) for i in IDS])
    found = []
    for explain in (False, True):
        model = CLIP(32, 64, (1, 1, 1, 1), 8, None, 77, 49408, 64, 1, 2)
        model.load_state_dict(start.state_dict())
        model.train()
        model.token_embedding.weight.requires_grad_(False)
        flags = [p.requires_grad for p in model.parameters()]
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
        seen, losses, clip = [], [], None
        for _ in range(3):
            loss = -model(PIXELS, ids)[0].diag().mean()
            if explain:
                clip = clip or loaded.around(model)
                seen.append(nibkit.METHODS["gradcam"](clip, PIXELS, IDS).image)
                assert [p.requires_grad for p in model.parameters()] == flags and model.training
                assert all(m.training for m in model.modules())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        found.append(losses)
    assert found[0] == found[1] and np.abs(seen[2] - seen[0]).max() > 1e-6
    fresh = loaded.around(model.eval())
    maps = [nibkit.METHODS["gradcam"](c, PIXELS, IDS).image for c in (fresh, clip)]
    np.testing.assert_array_equal(*maps)


def test_what_around_takes_and_what_it_refuses(openai, hf, tmp_path):
    torch.save(openai.state_dict(), tmp_path / "x.pt")
    clip = nibkit.load(f"openai:{tmp_path}/x.pt", device="cpu")
    for wrapped in (torch.nn.DataParallel(openai), torch.compile(openai)):
        torch.testing.assert_close(clip.around(wrapped).embed_image(PIXELS), clip.embed_image(PIXELS), atol=0, rtol=0)
    with pytest.raises(ValueError, match="a CLIPModel is no CLIP"):
        clip.around(hf)
    with pytest.raises(ValueError, match=r"the model's weights are torch\.bfloat16; give model\.float\(\)"):
        clip.around(openai_model().bfloat16())
    with pytest.raises(ValueError, match="the model takes .*, x "):
        clip.around(CLIP(32, 96, 3, 128, 16, 77, 49408, 64, 1, 4))
    with pytest.raises(ValueError, match="dtype='int8' is not one of"):
        clip.around(openai, dtype="int8")
    assert clip.around(openai, dtype="bfloat16").dtype == torch.bfloat16


@pytest.mark.parametrize("kind", MODELS)
def test_a_clip_goes_through_pickle(kind):
    clip = MODELS[kind]()
    again = pickle.loads(pickle.dumps(clip))
    ids = clip.tokenize(["a cat", "a dog"])
    assert torch.equal(again.embed_image(PIXELS), clip.embed_image(PIXELS))
    assert torch.equal(again.embed_text(ids), clip.embed_text(ids))
    assert again.name == clip.name and again.source == clip.source


def test_what_load_returns_goes_through_pickle(scenes, hf, tmp_path):
    hf.save_pretrained(tmp_path)
    picture = Image.effect_noise((90, 70), 60).convert("RGB")
    for clip in (scenes, nibkit.load(tmp_path, device="cpu", dtype="bfloat16")):
        again = pickle.loads(pickle.dumps(clip))
        assert torch.equal(again.preprocess(picture), clip.preprocess(picture)) and again.source == clip.source
        assert torch.equal(again.embed_text("a cat"), clip.embed_text("a cat"))


# ---- whatever mode the caller is in


def whole_story(clip, pixels, ids):
    options = {"rise": {"masks": 8, "text_masks": 8}}
    found = {name: method(clip, pixels, ids, **options.get(name, {})) for name, method in nibkit.METHODS.items()}
    found = {name: [a.image, *a.text] for name, a in found.items()}
    image, text = NIB(clip).attribute((pixels, ids))
    found["interop"] = [image.numpy(), *(t.numpy() for t in text)]
    found["cosine"] = [clip.similarity(pixels, ids).numpy()]
    whole = [np.ones(len(i)) for i in ids]
    found["confidence"] = [nibkit.metrics.confidence(clip, pixels, ids, np.full((2, 64, 64), 0.5), whole).to_numpy()]
    return found


MODES = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "double": lambda: default_dtype(torch.float64),
}


def modes():
    on = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    return *on, torch.get_default_dtype()


class default_dtype:
    def __init__(self, dtype):
        self._dtype = dtype

    def __enter__(self):
        torch.set_default_dtype(self._dtype)

    def __exit__(self, *_):
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("error")
def test_the_callers_modes_change_nothing(mode, openai, tmp_path):
    """Loading, preprocessing, every method, interop, metrics: the same numbers, and the mode stays on."""
    torch.save(openai.state_dict(), tmp_path / "x.pt")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (80, 70, 3), np.uint8)) for _ in range(2)]

    def run():
        clip = nibkit.load(f"openai:{tmp_path}/x.pt", device="cpu")
        pixels, ids = clip.preprocess(pictures), clip.tokenize(["a cat", "a photo of a dog"])
        return {"pixels": [pixels.numpy()], **whole_story(clip, pixels, ids)}

    want = run()
    with MODES[mode]():
        before = modes()
        got = run()
        after = modes()
    assert before == after
    for name, arrays in want.items():
        for a, b in zip(arrays, got[name], strict=True):
            assert a.dtype == b.dtype, name
            largest = max(1, float(np.nanmax(np.abs(a))))
            np.testing.assert_allclose(b, a, atol=2e-6 * largest, rtol=1e-5, err_msg=f"{mode} {name}")


def test_inputs_made_in_inference_mode(openai, tmp_path):
    torch.save(openai.state_dict(), tmp_path / "x.pt")
    clip = nibkit.load(f"openai:{tmp_path}/x.pt", device="cpu")
    with torch.inference_mode():
        pixels, ids = PIXELS + 0, [i + 0 for i in IDS]
    assert pixels.is_inference()
    a, b = (nibkit.METHODS["nib"](clip, *pair) for pair in ((PIXELS, IDS), (pixels, ids)))
    np.testing.assert_array_equal(a.image, b.image)


def test_half_precision_of_nibkits_own_stays_on(openai, tmp_path):
    torch.save(openai.state_dict(), tmp_path / "x.pt")
    single, half = (nibkit.load(f"openai:{tmp_path}/x.pt", device="cpu", dtype=d) for d in ("float32", "bfloat16"))
    a, b = (nibkit.METHODS["rise"](clip, PIXELS, IDS, masks=8, text_masks=8).image for clip in (single, half))
    assert 1e-6 < np.abs(a - b).max()
    with torch.autocast("cpu", torch.float16):
        np.testing.assert_array_equal(nibkit.METHODS["rise"](half, PIXELS, IDS, masks=8, text_masks=8).image, b)


def test_pixels_that_are_no_dense_picture(openai, tmp_path):
    torch.save(openai.state_dict(), tmp_path / "x.pt")
    clip = nibkit.load(f"openai:{tmp_path}/x.pt", device="cpu")
    with pytest.raises(ValueError, match=r"pixels are sparse_coo, not dense; give pixels\.to_dense\(\)"):
        clip.embed_image(PIXELS.to_sparse())
    with pytest.raises(ValueError, match="the picture is 0 x 0: it has no pixels"):
        clip.preprocess(Image.new("RGB", (0, 0)))
