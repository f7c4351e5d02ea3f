"""The words that the pages use, each in a sentence; docs/glossary.md has them too, and more."""

from sla1tools.candidates.criteria import CRITERIA

GLOSSARY = {
    "reference": "What a frame is compared with: the median (or average) of darks of the same capture, pixel by pixel.",
    "residual": "A frame less its reference, in electrons.",
    "held out": "Compared with the other frames only, so that a frame does not hide part of its own flashes.",
    "in sample": "Compared with all frames, its own included, as the observers' notebook did.",
    "leader": "A pixel of a residual that none of its neighbours exceeds.",
    "candidate": "A leader that a criterion takes for the image of a star. "
    "In a dark there is no star, so every candidate is a false alarm.",
    **{name: criterion.meaning for name, criterion in CRITERIA.items()},
    "S/N": "Signal to noise: a star's light in units of what the noise alone would make of it.",
    "rival": "Another shape fitted to the same pixels: one pixel, a pair, a track, a column, a plus, a block.",
    "hit": "Bright pixels that touch one another in one frame alone, as a charged particle leaves them.",
    "DQ": "Data quality: the classes of bad pixel that a pixel belongs to (hot, unstable, noisy and so on).",
    "floor": "The least peak and S/N that were measured; tables and sliders go no lower.",
    "Gaussian noise alone": "How many false alarms this noise would make if it were Gaussian; the rest is the camera.",
    "50 % flux": "The light of a star that is found half of the time.",
    "operating point": "The setting that finds the faintest stars and keeps the budget of false alarms.",
    "recurrent pixel": "A pixel that made candidates in several frames or on several nights: a defect, not a flash.",
}
