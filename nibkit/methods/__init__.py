"""Every method under its name: METHODS[name](clip, pixels, ids, ...) -> Attribution.

The paper's eight come first, then the forms that the baselines' own papers define, two newer methods, and the controls.
"""

from ..narrowing import nib
from .chefer import chefer
from .controls import centre, random
from .fastig import fastig
from .gae import gae
from .grad_eclip import grad_eclip
from .gradcam import gradcam
from .gradcam_pooled import gradcam_pooled
from .legrad import legrad
from .m2ib import m2ib
from .mfaba import mfaba
from .rise import rise
from .saliency import saliency
from .xgrad import xgrad

_ALL = (
    nib, m2ib, rise, gradcam, chefer, saliency, mfaba, fastig, gae, gradcam_pooled, xgrad, grad_eclip, legrad, random, centre
)  # fmt: skip
METHODS = {function.__name__: function for function in _ALL}
