"""CLIPs that can be cut: `load`, and one small file per library."""

from .clip import NAMES, Clip, checksum, load, pick_device

__all__ = ["NAMES", "Clip", "checksum", "load", "pick_device"]
