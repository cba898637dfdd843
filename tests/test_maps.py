"""Regions and boxes of a heat map, on maps whose answer is known by hand."""

import numpy as np
import pytest

from nibkit.attribution import boxes, otsu


def test_otsu_cuts_between_two_levels():
    heat = np.full((5, 5), 0.2)
    heat[1:3, 2:5] = 0.9
    assert np.array_equal(otsu(heat), heat == 0.9)


def test_boxes_are_half_open_and_the_largest_region_comes_first():
    heat = np.zeros((8, 10))
    heat[0, 0] = heat[1, 1] = 1  # one region: they touch at a corner
    heat[4:7, 3:9] = 1
    assert boxes(heat) == [(3, 4, 9, 7), (0, 0, 2, 2)]
    (x0, y0, x1, y1), *_ = boxes(heat)
    assert heat[y0:y1, x0:x1].sum() == 18


def test_order_is_by_pixels_not_by_the_box():
    heat = np.zeros((9, 9))
    heat[0, :5] = heat[:5, 0] = 1  # an L of 9 pixels in a box of 25
    heat[6:9, 4:8] = 1  # 12 pixels in a box of 12
    assert boxes(heat) == [(4, 6, 8, 9), (0, 0, 5, 5)]


def test_a_flat_map_marks_nothing():
    for level in (0.0, 1.0):
        assert not otsu(np.full((4, 4), level)).any() and boxes(np.full((4, 4), level)) == []


def test_what_is_no_map_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 7, 7\) is not \(H, W\)"):
        otsu(np.zeros((2, 7, 7)))
    with pytest.raises(ValueError, match="holds 1 values that are not finite"):
        boxes(np.array([[0, np.nan]]))
