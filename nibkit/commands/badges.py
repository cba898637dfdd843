"""`nibkit badges`."""

import argparse

from . import Run


def command(parser: argparse.ArgumentParser) -> Run:
    """write Colab's badge, install cell and form fields into every notebook

    The address is `repository` in pyproject.toml; give OWNER/REPO to change it there first. Outputs stay as they are,
    so nothing has to be executed again; run it after adding a notebook or a parameter.

    examples:

        nibkit badges                   for the address in pyproject.toml
        nibkit badges OWNER/REPO        for a fork, or after a move
    """
    parser.add_argument("repository", nargs="?", metavar="OWNER/REPO", help="where the notebooks will be on GitHub")

    def run(args: argparse.Namespace) -> int:
        import nbformat

        from ..paths import checkout  # first: it says how to install what may be missing
        from ..reports import colab

        root = checkout()
        if args.repository:
            colab.move(root, args.repository)
        repository = colab.repository(root / "pyproject.toml")
        for path in sorted((root / "notebooks").glob("*.ipynb")):
            nb = nbformat.read(path, as_version=4)
            prepared = colab.prepare(nb, path.name, repository)
            if prepared != nb:
                nbformat.write(prepared, path)
                print(f"changed  {path.name}")
        return 0

    return run
