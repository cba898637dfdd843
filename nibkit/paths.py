"""Where the bundled files are: in data/ of a checkout, or inside the installed wheel; and what files are called."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
WAIT = 10  # seconds for an answer from the network
SETTINGS = ".settings.json"  # behind the name of a table of rows: how they were made, so that a run can go on


def bundled(name: str) -> Path:
    """Path of a bundled file or folder such as "scenes/model.safetensors"; FileNotFoundError where it is missing."""
    for root in (_PACKAGE.parent / "data", _PACKAGE / "_data"):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(
        f"bundled file {name!r} is neither in {_PACKAGE.parent / 'data'} nor in {_PACKAGE / '_data'}; "
        "reinstall nibkit, or run it from a checkout that has its data/ folder"
    )
