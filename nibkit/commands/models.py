"""`python -m nibkit models`."""

import argparse

from . import Run

FORMS = """\
  scenes                        bundled with nibkit
  {names}
                                OpenAI's clip package; downloaded into {cache}
  open_clip:ARCH/TAG            open_clip's ViT and ResNet CLIPs, CoCa, SigLIP; downloaded into {hub}
  open_clip:ARCH/FILE           a file of open_clip's, bare weights or a training checkpoint
  hf:NAME                       transformers' CLIPModel, SiglipModel, Siglip2Model; downloaded into {hub}
  FOLDER                        what model.save_pretrained left, or one with open_clip_config.json
  FILE.pt, FILE.safetensors     a state dict or JIT archive with OpenAI's key names"""


def command(parser: argparse.ArgumentParser) -> Run:
    """what nibkit.load can load, which weights are on this machine, and where it looks for them

    Nothing is downloaded. A model's first use downloads it through its own library; on a machine without network, bring
    the file or the cache folder named here from one that has it.

    examples:

        python -m nibkit models                                        names, files and folders that --model takes
        python -m nibkit explain photo.jpg "a dog" --model ViT-B/32    a first use, which downloads
    """

    def run(args: argparse.Namespace) -> int:
        import os
        from pathlib import Path

        from ..models.openai import ARCHITECTURES, CACHE, filename

        hub = os.environ.get("HF_HUB_CACHE") or os.path.join(os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub")
        print("nibkit.load(NAME), NAME being one of\n" + FORMS.format(names=", ".join(ARCHITECTURES), cache=CACHE, hub=hub))
        here = [name for name in ARCHITECTURES if (Path(CACHE) / filename(name)).is_file()]
        folders = sorted(Path(hub).expanduser().glob("models--*"))
        here += [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
        print(f"\non this machine: {', '.join(['scenes', *here])}")
        return 0

    return run
