"""What every method returns, and how scores become heat maps and word scores."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from torch import Tensor

from .models.towers import ImageTower, ragged


def min_max(scores: np.ndarray, axis=None) -> np.ndarray:
    """Scale to [0, 1] over `axis`; flat or undefined scores become 0.

    >>> min_max(np.array([[-1.0, 0.0, 3.0], [2.0, 2.0, 2.0]]), axis=1)
    array([[0.  , 0.25, 1.  ],
           [0.  , 0.  , 0.  ]])
    """
    scores = np.nan_to_num(scores)
    low, high = scores.min(axis, keepdims=True), scores.max(axis, keepdims=True)
    return np.divide(scores - low, high - low, out=np.zeros_like(scores), where=high > low)


def upsample(scores: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Patch scores (B, rows, columns) -> (B, H, W), bilinear, corners not aligned; size: (H, W), or one number for
    both.
    """
    enlarged = F.interpolate(torch.as_tensor(scores)[:, None], size, mode="bilinear", align_corners=False)
    return enlarged[:, 0].numpy()


def otsu(heat: np.ndarray) -> np.ndarray:
    """What a map marks: its pixels above Otsu's threshold, the cut that leaves the least variance on either side.

    heat: (H, W), any finite scale. Returns (H, W) booleans, all false for a flat map. Source: Otsu, IEEE Trans. SMC 9,
    1979. ValueError where heat is not two-dimensional or not finite.

    >>> otsu(np.array([[0.1, 0.2], [0.9, 0.8]]))
    array([[False, False],
           [ True,  True]])
    """
    heat = np.asarray(heat)
    if heat.ndim != 2 or not heat.size:
        raise ValueError(f"a map of shape {heat.shape} is not (H, W); take one of a batch: heatmap()[0]")
    if not np.isfinite(heat).all():
        raise ValueError(
            f"the map holds {(~np.isfinite(heat)).sum()} values that are not finite; nothing can be marked in it"
        )
    return heat > threshold_otsu(heat)


def boxes(heat: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes (x0, y0, x1, y1) around the connected regions that `otsu` marks, the region of most pixels first.

    In pixels of the map from its top left corner, x1 and y1 exclusive, as `Image.crop` takes them. Pixels that touch at
    a corner are connected. A flat map has none.

    >>> heat = np.zeros((4, 6))
    >>> heat[1:3, 0:2] = heat[3, 5] = 1
    >>> boxes(heat)
    [(0, 1, 2, 3), (5, 3, 6, 4)]
    """
    regions = sorted(regionprops(label(otsu(heat), connectivity=2)), key=lambda region: -region.area)
    return [(x0, y0, x1, y1) for y0, x0, y1, x1 in (region.bbox for region in regions)]


@dataclass
class Attribution:
    """Scores of a batch of B pairs by one method.

    image: (B, rows, columns) signed scores on the patch grid (a finer grid where the method has one), float32.
    text: B arrays (len,), one signed score per token, BOS and EOS included.
    info: one row per pair: cost, and what the method reports about itself.
    size: side of the picture, pixels.

    >>> a = Attribution(np.float32([[[0, 1], [-1, 0]]]), [np.float32([0, 2, 1, 0])], size=8)
    >>> a.signed_map().shape, float(a.signed_map().max()), float(a.heatmap().max())
    ((1, 8, 8), 1.0, 1.0)
    >>> a.word_scores()[0].tolist()
    [0.0, 1.0, 0.5, 0.0]
    """

    image: np.ndarray
    text: list[np.ndarray]
    size: int
    info: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def of(
        cls, tower: ImageTower, image: Tensor, text: Tensor, ids: list[Tensor], info: pd.DataFrame
    ) -> "Attribution":
        """From the scores (B, T) of all tokens of both encoders, CLS and padding too; or of pixels, (B, H, W)."""
        image = tower.patches(image) if image.ndim == 2 else image
        return cls(image.float().cpu().numpy(), as_arrays(ragged(text, ids)), tower.size, info)

    def __len__(self):
        return len(self.image)

    def signed_map(self, shape: tuple[int, int] | None = None) -> np.ndarray:
        """The image scores enlarged to the picture, (B, size, size), or to `shape`, a mask's; sign and unit kept."""
        return upsample(self.image, shape or self.size)

    def heatmap(self) -> np.ndarray:
        """(B, size, size) in [0, 1]: min-max of each enlarged map; a flat map, or one of rounding noise (info), becomes
        0.
        """
        return min_max(self.signed_map(), axis=(1, 2)) * ~self._noise("image")[:, None, None]

    def word_scores(self) -> list[np.ndarray]:
        """B arrays (len,) in [0, 1]: min-max over all tokens, BOS and EOS included, as the paper does; 0 as in
        `heatmap`.
        """
        return [min_max(t) * ~noise for t, noise in zip(self.text, self._noise("text"))]

    def notes(self, pair: int = 0) -> dict[str, str]:
        """What a reader of that pair's scores must know, by side ("image", "text"); a side without a note is left
        out.
        """
        found = {}
        for side in ("image", "text"):
            if self._noise(side)[pair]:
                found[side] = "0 or rounding noise; explain a lower layer"
            elif f"stopped_{side}" in self.info and self.info[f"stopped_{side}"].iloc[pair] == "fell back":
                found[side] = "the rule did not add up; this is the published sum"
        return found

    def _noise(self, side: str) -> np.ndarray:
        return np.asarray(self.info.get(f"noise_{side}", np.zeros(len(self))), bool)


def as_arrays(scores: list[torch.Tensor]) -> list[np.ndarray]:
    """Tensors of any float type -> float32 arrays on the CPU."""
    return [s.float().cpu().numpy() for s in scores]


def words(clip, ids: torch.Tensor, scores: np.ndarray) -> list[tuple[str, float]]:
    """One text's words with their scores, for display: BOS and EOS dropped, the pieces of a word joined and added up.

    >>> from nibkit.models import load
    >>> clip = load("scenes")
    >>> words(clip, clip.tokenize("a skateboarding cat")[0], np.float32([0, 1, 2, 3, 0]))
    [('a', 1.0), ('skateboarding', 2.0), ('cat', 3.0)]
    """
    found, pieces = [], clip.decode(ids)
    start_of_word = True
    for piece, score in list(zip(pieces, scores.tolist()))[clip.text.before : -1]:
        if start_of_word:
            found.append(("", 0.0))
        found[-1] = (found[-1][0] + piece.strip(), found[-1][1] + score)
        start_of_word = piece.endswith(" ")
    return found
