"""Find out before a run begins whether its cutout settings can be used."""

from __future__ import annotations

from galaxray.config import CutoutConfig
from galaxray.cutouts.cache import cache_folder
from galaxray.cutouts.http import user_agent
from galaxray.cutouts.sources import CutoutSource, make_source
from galaxray.storage import check_writable

__all__ = ["check_cutouts"]


def check_cutouts(config: CutoutConfig) -> CutoutSource:
    """Make the source of a run's pixels, and refuse what would fail in every worker. No service is asked.

    Raises
    ------
    ConfigError
        If the source cannot give what is asked for, the contact fits into no header, or the cache cannot be used.
    """
    source = make_source(config)
    user_agent(config.contact)
    if config.cache is not None:
        folder = cache_folder(config.cache)
        if not folder.is_dir():  # one that can only be read is of use too
            check_writable(folder, "cutouts.cache")
    return source
