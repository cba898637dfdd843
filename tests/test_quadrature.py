"""Boole's rule on halved panels: closed forms, a certificate that bounds every token, and each pair as if it were
alone.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from nibkit.methods._quadrature import BOOLE, NODES, Path, adaptive


def curves(*functions):
    """A slope function for one part whose tokens have these antiderivatives of t; F is their sum."""

    def slope(t: Tensor, rows: Tensor, part: str):
        t = t.double().requires_grad_()
        values = [f(t) for f in functions]
        slopes = [torch.autograd.grad(v.sum(), t, retain_graph=True)[0] for v in values]
        return torch.stack(values).sum(0).detach(), torch.stack(slopes, 1)

    return slope


def whole(slope, tol=0.0, max_passes=128) -> Path:
    return adaptive(slope, 1, ("carry",), tol, max_passes)


def step(at, width, height=0.3):
    return lambda t: height * ((t - at) / width).sigmoid()


def truth(*functions) -> Tensor:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return torch.stack([f(ends)[1] - f(ends)[0] for f in functions])


@pytest.mark.parametrize("degree", range(7))
def test_boole_is_exact_for_slopes_up_to_the_fifth_degree(degree):
    error = abs(float(BOOLE @ NODES**degree) - 1 / (degree + 1))
    assert error < 1e-15 if degree <= 5 else error > 1e-5


def test_smooth_slopes_take_five_passes():
    path = whole(curves(lambda t: 0.1 * t**5, lambda t: -0.2 * t), tol=0.01)
    torch.testing.assert_close(path.scores[0], torch.tensor([0.1, -0.2]).double())
    assert path.passes.item() == 5 and path.certified(0.01).all()


def test_the_error_bounds_every_token_however_small_the_gap():
    functions = step(0.2, 0.03), step(0.6, 0.1, -0.3), step(0.1, 0.3, 0.2)
    for passes in range(5, 80, 4):
        path = whole(curves(*functions), max_passes=passes)
        assert (path.scores[0] - truth(*functions)).abs().max() <= path.error.item() + 1e-12
        assert path.passes.item() == passes


def test_errors_that_cancel_do_not_stop_it():
    """Two tokens whose errors cancel at all nodes, beside a smooth one: the gap is 0 from the first pass."""
    functions = step(0.23, 0.02), step(0.23, 0.02, -0.3), lambda t: 0.5 * t
    first, path = whole(curves(*functions), max_passes=5), whole(curves(*functions), tol=0.01)
    assert first.gap.item() < 1e-12 and not first.certified(0.01).any()
    assert (path.scores[0] - truth(*functions)).abs().max() < 0.01 * 0.5 and path.certified(0.01).all()


def test_what_no_node_saw_shows_in_f():
    """A step between the first five nodes: every slope there is flat, but F has moved, so that panel is halved."""
    hidden = step(0.3101, 0.002)
    blind = whole(curves(hidden, lambda t: 0.5 * t), max_passes=5)
    assert abs(blind.scores[0, 0].item()) < 1e-6 and blind.error.item() > 0.29
    found = whole(curves(hidden, lambda t: 0.5 * t), tol=0.01)
    assert found.scores[0, 0].item() == pytest.approx(0.3, abs=0.005) and found.passes.item() < 64


def test_pairs_are_integrated_each_as_if_alone():
    places = torch.tensor([0.15, 0.5, 0.83])

    def slope(t, rows, part):
        return curves(step(places[rows], 0.05), lambda t: 0.2 * t**3)(t, rows, part)

    together = adaptive(slope, 3, ("carry",), 1e-3, 128)
    assert len(set(together.passes.tolist())) > 1
    for k in range(3):
        alone = whole(lambda t, rows, part, k=k: slope(t, rows + k, part), 1e-3)
        assert alone.passes[0] == together.passes[k]
        torch.testing.assert_close(alone.scores[0], together.scores[k], atol=1e-12, rtol=0)


def test_parts_follow_each_other_and_share_the_budget():
    """norm goes from -0.1 to 0.2 and has a step, carry from 0.2 to 0.7 is a line: all panels beyond the first go to
    norm.
    """
    asked = []

    def slope(t, rows, part):
        asked.extend([part] * len(t))
        if part == "carry":
            return 0.2 + 0.5 * t, torch.stack([0.5 + 0 * t, 0 * t], 1)
        value, slopes = curves(step(0.7, 0.05))(t, rows, part)
        return value - 0.1, torch.cat([0 * slopes, slopes], 1)

    path = adaptive(slope, 1, ("norm", "carry"), 0.01, 64)
    torch.testing.assert_close(path.scores[0], torch.tensor([0.5, 0.3]).double(), atol=2e-3, rtol=0)
    assert path.opened.item() == pytest.approx(0.7) and path.closed.item() == pytest.approx(-0.1, abs=1e-6)
    assert asked.count("carry") == 5 and asked.count("norm") == path.passes.item() - 5 > 5


@pytest.mark.parametrize(("max_passes", "spent"), [(5, 5), (8, 5), (9, 9), (16, 13), (40, 37)])
def test_no_more_passes_are_spent_than_allowed(max_passes, spent):
    assert whole(curves(step(0.4, 1e-3)), max_passes=max_passes).passes.item() == spent


def test_slopes_that_are_no_numbers_count_as_none():
    path = whole(lambda t, rows, part: (0 * t, torch.full((len(t), 2), torch.nan)), tol=0.01)
    assert (path.scores == 0).all() and path.passes.item() == 5 and path.certified(0.01).all()


def test_a_path_is_certified_by_its_gap_and_by_its_error():
    path = Path(torch.tensor([[1.0, 2.0]]), *(torch.tensor([x]) for x in (2.0, 0.5, 3)), error=torch.tensor([0.5]))
    assert path.gap.item() == 1.5 and path.certified(1).item() and not path.certified(0.9).item()
    assert not path._replace(error=torch.tensor([2.1])).certified(1).item()
    assert not path._replace(error=torch.tensor(np.nan)).certified(1).item()
