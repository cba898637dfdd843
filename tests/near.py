"""How near two computations of the same scores must come on any processor: relative to the largest, down to rounding.

A GPU adds up in another order than a CPU, and in another for another batch: there four times as much is let through.
"""

import os

import numpy as np

DEVICE = os.environ.get("NIBKIT_DEVICE", "cpu")
SLACK = 4 if DEVICE == "cuda" else 1
ROUNDING = SLACK * 8 * float(np.finfo(np.float32).eps)  # 1e-6: of a small difference between cosines, which are about 1


def array(x) -> np.ndarray:
    """An array, or a tensor of any device, as an array."""
    return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)


def assert_near(got, want, rtol: float = 1e-4) -> None:
    """Equal within `rtol` of the largest |want|, and never asked to be closer than `ROUNDING`: where the largest score
    is 1e-4, as it is for some maps, other kernels and other batches move it by more than `rtol` of itself."""
    got, want = array(got), array(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=SLACK * rtol * np.abs(want).max() + ROUNDING)
