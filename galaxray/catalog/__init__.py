"""Any catalogue of galaxies -> checked rows, in slices, never whole in memory.

::

    catalog   open_catalog, Catalog: what the rest of galaxray uses
    files     find and open: local, s3://, http(s) (download.py)
    formats   tell the format by content; text, parquet, fits, votable: one reader each, behind table.Table
    columns   which column is the identifier, the position, ...
    angles    degrees, hours, radians, sexagesimal -> degrees; values: text, numbers, identifiers, missing
"""

from __future__ import annotations

from galaxray.catalog.catalog import Catalog, open_catalog
from galaxray.catalog.columns import Column, Columns

__all__ = ["Catalog", "Column", "Columns", "open_catalog"]
