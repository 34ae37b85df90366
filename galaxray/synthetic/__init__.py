"""A sky made of formulas: image, truth, votes and masks at any (ra, dec).

Nothing here is real. The same position gives the same galaxy, picture, volunteers and masks, for ever.
"""

from __future__ import annotations

from galaxray.synthetic.background import SyntheticService
from galaxray.synthetic.galaxy import SyntheticGalaxy
from galaxray.synthetic.masks import true_masks, volunteer_masks
from galaxray.synthetic.render import cutout, image
from galaxray.synthetic.sky import catalog, galaxies_in, galaxy_at
from galaxray.synthetic.survey import Survey, rgb
from galaxray.synthetic.volunteers import LABELS, vote_probabilities, votes

__all__ = [
    "LABELS",
    "Survey",
    "SyntheticGalaxy",
    "SyntheticService",
    "catalog",
    "cutout",
    "galaxies_in",
    "galaxy_at",
    "image",
    "rgb",
    "true_masks",
    "volunteer_masks",
    "vote_probabilities",
    "votes",
]
