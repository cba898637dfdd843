"""From a heat map to a region and to boxes."""

import numpy as np
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops


def otsu(heat: np.ndarray) -> np.ndarray:
    """What a map marks: its pixels above Otsu's threshold, the cut that leaves the least variance on either side.

    heat: (H, W), any finite scale. Returns (H, W) booleans, all false for a flat map. Source: Otsu, IEEE Trans. SMC 9, 1979.
    ValueError where heat is not two-dimensional or not finite.

    >>> otsu(np.array([[0.1, 0.2], [0.9, 0.8]]))
    array([[False, False],
           [ True,  True]])
    """
    heat = np.asarray(heat)
    if heat.ndim != 2 or not heat.size:
        raise ValueError(f"a map of shape {heat.shape} is not (H, W); take one of a batch: heatmap()[0]")
    if not np.isfinite(heat).all():
        raise ValueError(f"the map holds {(~np.isfinite(heat)).sum()} values that are not finite; nothing can be marked in it")
    return heat > threshold_otsu(heat)


def boxes(heat: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes (x0, y0, x1, y1) around the connected regions that `otsu` marks, the region of most pixels first.

    In pixels of the map from its top left corner, x1 and y1 exclusive, as `Image.crop` takes them. Pixels that touch at a corner
    are connected. A flat map has none.

    >>> heat = np.zeros((4, 6))
    >>> heat[1:3, 0:2] = heat[3, 5] = 1
    >>> boxes(heat)
    [(0, 1, 2, 3), (5, 3, 6, 4)]
    """
    regions = sorted(regionprops(label(otsu(heat), connectivity=2)), key=lambda region: -region.area)
    return [(x0, y0, x1, y1) for y0, x0, y1, x1 in (region.bbox for region in regions)]
