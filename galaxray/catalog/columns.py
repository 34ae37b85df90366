"""Find the columns that a run needs: by flag, by UCD, by common names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from galaxray.catalog.table import Field
from galaxray.config import CatalogConfig
from galaxray.errors import CatalogError

__all__ = ["Column", "Columns", "find_columns"]

# Names are compared in lower case and without punctuation: `RA (deg)`, `ra_deg` and `RAdeg` are one name. In each
# list the first name that the table has wins.
ID_NAMES = (
    "objectid",
    "idstr",
    "objid",
    "iauname",
    "dr7objid",
    "dr8objid",
    "sourceid",
    "name",
    "objname",
    "objnamened",
    "galaxy",
    "galaxyid",
    "targetid",
    "mangaid",
    "catid",
    "sgaid",
    "pgcname",
    "subjectid",
    "mainid",
    "designation",
    "id",
    "brickname",
)
POSITION_NAMES = (
    ("ra", "dec"),
    ("ra", "decl"),
    ("ra", "de"),
    ("radeg", "decdeg"),
    ("radeg", "dedeg"),
    ("raj2000", "dej2000"),
    ("raj2000", "decj2000"),
    ("raicrs", "deicrs"),
    ("raicrs", "decicrs"),
    ("alphaj2000", "deltaj2000"),
    ("objra", "objdec"),
    ("targetra", "targetdec"),
    ("ramean", "decmean"),
    ("coordra", "coorddec"),
    ("sra", "sdec"),
    ("rightascension", "declination"),
)
PATH_NAMES = (
    "path",
    "imagepath",
    "fileloc",
    "filepath",
    "file",
    "filename",
    "image",
    "jpgloc",
    "pngloc",
    "jpgpath",
    "pngpath",
    "fitsloc",
)
PIXEL_SCALE_NAMES = ("pixelscalearcsec", "pixelscale", "pixscale", "estdr5pixscale")
SIZE_NAMES = ("sizearcsec", "fovarcsec")

# UCD1+ and, from before 2005, UCD1. The first group beats common names, the second is asked after them: a table
# has at most one `meta.main` column of a kind, but often several that are merely about right ascension.
_MAIN_UCDS = {
    "id": ("meta.id;meta.main", "id_main"),
    "ra": ("pos.eq.ra;meta.main", "pos_eq_ra_main"),
    "dec": ("pos.eq.dec;meta.main", "pos_eq_dec_main"),
}
_UCDS = {"id": ("meta.id",), "ra": ("pos.eq.ra", "pos_eq_ra"), "dec": ("pos.eq.dec", "pos_eq_dec")}


@dataclass(frozen=True)
class Column:
    """A column of the catalogue and what it is taken for.

    Attributes
    ----------
    positions : tuple of int
        Where it stands among the table's fields; two for an identifier made of two columns.
    name : str
        Its name in the file (joined by ``_`` for two).
    unit : str or None
        Its unit as the file writes it.
    found_by : str
        ``"flag"``, ``"UCD"`` or ``"name"``.
    """

    positions: tuple[int, ...]
    name: str
    unit: str | None
    found_by: Literal["flag", "UCD", "name"]


@dataclass(frozen=True)
class Columns:
    """Which column of the catalogue has which role; None where there is none."""

    object_id: Column | None
    ra: Column | None
    dec: Column | None
    path: Column | None
    pixel_scale: Column | None
    size: Column | None


def find_columns(
    uri: str, fields: Sequence[Field], config: CatalogConfig, *, need_coordinates: bool, need_path: bool
) -> Columns:
    """Decide which column is what.

    A flag decides; else a UCD with ``meta.main``; else the first common name that the table has; else a UCD without
    ``meta.main``. Right ascension and declination are found as a pair. Tables of the Legacy Surveys, where OBJID
    counts within a brick, get the identifier ``BRICKID_OBJID``.

    Raises
    ------
    CatalogError
        If a named column or a needed one is not there; the message names the nearest and lists all.
    """
    finder = _Finder(uri, fields)
    ra, dec = finder.position(config.ra_column, config.dec_column)
    if need_coordinates or config.ra_column or config.dec_column:
        if ra is None:
            raise finder.missing("column for right ascension", [ra for ra, _ in POSITION_NAMES], "ra")
        if dec is None:
            raise finder.missing("column for declination", [dec for _, dec in POSITION_NAMES], "dec")
    elif ra is None or dec is None:
        ra = dec = None  # half a position is none
    path = finder.find("path", config.path_column, PATH_NAMES) if need_path or config.path_column else None
    if path is None and need_path:
        raise finder.missing("column for the path of the image", PATH_NAMES, "path")
    return Columns(
        object_id=finder.identifier(config.id_column),
        ra=ra,
        dec=dec,
        path=path,
        pixel_scale=finder.find("pixel_scale", config.pixel_scale_column, PIXEL_SCALE_NAMES),
        size=finder.find("size", config.size_column, SIZE_NAMES),
    )


def plain(name: str) -> str:
    """Reduce a column's name to letters and digits in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


