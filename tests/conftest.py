import golden
import pytest

import nibkit


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory):
    return golden.write_folder(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="session")
def golden_clip(golden_folder):
    """The golden model on transformers."""
    return nibkit.load(f"hf:{golden_folder}", device="cpu")


@pytest.fixture(scope="session")
def golden_pair():
    """Pixels (4, 3, 224, 224) and ids of the golden pairs."""
    return golden.pixels(), golden.ids()


@pytest.fixture(scope="session")
def scenes():
    """The bundled model."""
    return nibkit.load("scenes", device="cpu")


@pytest.fixture(autouse=True)
def methods_as_they_were():
    """What a test registers is gone after it."""
    before = dict(nibkit.METHODS)
    yield
    nibkit.METHODS.clear()
    nibkit.METHODS.update(before)
