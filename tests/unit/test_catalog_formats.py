"""The same four galaxies in every format give the same rows."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable import from_table, writeto
from astropy.table import Table

from galaxray.catalog import open_catalog
from galaxray.config import CatalogConfig
from galaxray.errors import CatalogError

IDS = [587727178986356823, 587727227300741210, 588848898833580220, 9223372036854775807]
RA = [0.00170833, 359.999999, 180.25, 10.684708]
DEC = [-10.37380556, 89.5, -89.25, 41.26875]


def read(uri: Path | str, **config: object) -> dict[str, list[object]]:
    catalog = open_catalog(str(uri), CatalogConfig.model_validate(config))
    return pa.Table.from_batches(catalog.slices()).to_pydict()


def table() -> Table:
    return Table({"objid": np.array(IDS), "ra": RA, "dec": DEC, "comment": ["a, b", 'c "d"', "", "é"]})


def lines(separator: str = ",") -> list[str]:
    rows = [["Unnamed: 0", "objid", "ra", "dec", "comment"]]
    rows += [
        [str(n), str(i), repr(r), repr(d), '"a, b\nnext"'] for n, (i, r, d) in enumerate(zip(IDS, RA, DEC, strict=True))
    ]
    return [separator.join(row) for row in rows]


def text(folder: Path, content: str | bytes, name: str = "c.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def csv(newline: str = "\n", separator: str = ",", before: str = "", after: str = "\n") -> str:
    return before + newline.join(lines(separator)) + after


def parquet_folder(folder: Path) -> Path:
    root = folder / "survey"
    for part, rows in (("brick=1/b.parquet", slice(2, 4)), ("brick=0/a.parquet", slice(0, 2))):
        (root / part).parent.mkdir(parents=True)
        pq.write_table(pa.table({"ra": RA[rows], "objid": IDS[rows], "dec": DEC[rows]}), root / part)
    (root / "_metadata").write_bytes(b"not a part")
    (root / ".brick=0.parquet").write_bytes(b"not a part")
    (root / "_delta_log").mkdir()
    (root / "_delta_log" / "checkpoint.parquet").write_bytes(b"not a part")
    return root


def parquet(folder: Path, **options: object) -> Path:
    path = folder / "c.parquet"
    pq.write_table(pa.table({"dec": DEC, "junk": ["x"] * 4, "objid": IDS, "ra": RA}), path, **options)
    return path


def fits_table(folder: Path, name: str = "c.fits", ascii: bool = False) -> Path:
    path = folder / name
    if ascii:
        columns = [
            fits.Column("objid", "A20", array=np.array(IDS).astype("S20")),
            fits.Column("ra", "D25.17", array=RA),
            fits.Column("dec", "D25.17", array=DEC),
        ]
        hdu: fits.hdu.base.ExtensionHDU = fits.TableHDU.from_columns(columns)
    else:
        columns = [
            fits.Column("DCHISQ", "5E", array=np.ones((4, 5))),
            fits.Column("objid", "K", array=np.array(IDS)),
            fits.Column("NOTES", "PE()", array=np.array([np.ones(n) for n in (1, 2, 3, 4)], dtype=object)),
            fits.Column("ra", "D", unit="deg", array=RA),
            fits.Column("dec", "D", unit="deg", array=DEC),
        ]
        hdu = fits.BinTableHDU.from_columns(columns)
    image = fits.ImageHDU(np.zeros((7, 3), np.float32))
    fits.HDUList([fits.PrimaryHDU(), image, hdu]).writeto(path)
    return path


def votable(folder: Path, encoding: str) -> Path:
    path = folder / "c.vot"
    writeto(from_table(table()), str(path), tabledata_format=encoding)
    return path


def ecsv(folder: Path, delimiter: str) -> Path:
    path = folder / "c.ecsv"
    table().write(path, format="ascii.ecsv", delimiter=delimiter)
    return path


def astropy_parquet(folder: Path) -> Path:
    path = folder / "c.parquet"
    table().write(path)
    return path


def compressed(path: Path, compress: Callable[[bytes], bytes], suffix: str) -> Path:
    target = path.with_name(path.name + suffix)
    target.write_bytes(compress(path.read_bytes()))
    return target


WRITERS: dict[str, Callable[[Path], Path]] = {
    "csv": lambda folder: text(folder, csv()),
    "csv without a last line end": lambda folder: text(folder, csv(after="")),
    "csv with CRLF and BOM": lambda folder: text(folder, b"\xef\xbb\xbf" + csv("\r\n").encode()),
    "csv with CR": lambda folder: text(folder, csv("\r")),
    "csv with comments": lambda folder: text(folder, csv(before="# a survey, made\n#\n\n# by us\n")),
    "csv with comments between rows": lambda folder: text(folder, csv("\n# note\n\n")),
    "csv whose header is a comment": lambda folder: text(
        folder, csv(before="# the survey\n# ").replace("Unnamed: 0", "n")
    ),
    "csv with blanks": lambda folder: text(folder, csv(separator=" , ").replace('"a, b\nnext"', "a b")),
    "csv in Latin-1 beside what is needed": lambda folder: text(folder, csv().replace("next", "é").encode("latin-1")),
    "csv with a comment in Latin-1": lambda folder: text(folder, csv("\n# Sérsic\n").encode("latin-1")),
    "csv in UTF-8": lambda folder: text(folder, csv().replace("next", "Ω €" * 3)),
    "tsv": lambda folder: text(folder, csv(separator="\t"), "c.txt"),
    "semicolons": lambda folder: text(folder, csv(separator=";")),
    "bars": lambda folder: text(folder, csv(separator="|")),
    "csv.gz": lambda folder: compressed(text(folder, csv()), gzip.compress, ".gz"),
    "csv.gz without the name": lambda folder: compressed(text(folder, csv()), gzip.compress, ""),
    "csv.bz2": lambda folder: compressed(text(folder, csv()), bz2.compress, ".bz2"),
    "csv.xz": lambda folder: compressed(text(folder, csv()), lzma.compress, ".xz"),
    "ecsv": lambda folder: ecsv(folder, " "),
    "ecsv with commas": lambda folder: ecsv(folder, ","),
    "ecsv.gz": lambda folder: compressed(ecsv(folder, " "), gzip.compress, ".gz"),
    "parquet": parquet,
    "parquet with many row groups": lambda folder: parquet(folder, row_group_size=1),
    "parquet with dictionaries": lambda folder: parquet(folder, use_dictionary=True, compression="zstd"),
    "parquet by astropy": astropy_parquet,
    "parquet folder": parquet_folder,
    "fits": fits_table,
    "fits.gz": lambda folder: fits_table(folder, "c.fits.gz"),
    "fits.gz without the name": lambda folder: compressed(fits_table(folder), gzip.compress, ""),
    "fits ascii table": lambda folder: fits_table(folder, ascii=True),
    "votable tabledata": lambda folder: votable(folder, "tabledata"),
    "votable binary": lambda folder: votable(folder, "binary"),
    "votable binary2": lambda folder: votable(folder, "binary2"),
    "votable.gz": lambda folder: compressed(votable(folder, "tabledata"), gzip.compress, ".gz"),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_every_format_gives_the_same_rows(writer: Callable[[Path], Path], tmp_path: Path) -> None:
    rows = read(writer(tmp_path))
    assert rows == {
        "row_index": [0, 1, 2, 3],
        "object_id": [str(value) for value in IDS],
        "ra_deg": RA,
        "dec_deg": DEC,
        "status": ["ok"] * 4,
        "error": [None] * 4,
    }


@pytest.mark.parametrize("name", ["galaxies.parquet", "galaxies.fits", "galaxies"])
def test_content_decides_the_format_not_the_name(name: str, tmp_path: Path) -> None:
    assert read(text(tmp_path, csv(), name))["ra_deg"] == RA


def test_given_format_must_agree_with_the_content(tmp_path: Path) -> None:
    path = text(tmp_path, csv())
    assert read(path, format="csv")["ra_deg"] == RA
    with pytest.raises(CatalogError, match=r"c\.csv: the content is csv, not fits"):
        read(path, format="fits")
    with pytest.raises(CatalogError, match="a folder is read as Parquet, not csv"):
        read(parquet_folder(tmp_path), format="csv")


def test_forced_tabs_win_over_commas(tmp_path: Path) -> None:
    path = text(tmp_path, "a,b,c,ra\tdec\n1\t2\n")
    assert read(path, format="tsv", ra_column="a,b,c,ra")["dec_deg"] == [2.0]


def test_fits_extension_by_number_and_name(tmp_path: Path) -> None:
    def positions(ra: float, name: str) -> fits.BinTableHDU:
        columns = [fits.Column("RA", "D", array=[ra]), fits.Column("DEC", "D", array=[0.0])]
        return fits.BinTableHDU.from_columns(columns, name=name)

    path = tmp_path / "c.fits"
    fits.HDUList([fits.PrimaryHDU(), positions(1, "FIRST"), positions(2, "SECOND")]).writeto(path)
    assert read(path)["ra_deg"] == [1.0]
    assert read(path, hdu=2)["ra_deg"] == read(path, hdu="2")["ra_deg"] == read(path, hdu="second")["ra_deg"] == [2.0]
    with pytest.raises(CatalogError, match=r"no extension 'THIRD': 0 PRIMARY empty, 1 FIRST table, 2 SECOND table"):
        read(path, hdu="THIRD")
    with pytest.raises(CatalogError, match="extension 0 is no table"):
        read(path, hdu=0)


def test_fits_scaling_nulls_and_padded_names(tmp_path: Path) -> None:
    columns = [
        fits.Column("NAME", "12A", array=["NGC 1", "  UGC 2  ", ""]),
        fits.Column("RA", "J", array=[5000, -897500, -1800000]),
        fits.Column("DEC", "I", null=-32768, array=[5, -32768, -7]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "c.fits")
    fits.setval(tmp_path / "c.fits", "TSCAL2", value=1e-4, ext=1)
    fits.setval(tmp_path / "c.fits", "TZERO2", value=180.0, ext=1)
    rows = read(tmp_path / "c.fits")
    assert rows["object_id"] == ["NGC 1", "UGC 2", "row-2"]
    np.testing.assert_allclose(rows["ra_deg"], [180.5, 90.25, 0.0], atol=1e-9)
    assert rows["status"] == ["ok", "bad_coordinates", "ok"]
    assert rows["error"][1] == "DEC is missing"


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, np.int64, np.int16, np.uint8])
def test_fits_integers_of_every_kind_are_exact_identifiers(kind: type[np.integer], tmp_path: Path) -> None:
    top = np.iinfo(kind).max
    Table({"objid": np.array([0, top - 1, top], kind), "ra": [1.0] * 3, "dec": [2.0] * 3}).write(tmp_path / "c.fits")
    assert read(tmp_path / "c.fits")["object_id"] == ["0", str(top - 1), str(top)]


def test_votable_nulls_and_empty_cells(tmp_path: Path) -> None:
    path = text(
        tmp_path,
        """<?xml version="1.0"?><vo:VOTABLE version="1.3" xmlns:vo="http://www.ivoa.net/xml/VOTable/v1.3">
        <vo:RESOURCE><vo:TABLE><vo:FIELD name="nothing" datatype="int"/></vo:TABLE>
        <vo:TABLE><vo:FIELD name="id" datatype="long"><vo:VALUES null="-1"/></vo:FIELD>
        <vo:FIELD name="ra" datatype="double"/><vo:FIELD name="dec" datatype="double"/>
        <vo:DATA><vo:TABLEDATA>
        <vo:TR><vo:TD>587727178986356823</vo:TD><vo:TD> 1.5 </vo:TD><vo:TD>-2</vo:TD></vo:TR>
        <vo:TR><vo:TD>-1</vo:TD><vo:TD/><vo:TD>NaN</vo:TD></vo:TR>
        </vo:TABLEDATA></vo:DATA></vo:TABLE></vo:RESOURCE></vo:VOTABLE>""",
    )
    rows = read(path)
    assert rows["object_id"] == ["587727178986356823", "row-1"]
    assert rows["ra_deg"][0] == 1.5
    assert rows["error"] == [None, "ra is missing (''); dec is missing ('NaN')"]


def test_votable_cut_off_by_its_service_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = votable(tmp_path, "tabledata").read_text()
    info = '<INFO name="QUERY_STATUS" value="OVERFLOW"/>'
    path = text(tmp_path, content.replace("</RESOURCE>", f"{info}</RESOURCE>"))
    assert len(read(path)["ra_deg"]) == 4
    assert "cut the table off at its row limit" in caplog.text


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_rows_that_are_commented_out(newline: str, tmp_path: Path) -> None:
    content = (
        'id,ra,dec\n#g0,9,9\ng1,10,20\n#g2,11,21\n"#g3",12,22\nNGC #4,13,23\n# a note\n"two\n#lines",14,24\n#g6,9,9\n'
    )
    rows = read(text(tmp_path, content.replace("\n", newline)))
    assert rows["object_id"] == [
        "g1",
        "#g3",
        "NGC #4",
        f"two{newline}#lines",
    ]
    assert rows["ra_deg"] == [10, 12, 13, 14]
    assert rows["row_index"] == [0, 1, 2, 3]


def test_comments_are_found_wherever_a_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{index},{index / 100},2,{'x' * (index % 13)}\n#{index},3,4,'\n" for index in range(5000)]
    content = "note,ra,dec,name\n" + "".join(rows)
    monkeypatch.setattr("galaxray.catalog.text.BLOCK_BYTES", 997)
    assert read(text(tmp_path, content))["ra_deg"] == [index / 100 for index in range(5000)]


def test_a_comment_with_an_open_quote_swallows_no_rows(tmp_path: Path) -> None:
    path = text(tmp_path, 'id,ra,dec\ng1,10,20\n# see,"here\ng2,11,21\ng3,12,22"\n')
    with pytest.raises(CatalogError, match="a row has"):
        read(path)


def test_parquet_types_that_writers_choose(tmp_path: Path) -> None:
    columns = {
        "objid": pa.array(["a", None, "b "]).dictionary_encode(),
        "ra": pa.array(["1.5", "2.5", None], pa.string_view()),
        "dec": pa.array(["+10:00:00", "-0:30", "12"], pa.large_string()),
    }
    pq.write_table(pa.table(columns), tmp_path / "c.parquet")
    rows = read(tmp_path / "c.parquet")
    assert rows["object_id"] == ["a", "row-1", "b"]
    assert rows["dec_deg"] == [10.0, -0.5, 12.0]
    assert rows["status"] == ["ok", "ok", "bad_coordinates"]
