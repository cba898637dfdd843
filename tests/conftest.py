"""Fixtures. NIBKIT_DEVICE says where the models are: "cpu" (default), "cuda", or "pretend", the GPU of `pretend`."""

import json

import golden
import pretend
import pytest
from near import DEVICE

import nibkit


def there(x):
    """A tensor, a list of them or a Clip, on the device under test."""
    if DEVICE == "pretend":
        return pretend.there(x)
    return [part.to(DEVICE) for part in x] if isinstance(x, list) else x.to(DEVICE)


def load(name: str):
    """A model on the device under test."""
    clip = nibkit.load(name, device="cpu" if DEVICE == "pretend" else DEVICE)
    return there(clip) if DEVICE == "pretend" else clip


@pytest.fixture(scope="session", autouse=True)
def device():
    """Where the models are."""
    if DEVICE != "pretend":
        yield nibkit.load("scenes", device=DEVICE).device
    else:
        with pretend.gpu():
            yield pretend.CUDA


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory):
    return golden.write_folder(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def golden_clip(golden_folder):
    """The golden model on transformers."""
    return load(f"hf:{golden_folder}")


@pytest.fixture(scope="session")
def golden_pair(device):
    """Pixels (4, 3, 224, 224) and ids of the golden pairs."""
    return there(golden.pixels()), there(golden.ids())


@pytest.fixture(scope="session")
def scenes():
    """The bundled model."""
    return load("scenes")


@pytest.fixture(scope="module")
def openai():
    """A small `clip.model.CLIP`."""
    from test_backends import openai_model

    return openai_model()


@pytest.fixture(scope="module")
def hf():
    """A small transformers CLIPModel."""
    from test_towers import transformers_clip

    return transformers_clip().model


@pytest.fixture(autouse=True)
def methods_as_they_were():
    """What a test registers is gone after it."""
    before = dict(nibkit.METHODS)
    yield
    nibkit.METHODS.clear()
    nibkit.METHODS.update(before)


@pytest.fixture
def architectures(tmp_path):
    """The small architectures under names that open_clip's factory knows, for one test."""
    import open_clip
    from test_backends import OPEN_CLIP

    known = dict(open_clip.factory._MODEL_CONFIGS), list(open_clip.factory._MODEL_CONFIG_PATHS)
    for kind, config in OPEN_CLIP.items():
        (tmp_path / f"nibkit-{kind.replace(' ', '-')}.json").write_text(json.dumps({"embed_dim": 32, **config}))
    open_clip.add_model_config(tmp_path)
    yield
    open_clip.factory._MODEL_CONFIGS.clear()
    open_clip.factory._MODEL_CONFIGS.update(known[0])
    open_clip.factory._MODEL_CONFIG_PATHS[:] = known[1]
