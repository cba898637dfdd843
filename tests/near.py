"""How near two computations of the same scores must come on any processor: relative to the largest, down to float32 rounding."""

import numpy as np

ROUNDING = 8 * float(np.finfo(np.float32).eps)  # 1e-6: of a small difference between cosines, which are about 1


def assert_near(got, want, rtol: float = 1e-4) -> None:
    """Equal within `rtol` of the largest |want|, and never asked to be closer than `ROUNDING`: where the largest score is
    1e-4, as it is for some maps, other kernels and other batches move it by more than `rtol` of itself."""
    want = np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=rtol * np.abs(want).max() + ROUNDING)
