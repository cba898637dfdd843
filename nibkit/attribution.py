"""What every method returns, how scores become heat maps and word scores, and the file that keeps them."""

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from torch import Tensor

from .checks import one_line
from .models import checksum
from .models.towers import ImageTower, ragged
from .paths import replace

FORM = "nibkit attribution 1"  # of a saved file


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
    heat = _finite_map(heat)
    return heat > threshold_otsu(heat)


def _finite_map(heat: np.ndarray) -> np.ndarray:
    heat = np.asarray(heat)
    if heat.ndim != 2 or not heat.size:
        raise ValueError(f"a map of shape {heat.shape} is not (H, W); take one of a batch: heatmap()[0]")
    if not np.isfinite(heat).all():
        wrong = (~np.isfinite(heat)).sum()
        raise ValueError(f"the map holds {wrong} values that are not finite; nothing can be marked in it")
    return heat


def boxes(scores: np.ndarray, share: float = 1 / 3) -> list[tuple[int, int, int, int]]:
    """Boxes (x0, y0, x1, y1) around the connected regions that speak for the text, the region of most pixels first.

    scores: (H, W), a map of `signed_map`. A region is of pixels that score more than `share`, in (0, 1), of the highest
    one, so that none is marked that speaks against the text. CAM's rule (Zhou et al., CVPR 2016, with 1/5); on the
    bundled pictures 1/5 to 1/3 meet the objects' own boxes equally well, and 1/3 reaches least into other objects. In
    pixels of the map from its top left corner, x1 and y1 exclusive, as `Image.crop` takes them. Pixels that touch at a
    corner are connected. A flat map has none, nor has one that is nowhere positive. Errors: as `otsu`.

    >>> scores = np.zeros((4, 6))
    >>> scores[1:3, 0:2] = scores[3, 5] = 1
    >>> boxes(scores)
    [(0, 1, 2, 3), (5, 3, 6, 4)]
    """
    scores = _finite_map(scores)
    if scores.max() <= 0 or scores.min() == scores.max():
        return []
    regions = regionprops(label(scores > share * scores.max(), connectivity=2))
    regions = sorted(regions, key=lambda region: -region.area)
    return [(x0, y0, x1, y1) for y0, x0, y1, x1 in (region.bbox for region in regions)]


