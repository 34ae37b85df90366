"""Tell what a file is by its content, and open it."""

from __future__ import annotations

import codecs
import re

from galaxray.catalog.files import CatalogFile, CatalogFiles, describe_failure
from galaxray.catalog.fits import FitsTable
from galaxray.catalog.parquet import ParquetTable
from galaxray.catalog.table import Table
from galaxray.catalog.text import TextTable
from galaxray.catalog.votable import VOTable
from galaxray.config import CatalogConfig
from galaxray.errors import CatalogError

__all__ = ["open_table"]

SNIFFED_BYTES = 64 * 2**10

_NOT_CATALOGUES = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\x00": "a TIFF image",
    b"MM\x00*": "a TIFF image",
    b"RIFF": "a WebP image",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive (or a spreadsheet): unpack it, or export CSV",
    b"\x89HDF": "an HDF5 file: convert it to Parquet or FITS",
    b"ARROW1": "an Arrow (Feather) file: convert it to Parquet",
    b"\x93NUMPY": "a numpy array: convert it to Parquet or FITS",
    b"#ASDF": "an ASDF file: convert it to Parquet or FITS",
    b"SQLite format 3": "an SQLite database: export CSV",
    b"(\xb5/\xfd": "compressed with zstd: decompress it, or use gzip",
}


def open_table(files: CatalogFiles, config: CatalogConfig) -> Table:
    """Open a catalogue's table with the reader of its format.

    Raises
    ------
    CatalogError
        If the file is empty, no catalogue, of another format than the configuration says, or damaged.
    """
    try:
        found = "parquet" if files.is_folder else _sniff(files.files[0])
    except files.read_errors as error:
        raise CatalogError(f"{files.uri}: cannot be read: {describe_failure(error)}") from error
    if config.format not in ("auto", found) and not {config.format, found} <= {"csv", "tsv"}:
        content = "a folder is read as Parquet" if files.is_folder else f"the content is {found}"
        raise CatalogError(f"{files.uri}: {content}, not {config.format}; correct or leave out --columns.format")
    try:
        return _open(files, found, config)
    except files.read_errors as error:
        raise CatalogError(f"{files.uri}: a damaged {found} file: {describe_failure(error)}") from error


def _open(files: CatalogFiles, found: str, config: CatalogConfig) -> Table:
    match found:
        case "parquet":
            return ParquetTable(files)
        case "fits":
            return FitsTable(files.files[0], config.hdu)
        case "votable":
            return VOTable(files.files[0])
        case _:
            return TextTable(files.files[0], separator="\t" if config.format == "tsv" else None)


def _sniff(file: CatalogFile) -> str:
    with file.open() as stream:
        start = stream.read(SNIFFED_BYTES)
    text = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if not text:
        raise CatalogError(f"{file.name}: the file is empty")
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"SIMPLE  ="):
        return "fits"
    if start.startswith(b"# %ECSV"):
        return "ecsv"
    if text.startswith(b"<"):
        if re.search(rb"<(\w+:)?VOTABLE\b", text):
            return "votable"
        is_page = re.search(rb"<(!doctype\s+)?html\b", text, re.IGNORECASE)
        raise _not_a_catalogue(file, "an HTML page (of an error or a login?)" if is_page else "XML other than VOTable")
    for magic, what in _NOT_CATALOGUES.items():
        if start.startswith(magic):
            raise _not_a_catalogue(file, what)
    if start[257:262] == b"ustar":
        raise _not_a_catalogue(file, "a tar archive: unpack it")
    if text.startswith((b"{", b"[")):
        raise _not_a_catalogue(file, "JSON: convert it to CSV or Parquet")
    if b"\x00" in start:
        raise _not_a_catalogue(file, "binary, or text in UTF-16: convert it to UTF-8")
    return "csv"


def _not_a_catalogue(file: CatalogFile, what: str) -> CatalogError:
    return CatalogError(f"{file.name}: no catalogue but {what}")
