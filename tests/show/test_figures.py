"""Figures show all that they are given."""

import numpy as np
from astropy.table import Table
from matplotlib.collections import PathCollection, PolyCollection

from sla1tools.show.figures import leader_scatter


def drawn(leaders):
    axes = leader_scatter(leaders, threshold=200.0, ratio=0.3).axes[0]
    dots = [tuple(place) for c in axes.collections if isinstance(c, PathCollection) for place in c.get_offsets()]
    cells = [c.get_array() for c in axes.collections if isinstance(c, PolyCollection)]
    return dots, int(sum(cell.sum() for cell in cells))


def test_every_leader_is_counted_and_every_candidate_is_a_dot():
    rng = np.random.default_rng(1)
    peak, ratio = rng.uniform(-20, 1500, 50_000), rng.uniform(-3, 0.29, 50_000)
    places = {400: (321.0, 0.3), 49_999: (900.0, 0.55)}  # one on the cut; one in the very last row
    for row, place in places.items():
        peak[row], ratio[row] = place
    ratio[7] = 40.0  # of two negative numbers
    peak[7] = -1.0
    leaders = Table({"peak": peak, "neighbor_ratio": ratio, "neighbor_min": ratio * peak})
    dots, counted = drawn(leaders)
    assert sorted(dots) == sorted(places.values())
    assert counted == 50_000


def test_no_leader_at_all():
    none = Table({"peak": np.zeros(0), "neighbor_ratio": np.zeros(0), "neighbor_min": np.zeros(0)})
    assert drawn(none) == ([], 0)