@dataclass
class Attribution:
    """Scores of a batch of B pairs by one method.

    image: (B, rows, columns) signed scores on the patch grid (a finer grid where the method has one), float32.
    text: B arrays (len,), one signed score per token, BOS and EOS included.
    info: one row per pair: cost, and what the method reports about itself.
    size: side of the picture, pixels.
    about: where the scores are from, as JSON has it: method, options and model; of `nibkit.explain` also texts, tokens
        (B lists of pieces), before (how many of them stand before the first word) and names (of the pictures: the files
        they were opened from, or what you put there); of a file, weights (the model's checksum) where it was known.

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
    about: dict = field(default_factory=dict)

    @classmethod
    def of(
        cls, tower: ImageTower, image: Tensor, text: Tensor, ids: list[Tensor], info: pd.DataFrame
    ) -> "Attribution":
        """From the scores (B, T) of all tokens of both encoders, CLS and padding too; or of pixels, (B, H, W)."""
        image = tower.patches(image) if image.ndim == 2 else image
        return cls(image.float().cpu().numpy(), as_arrays(ragged(text, ids)), tower.size, info)

    def __len__(self):
        return len(self.image)

    def __getitem__(self, pair: int) -> "Attribution":
        """One pair's, as a batch of one."""
        k = range(len(self))[pair]
        own = {name: self.about[name][k : k + 1] for name in ("texts", "tokens", "names") if name in self.about}
        info = self.info.iloc[k : k + 1].reset_index(drop=True)
        return Attribution(self.image[k : k + 1], [self.text[k]], self.size, info, self.about | own)

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

    def words(self, pair: int = 0) -> list[tuple[str, float]]:
        """That pair's words with their scores, as `words` has them; ValueError where its tokens are not known."""
        if "tokens" not in self.about:
            raise ValueError("the tokens of these scores are not known: take those of nibkit.explain, or words()")
        return _joined(self.about["tokens"][pair], self.text[pair], self.about["before"])

    def to_dataframe(self, words: bool = True) -> pd.DataFrame:
        """All scores, a row each: pair (0, 1, ...), name and text ("" where not known), side ("image" or "text"), row
        and column of a patch (of a word, its place in the text: column), word ("" of a patch), and score.

        words: the text's words, pieces joined, BOS and EOS dropped; False gives all its tokens. Errors: as `words`.
        """
        tables, columns = [], ["pair", "name", "text", "side", "row", "column", "word", "score"]
        for k, patches in enumerate(self.image):
            tokens = self.about["tokens"][k] if "tokens" in self.about else [""] * len(self.text[k])
            told = self.words(k) if words else list(zip(tokens, self.text[k]))
            row, column = np.indices(patches.shape).reshape(2, -1)
            image = {"side": "image", "row": row, "column": column, "word": "", "score": patches.ravel()}
            text = {"side": "text", "row": 0, "column": np.arange(len(told)), "word": [word for word, _ in told]}
            text["score"] = np.array([score for _, score in told], np.float32)
            name, caption = (one_line(self.about[what][k]) if what in self.about else "" for what in ("names", "texts"))
            tables += [pd.DataFrame(side).assign(pair=k, name=name, text=caption) for side in (image, text)]
        return pd.concat(tables, ignore_index=True)[columns]

    def save(self, path: str | Path, clip=None) -> None:
        """Into one file, a NumPy .npz: the scores, `info` and `about`, to the last bit; `load` reads it.

        clip: the model that made them: the checksum of its weights goes into the file. ValueError for another model.
        """
        if clip is not None and clip.label != self.about.get("model", clip.label):
            raise ValueError(f"these scores are of {self.about['model']}, not of {clip.label}; give that model")
        about = self.about | ({"weights": checksum(clip)} if clip is not None else {})
        lengths = [len(scores) for scores in self.text]
        head = json.dumps({"form": FORM, "size": self.size, "info": list(self.info), "about": about})
        arrays = {"head": np.array(head), "image": self.image, "lengths": np.array(lengths, np.int64)}
        arrays["text"] = np.concatenate(self.text) if lengths else np.zeros(0, np.float32)
        for k, column in enumerate(self.info):
            values = self.info[column].to_numpy()
            arrays[f"info {k}"] = values if values.dtype != object else values.astype(str)

        def write(part: Path) -> None:
            with open(part, "wb") as file:  # savez would add a suffix to a name
                np.savez_compressed(file, **arrays)

        replace(Path(path), write)

    @classmethod
    def load(cls, path: str | Path) -> "Attribution":
        """What `save` wrote. ValueError for a file that is none of its own, or is broken; OSError for a missing one."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                head = json.loads(str(arrays["head"]))
                if head["form"] != FORM:
                    raise ValueError(f"its form is {head['form']!r}, not {FORM!r}")
                image, lengths, scores = (arrays[name] for name in ("image", "lengths", "text"))
                columns = {name: arrays[f"info {k}"] for k, name in enumerate(head["info"])}
            sizes = {name: len(column) for name, column in {"lengths": lengths, **columns}.items()}
            if image.ndim != 3 or lengths.sum() != len(scores) or set(sizes.values()) - {len(image)}:
                raise ValueError(f"its parts do not fit: {image.shape} patches, {len(scores)} tokens, {sizes}")
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            said = f"{path} is not a file of Attribution.save, or is broken ({type(error).__name__}: {error})"
            raise ValueError(f"{said}; explain the pair again and save that") from error
        info = pd.DataFrame(columns, index=range(len(image)))
        return cls(image, np.split(scores, lengths.cumsum()[:-1]), head["size"], info, head["about"])

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
    return _joined(clip.decode(ids), scores, clip.text.before)


def _joined(pieces: Sequence[str], scores: np.ndarray, before: int) -> list[tuple[str, float]]:
    found, start_of_word = [], True
    for piece, score in list(zip(pieces, scores.tolist()))[before:-1]:
        if start_of_word:
            found.append(("", 0.0))
        found[-1] = (found[-1][0] + piece.strip(), found[-1][1] + score)
        start_of_word = piece.endswith(" ")
    return found