class _Finder:
    def __init__(self, uri: str, fields: Sequence[Field]) -> None:
        self.uri = uri
        self.fields = fields
        # `Unnamed: 0` is what pandas makes of an index that was saved without a name
        self.plain_names = ["" if field.name.startswith("Unnamed:") else plain(field.name) for field in fields]

    def find(self, role: str, flag: str | None, names: Sequence[str]) -> Column | None:
        """Find the column of a role by flag, main UCD, name, UCD."""
        if flag is not None:
            return self.by_flag(flag, role)
        return self.by_ucd(_MAIN_UCDS.get(role, ())) or self.by_name(names) or self.by_ucd(_UCDS.get(role, ()))

    def identifier(self, flag: str | None) -> Column | None:
        if flag is None and not self.by_ucd(_MAIN_UCDS["id"]):
            brick, number = self.by_name(("brickid",)), self.by_name(("objid",))
            if brick and number:
                return Column(brick.positions + number.positions, f"{brick.name}_{number.name}", None, "name")
        return self.find("id", flag, ID_NAMES)

    def position(self, ra_flag: str | None, dec_flag: str | None) -> tuple[Column | None, Column | None]:
        """Right ascension and declination, from one source unless a flag names one of them."""
        ra = self.by_flag(ra_flag, "ra") if ra_flag is not None else None
        dec = self.by_flag(dec_flag, "dec") if dec_flag is not None else None
        pairs = [
            (self.by_ucd(_MAIN_UCDS["ra"]), self.by_ucd(_MAIN_UCDS["dec"])),
            *((self.by_name((ra_name,)), self.by_name((dec_name,))) for ra_name, dec_name in POSITION_NAMES),
            (self.by_ucd(_UCDS["ra"]), self.by_ucd(_UCDS["dec"])),
        ]
        for found_ra, found_dec in pairs:
            if (ra or found_ra) and (dec or found_dec):
                return ra or found_ra, dec or found_dec
        ra = ra or next((found for found, _ in pairs if found), None)
        dec = dec or next((found for _, found in pairs if found), None)
        return ra, dec

    def by_flag(self, name: str, role: str) -> Column:
        exact = [position for position, field in enumerate(self.fields) if field.name == name]
        folded = [position for position, field in enumerate(self.fields) if field.name.lower() == name.lower()]
        found = exact or folded
        if not found:
            raise self.missing(f"column {name!r}", [plain(name)], role)
        if len(found) > 1:
            raise CatalogError(f"{self.uri}: {len(found)} columns are called {name!r}; rename all but one")
        return self._column(found[0], "flag")

    def by_name(self, names: Sequence[str]) -> Column | None:
        for name in names:
            if name in self.plain_names:
                return self._column(self.plain_names.index(name), "name")
        return None

    def by_ucd(self, ucds: Sequence[str]) -> Column | None:
        """Find the only column with a UCD; where several have it (ObsCore's meta.id), it tells nothing."""
        found = [n for n, field in enumerate(self.fields) if field.ucd and field.ucd.strip().lower() in ucds]
        return self._column(found[0], "UCD") if len(found) == 1 else None

    def missing(self, what: str, names: Sequence[str], role: str) -> CatalogError:
        """Make the error for a column that is not there, with the nearest names and all names."""
        columns = [field.name for field in self.fields]
        near = [name for name in columns if any(word in names for word in re.split(r"[^a-z0-9]+", name.lower()))]
        for known in names:
            alike = difflib.get_close_matches(known, self.plain_names, n=2, cutoff=0.75)
            near += [columns[self.plain_names.index(name)] for name in alike]
        nearest = list(dict.fromkeys(near))[:4]
        shown = ", ".join(columns[:40]) + (f" and {len(columns) - 40} more" if len(columns) > 40 else "")
        hint = f"; nearest: {', '.join(nearest)}" if nearest else ""
        flag = f"--columns.{role}_column"
        return CatalogError(f"{self.uri}: no {what}{hint}; name it with {flag}; columns found: {shown}")

    def _column(self, position: int, found_by: Literal["flag", "UCD", "name"]) -> Column:
        field = self.fields[position]
        return Column((position,), field.name, field.unit, found_by)
