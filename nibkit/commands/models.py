"""`nibkit models`."""

import argparse

from . import Run


def command(parser: argparse.ArgumentParser) -> Run:
    """what nibkit.load can load, which weights are on this machine, and where it looks for them

    Nothing is downloaded. A model's first use downloads it through its own library; on a machine without network, bring
    the file or the cache folder named here from one that has it.

    examples:

        nibkit models                                        names, files and folders that --model takes
        nibkit explain photo.jpg "a dog" --model ViT-B/32    a first use, which downloads
    """

    def run(args: argparse.Namespace) -> int:
        from ..models.clip import BACKENDS
        from ..models.files import hub_folder

        print("nibkit.load(NAME), NAME being one of")
        for backend in reversed(BACKENDS):
            for form, said in backend.FORMS.items():
                print(f"  {form:<30}" + ("" if len(form) < 30 else f"\n{'':<32}") + said.format(hub=hub_folder()))
        here = dict.fromkeys(name for backend in reversed(BACKENDS) for name in backend.here())
        print(f"\non this machine: {', '.join(here)}")
        return 0

    return run
