"""The fit as the product calls it: with the rivals beside the star."""

from functools import partial

from sla1tools.candidates import fit
from sla1tools.candidates.shapes import rival_templates

fit_stamps = partial(fit.fit_stamps, rivals=rival_templates())
