"""One notebook file in an empty folder, on a Python that has Jupyter and what Colab preinstalls, and nothing of this
checkout.

Real: the wheel built from the checkout, the virtual environment, pip's resolution and its constraints, the kernel.
Local: pip's index, a folder of wheels repacked from what is installed here, so that the test needs no network and moves
no version.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata, util
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOTEBOOK = "02_single_example.ipynb"
PREINSTALLED = (  # on Colab; pip itself, and Jupyter to execute the notebook
    "torch torchvision numpy pandas ipywidgets matplotlib pillow scipy scikit-image seaborn safetensors tqdm "
    "pip jupyterlab nbconvert"
)


def closure(names: list[str]) -> dict[str, metadata.Distribution]:
    """The named distributions and, by name, all that they require here."""
    found, seen, todo = {}, set(), [(name, frozenset()) for name in names]
    while todo:
        name, extras = todo.pop()
        try:
            dist = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another platform, or a choice that was not made here
            continue
        found[canonicalize_name(name)] = dist
        for need in map(Requirement, dist.requires or []):
            wanted = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
            entry = (need.name, frozenset(need.extras))
            if wanted and entry not in seen:
                seen.add(entry)
                todo.append(entry)
    return found


def files(dist: metadata.Distribution) -> list[metadata.PackagePath]:
    return [f for f in dist.files if ".." not in f.parts and "__pycache__" not in f.parts and f.suffix != ".pth"]


def repack(dist: metadata.Distribution, folder: Path) -> None:
    """An installed distribution as a wheel again."""
    name = canonicalize_name(dist.name).replace("-", "_")
    with zipfile.ZipFile(folder / f"{name}-{dist.version}-py3-none-any.whl", "w") as wheel:
        for file in files(dist):
            if file.locate().is_file():
                wheel.write(file.locate(), str(file))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """nibkit's wheel, built from what git would commit of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if util.find_spec("hatchling") else []
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolation, "-w", folder, ROOT]
    built = subprocess.run(command, capture_output=True, encoding="utf-8")
    if built.returncode and not isolation and "hatchling" in built.stderr:
        pytest.skip("the wheel's builder, hatchling, is neither installed nor within pip's reach")
    assert built.returncode == 0, built.stderr
    return next(folder.glob("nibkit-*.whl"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory, wheel):
    """A virtual environment's python, its packages, and the variables that show pip the local wheels."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(ask, check=True, capture_output=True, encoding="utf-8").stdout.strip())
    there = closure(PREINSTALLED.split())
    (folder / "preinstalled").mkdir()
    for dist in there.values():  # outside the environment's own folder, so that pip could not remove them
        for top in {file.parts[0] for file in files(dist)}:
            link = folder / "preinstalled" / top
            if not link.exists():
                link.symlink_to(dist.locate_file(top))
    (site / "preinstalled.pth").write_text(str(folder / "preinstalled"))
    (folder / "wheels").mkdir()
    (nibkit,) = metadata.distributions(path=[str(wheel)])
    needed = [Requirement(text) for text in nibkit.requires]
    for name, dist in closure([need.name for need in needed if need.marker is None]).items():
        if name not in there:
            repack(dist, folder / "wheels")
    hidden = ("PYTHON", "PIP_", "JUPYTER", "MPLBACKEND", "VIRTUAL_ENV")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    variables |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "wheels"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return python, site, set(there), variables


def test_one_notebook_alone_installs_what_it_lacks_and_runs(bare, wheel, tmp_path):
    python, site, there, variables = bare
    assert "rf-clip" not in there and "papermill" not in there and {"torch", "numpy", "ipykernel"} <= there

    def run(*command):
        return subprocess.run(
            [python, *command], cwd=tmp_path / "empty", env=variables, capture_output=True, encoding="utf-8"
        )

    (tmp_path / "empty").mkdir()
    shutil.copyfile(ROOT / "notebooks" / NOTEBOOK, tmp_path / "empty" / NOTEBOOK)
    assert "No module named 'nibkit'" in run("-c", "import torch, nibkit").stderr
    offline = run("-m", "nbconvert", "--to", "notebook", "--execute", "--stdout", NOTEBOOK).stderr
    assert "nibkit could not be installed from git+https://github.com/" in offline and "CalledProcess" not in offline
    variables["NIBKIT_SOURCE"] = str(wheel)
    done = run("-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", NOTEBOOK)
    assert done.returncode == 0, done.stderr[-3000:]

    added = {canonicalize_name(dist.name) for dist in metadata.distributions(path=[str(site)])}
    assert {"nibkit", "rf-clip"} <= added and not added & there  # nothing that was there was replaced
    names = "scenes/model.safetensors", "convergence.csv"
    where = run("-c", f"import nibkit.paths as p; print(p.__file__, *map(p.bundled, {names}))").stdout
    assert all(path.startswith(str(site)) for path in where.split())

    mine, committed = (
        [
            cell.outputs
            for cell in nbformat.read(path, as_version=4).cells
            if cell.source.startswith("# NBVAL_CHECK_OUTPUT")
        ]
        for path in (tmp_path / "empty" / NOTEBOOK, ROOT / "notebooks" / NOTEBOOK)
    )
    texts = [
        [o.get("text", "") or o.data["text/plain"] for outputs in cells for o in outputs] for cells in (mine, committed)
    ]
    assert committed and texts[0] == texts[1]
    assert list((tmp_path / "empty/runs").rglob("*.csv")) and len(list(tmp_path.iterdir())) == 1
