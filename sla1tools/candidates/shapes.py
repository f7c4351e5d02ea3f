"""The shapes that a camera makes and a star does not: fitted beside the star, to say what a stamp resembles."""

from functools import cache

import numpy as np

SIZE = 5  # side of a stamp, px


def rival_templates():
    """Return the shapes that a camera makes and a star does not: name -> (k, 5, 5) float array.

    All contain the centre pixel. The k templates of a name are its orientations and positions; a plus is flat, or has
    the threefold centre of the observers' test pattern. Each is fitted with a free amplitude and a free background.
    """
    plus = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]
    lines = [[(k * dy, k * dx) for k in range(-2, 3)] for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))]
    return {
        "single pixel": paint([[(0, 0)]]),
        "pair": paint([[(0, 0), step] for step in plus[1:]]),
        "track": paint([line[first : first + 3] for line in lines for first in range(3)]),
        "column": paint([lines[1]]),
        "plus": paint([plus, [*plus, (0, 0), (0, 0)]]),
        "block": paint([[(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)] for y in (-1, 0) for x in (-1, 0)]),
    }


def paint(shapes):
    """Make (k, 5, 5) templates of lists of pixels, (y, x) from the centre; a pixel listed twice counts twice."""
    templates = np.zeros((len(shapes), SIZE, SIZE))
    for template, pixels in zip(templates, shapes, strict=True):
        for y, x in pixels:
            template[y + SIZE // 2, x + SIZE // 2] += 1
    return templates


@cache
def _rival_pixels():
    """Return the name of every template, and (5, k) arrays of its pixels, padded, and of their weights (0: padding)."""
    shapes = rival_templates()
    names = np.repeat(list(shapes), [len(templates) for templates in shapes.values()])
    flat = np.concatenate(list(shapes.values())).reshape(len(names), -1)
    pixels = np.argsort(-flat, axis=1, kind="stable")[:, :SIZE]
    return names, pixels.T, np.take_along_axis(flat, pixels, 1).T


def best_rival(level, weights):
    """Find the rival of lowest chi2 for each stamp.

    Parameters
    ----------
    level, weights : (25, n) arrays
        Electrons, of weighted mean zero, and inverse variances; 0 where a pixel does not count.

    Returns
    -------
    name, chi2 : (n,) arrays
        Sums run over a shape's few pixels, and over the rest by subtraction.
    """
    names, pixels, shape = _rival_pixels()
    shape = shape[:, :, None]
    inside, value = weights[pixels] * (shape > 0), level[pixels]
    current, weighted = inside, inside * value
    outside = weights.sum(0) - inside.sum(0)
    outside_value = -weighted.sum(0)  # the weighted sum of all pixels is 0
    outside_square = (weights * level**2).sum(0) - (weighted * value).sum(0)
    for variance_known in (False, False, True):
        total = outside + current.sum(0)
        mean = (outside_value + weighted.sum(0)) / total
        template = (current * shape).sum(0)
        overlap = (weighted * shape).sum(0) - mean * template
        power = (current * shape**2).sum(0) - template**2 / total
        amplitude = np.divide(overlap, power, out=np.zeros_like(power), where=power > 1e-9 * template)
        if not variance_known:
            current = inside / (1 + inside * np.maximum(amplitude * shape, 0))
            weighted = current * value
    square = outside_square + (weighted * value).sum(0) - total * mean**2
    chi2 = square - amplitude * overlap
    best = chi2.argmin(0)
    return names[best], np.maximum(chi2[best, np.arange(len(best))], 0)
