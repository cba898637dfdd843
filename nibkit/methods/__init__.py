"""Every method under its name: METHODS[name](clip, pixels, ids, ...) -> Attribution.

The paper's eight come first, then the forms that the baselines' own papers define, two newer methods, and the controls.
"""

from . import (
    chefer,
    controls,
    fastig,
    gae,
    grad_eclip,
    gradcam,
    gradcam_pooled,
    legrad,
    m2ib,
    mfaba,
    nib,
    rise,
    saliency,
    xgrad,
)  # fmt: skip

_ALL = (
    nib.nib, m2ib.m2ib, rise.rise, gradcam.gradcam, chefer.chefer, saliency.saliency, mfaba.mfaba, fastig.fastig, gae.gae,
    gradcam_pooled.gradcam_pooled, xgrad.xgrad, grad_eclip.grad_eclip, legrad.legrad, controls.random, controls.centre,
)  # fmt: skip
METHODS = {function.__name__: function for function in _ALL}
