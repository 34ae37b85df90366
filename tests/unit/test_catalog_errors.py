"""Bad files end at once with one clear line; bad rows never do."""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from galaxray.catalog import open_catalog
from galaxray.config import CatalogConfig
from galaxray.errors import CatalogError

GOOD = "id,ra,dec\na,1,2\nb,3,4\n"


def write(folder: Path, content: str | bytes, name: str = "c.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(uri: str | Path, **arguments: object) -> dict[str, list[object]]:
    config = CatalogConfig.model_validate(arguments.pop("config", {}))
    catalog = open_catalog(str(uri), config, **arguments)
    return pa.Table.from_batches(catalog.slices()).to_pydict()


def test_bad_rows_get_a_status_and_a_reason(tmp_path: Path) -> None:
    rows = ["a,1,2", "b,nan,2", "c,1,95", "d,400,0", "e,,", "f,12:99:00,1", "g,-9999,-9999", "h,x,y", "i,-0.5,-90"]
    table = read(write(tmp_path, "id,RA,Dec\n" + "\n".join(rows)))
    assert table["object_id"] == list("abcdefghi")
    assert table["status"] == ["ok"] + ["bad_coordinates"] * 7 + ["ok"]
    assert table["error"] == [
        None,
        "RA is missing ('nan')",
        "Dec '95' is beyond -90 to 90 degrees",
        "RA '400' is beyond -180 to 360 degrees",
        "RA is missing (''); Dec is missing ('')",
        "RA '12:99:00' is not an angle",
        "RA is missing ('-9999'); Dec is missing ('-9999')",
        "RA 'x' is not an angle; Dec 'y' is not an angle",
        None,
    ]
    assert np.isnan(table["ra_deg"][1])
    assert (table["ra_deg"][8], table["dec_deg"][8]) == (359.5, -90.0)


def test_rows_without_identifier_are_numbered(tmp_path: Path) -> None:
    assert read(write(tmp_path, "id,ra,dec\na,1,2\n,3,4\na,5,6\n"))["object_id"] == ["a", "row-1", "a"]
    assert read(write(tmp_path, "ra,dec\n1,2\n3,4\n"))["object_id"] == ["row-0", "row-1"]


def test_positions_are_not_needed_for_files(tmp_path: Path) -> None:
    path = write(tmp_path, "path\na.jpg\n\nb.jpg\n")
    table = read(path, need_coordinates=False, need_path=True)
    assert table["path"] == [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"]
    assert table["status"] == ["ok", "ok"]
    assert np.isnan(table["ra_deg"]).all()
    catalog = open_catalog(path, need_coordinates=False, need_path=True)
    assert not catalog.has_coordinates
    assert catalog.schema.names[-1] == "path"


def test_missing_positions_are_fine_for_files_but_wrong_ones_are_not(tmp_path: Path) -> None:
    path = write(tmp_path, "path,ra,dec\na,1,2\nb,,\nc,1,95\n,3,4\n")
    table = read(path, need_coordinates=False, need_path=True)
    assert table["status"] == ["ok", "ok", "bad_coordinates", "ok"]
    assert table["path"] == [*(f"{tmp_path}/{name}" for name in "abc"), None]
    assert read(path)["status"] == ["ok", "bad_coordinates", "bad_coordinates", "ok"]


def test_pixel_scales_and_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sizes = {"ra": [1.0, 2.0, 3.0], "dec": [0.0, 0.0, 0.0], "pixscale": [0.262, np.nan, -9999.0], "diam": [0.5, 2, 1]}
    table = Table(sizes)
    table["diam"].unit = "arcmin"
    table.write(tmp_path / "c.fits")
    rows = read(tmp_path / "c.fits", config={"size_column": "diam"})
    np.testing.assert_allclose(rows["pixel_scale_arcsec"], [0.262, np.nan, np.nan])
    np.testing.assert_allclose(rows["size_arcsec"], [30, 120, 60])
    assert not caplog.records
    read(write(tmp_path, "ra,dec,pixscale\n1,2,small\n3,4,0\n"))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "holds 'small', no number above 0" in caplog.text


def test_limit_and_length_of_slices(tmp_path: Path) -> None:
    path = write(tmp_path, "ra,dec\n" + "\n".join(f"{n},0" for n in range(10)))
    catalog = open_catalog(path)
    assert [piece.num_rows for piece in catalog.slices(rows=4)] == [4, 4, 2]
    assert [piece.num_rows for piece in catalog.slices(rows=4, limit=5)] == [4, 1]
    assert [piece.num_rows for piece in catalog.slices(rows=100, limit=100)] == [10]
    assert [index for piece in catalog.slices(rows=3) for index in piece["row_index"].to_pylist()] == list(range(10))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\xef\xbb\xbf \n\n", "the file is empty"),
        (b"# only\n# comments\n", "only comments or blank lines"),
        (b"id,ra,dec\n", "a header but no rows"),
        (b"id,ra,dec\n\n# done\n", "a header but no rows"),
        (b"# %ECSV 1.0\n# ---\n# datatype:\n# - {name: ra, datatype: float64}\nra\n", "a header but no rows"),
        (b"# %ECSV 1.0\n# ---\n# datatype: [\nra\n1\n", "header cannot be read"),
        (b"The survey, by us\nid,ra,dec\n1,2,3\n", "line 1, taken for the header, has 2 columns and line 2 has 3"),
        (b"id ra dec\n1 2 3\n", "no comma or tab separates columns in its first line 'id ra dec'"),
        (b"<!DOCTYPE html>\n<HTML><body>404", "no catalogue but an HTML page"),
        (b"<?xml version='1.0'?>\n<html xmlns='x'>", "no catalogue but an HTML page"),
        (b"<?xml version='1.0'?><gpx/>", "no catalogue but XML other than VOTable"),
        (b"<VOTABLE><RESOURCE>", "a damaged votable file"),
        (b"<VOTABLE><RESOURCE/></VOTABLE>", "no table in this VOTable"),
        (
            b"<VOTABLE><RESOURCE><INFO name='QUERY_STATUS' value='ERROR'>no such table</INFO></RESOURCE></VOTABLE>",
            "the service that wrote it says: no such table",
        ),
        (b'{"ra": 1}', "no catalogue but JSON"),
        (b"%PDF-1.7", "no catalogue but a PDF document"),
        (b"\x89PNG\r\n\x1a\n", "no catalogue but a PNG image"),
        (b"PK\x03\x04....", "no catalogue but a zip archive"),
        ("id,ra,dec\n1,2,3\n".encode("utf-16"), "UTF-16"),
        (b"PAR1....PAR1", "a damaged parquet file"),
        (b"PAR1", "a damaged parquet file"),
        (b"SIMPLE  =                    T" + b" " * 50, "a damaged fits file"),
        (gzip.compress(GOOD.encode())[:-12], "end-of-stream"),
        (b"\x1f\x8bxxxxxxxxxxxxxxx", "cannot be read"),
        (b"BZhxxxxxxxxxxxxx", "cannot be read"),
        (b"id,ra,dec\na,1,2\n\xe9,1,2\n", "column 'id' is no UTF-8 text; convert the file (iconv"),
        (b"id,ra,dec\na,1,2\n\xe9,1\n", "a row has 2 columns, the header has 3: '\\x1a,1'"),
        (b"id,ra,dec\n1,2,3\n4,5\n", "cannot be read beyond row 0: a row has 2 columns, the header has 3: '4,5'"),
        (b"id,ra,dec\n1,2,3\n4,5,6,7\n", "a row has 4 columns, the header has 3"),
        (b"id,ra,dec\n1,2,3\n4", "a row has 1 columns, the header has 3: '4'"),
        (b'objid,ra,dec\n"5.87727178986357e+17",1,2\n', "passed through a float"),
    ],
)
def test_bad_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with pytest.raises(CatalogError) as caught:
        read(path)
    assert message in str(caught.value)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"galaxies\.csv: no such file$"):
        open_catalog(str(tmp_path / "galaxies.csv"))


def test_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CatalogError, match="neither a file nor a folder"):
        open_catalog(str(tmp_path / "pipe"))


def test_address_of_an_unknown_kind() -> None:
    with pytest.raises(CatalogError, match=r"a path, s3://, https:// or http://, not ftp://"):
        open_catalog("ftp://example.org/c.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = Path(write(tmp_path, GOOD))
    path.chmod(0)
    with pytest.raises(CatalogError, match="permission denied"):
        open_catalog(str(path))


def test_folder_without_parquet(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(CatalogError, match=r"a folder without Parquet files \(1 other files in it\)"):
        open_catalog(str(tmp_path))


def test_folder_whose_parts_differ(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "ra": [1.0], "dec": [2.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": ["x"], "ra": ["3"], "dec": [4]}), tmp_path / "b.parquet")
    assert read(tmp_path)["object_id"] == ["1", "x"]
    pq.write_table(pa.table({"id": ["x"], "ra": ["3"]}), tmp_path / "c.parquet")
    with pytest.raises(CatalogError, match=r"beyond row 2: c\.parquet has 0 columns 'dec'"):
        read(tmp_path)
    write(tmp_path, b"PAR1 cut off", "d.parquet")
    with pytest.raises(CatalogError, match=r"a damaged parquet file: d\.parquet"):
        read(tmp_path)


def test_tables_without_rows(tmp_path: Path) -> None:
    empty = Table({"ra": np.zeros(0), "dec": np.zeros(0)})
    for name in ("c.fits", "c.parquet", "c.vot"):
        empty.write(tmp_path / name, **({"format": "votable"} if name == "c.vot" else {}))
        with pytest.raises(CatalogError, match="a table with 2 columns but no rows"):
            open_catalog(str(tmp_path / name))


def test_image_for_a_catalogue(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.zeros((3, 8, 8), np.float32)).writeto(tmp_path / "cutout.fits")
    with pytest.raises(CatalogError, match=r"no table in this FITS file: 0 PRIMARY image 3x8x8"):
        open_catalog(str(tmp_path / "cutout.fits"))
    compressed = fits.CompImageHDU(np.zeros((8, 8), np.int16))
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(tmp_path / "c.fits.fz")
    with pytest.raises(CatalogError, match=r"no table in this FITS file: .*1 COMPRESSED_IMAGE image 8x8"):
        open_catalog(str(tmp_path / "c.fits.fz"))
    Image.new("RGB", (4, 4)).save(tmp_path / "c.jpg")
    with pytest.raises(CatalogError, match="no catalogue but a JPEG image"):
        open_catalog(str(tmp_path / "c.jpg"))


def test_column_with_several_values_per_row(tmp_path: Path) -> None:
    Table({"ra": np.zeros((2, 3)), "dec": np.zeros(2)}).write(tmp_path / "c.fits")
    with pytest.raises(CatalogError, match=r"column 'ra' \(TFORM 3D\) has no single number or text per row"):
        open_catalog(str(tmp_path / "c.fits"))
    pq.write_table(pa.table({"ra": [[1.0]], "dec": [1.0]}), tmp_path / "c.parquet")
    with pytest.raises(CatalogError, match="column 'ra' holds list"):
        open_catalog(str(tmp_path / "c.parquet"))


def test_unit_that_is_no_angle(tmp_path: Path) -> None:
    table = Table({"ra": [1.0], "dec": [2.0]})
    table["ra"].unit = "km"
    table.write(tmp_path / "c.ecsv")
    with pytest.raises(CatalogError, match=r"column 'ra' has the unit 'km'"):
        open_catalog(str(tmp_path / "c.ecsv"))


def test_truncated_files_name_the_row_that_was_reached(tmp_path: Path) -> None:
    rows = 200_000
    table = Table({"objid": np.arange(rows), "ra": np.linspace(0, 359, rows), "dec": np.zeros(rows)})
    table.write(tmp_path / "c.fits")
    whole = (tmp_path / "c.fits").read_bytes()
    half = write(tmp_path, whole[: len(whole) // 2], "half.fits")
    with pytest.raises(CatalogError, match=r"truncated: 99\d\d\d of 200000 rows are there"):
        open_catalog(half)
    noise = np.random.default_rng(0).bytes(len(whole) // 4)  # something that does not compress
    packed = gzip.compress(whole[: len(whole) // 2] + noise + whole[len(whole) // 2 + len(noise) :])
    catalog = open_catalog(write(tmp_path, packed[: len(packed) * 3 // 4], "half.fits.gz"))
    with pytest.raises(CatalogError, match=r"half\.fits\.gz: cannot be read beyond row [1-9]\d+: "):
        list(catalog.slices())
    text = "objid,ra,dec\n" + "".join(f"{n},{n / rows * 360},0.5\n" for n in range(300_000))
    catalog = open_catalog(write(tmp_path, text[: text.index("\n299990,") + 8]))
    assert sum(piece.num_rows for piece in catalog.slices(limit=10)) == 10  # what lies beyond is not looked at
    with pytest.raises(CatalogError, match=r"beyond row [12]\d{5}: a row has 2 columns, the header has 3: '299990,'"):
        list(catalog.slices())


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first = open_catalog(write(tmp_path, GOOD)).fingerprint()
    os.utime(tmp_path / "c.csv", (0, 0))
    copy = open_catalog(write(tmp_path, GOOD, "copy.csv")).fingerprint()
    assert open_catalog(str(tmp_path / "c.csv")).fingerprint() == first == copy
    assert open_catalog(write(tmp_path, GOOD.replace("3", "5"))).fingerprint() != first


def test_fingerprint_of_a_large_file_follows_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("galaxray.catalog.files.HASHED_BYTES", 0)
    path = write(tmp_path, GOOD)
    first = open_catalog(path).fingerprint()
    assert open_catalog(path).fingerprint() == first
    os.utime(path, (0, 0))
    assert open_catalog(path).fingerprint() != first


def test_description(tmp_path: Path) -> None:
    path = write(tmp_path, "OBJID,RA,DEC,file\n587727178986356823,00:00:00.41,-10:22:25.7,a.jpg\n1,25:00:00,0,b.jpg\n")
    lines = open_catalog(path, need_path=True).describe().splitlines()
    assert lines[0] == f"{path}: CSV, rows not counted yet, 4 columns"
    assert lines[1] == "  object_id          OBJID, found by name; first 587727178986356823"
    assert lines[2].startswith("  ra_deg             RA, found by name; first 0.001708333333333")
    assert lines[4] == f"  path               file, found by name; first {tmp_path}/a.jpg"
    assert lines[5] == "  1 of the first 2 rows have bad coordinates, e.g. RA '25:00:00' is not an angle"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One small catalogue in each format."""
    folder = tmp_path_factory.mktemp("samples")
    table = Table({"objid": np.arange(50), "ra": np.linspace(0, 359, 50), "dec": np.zeros(50)})
    contents = {"csv": GOOD.encode(), "csv.gz": gzip.compress(GOOD.encode())}
    formats = {"fits": "fits", "parquet": "parquet", "ecsv": "ascii.ecsv", "votable": "votable"}
    for name, kind in formats.items():
        table.write(folder / name, format=kind)
        contents[name] = (folder / name).read_bytes()
    table.write(folder / "binary", format="votable", tabledata_format="binary")
    return contents | {"binary": (folder / "binary").read_bytes()}


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    name=st.sampled_from(["csv", "csv.gz", "fits", "parquet", "ecsv", "votable", "binary"]),
    cut=st.none() | st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
)
def test_damage_is_always_explained(
    samples: dict[str, bytes], name: str, cut: float | None, changes: list[tuple[float, int]], tmp_path: Path
) -> None:
    content = bytearray(samples[name])
    if cut is not None:
        del content[int(cut * len(content)) :]
    for position, value in changes:
        if content:
            content[int(position * (len(content) - 1))] = value
    with contextlib.suppress(CatalogError):  # and nothing else
        read(write(tmp_path, bytes(content), "damaged"))


def test_relative_paths_start_from_the_catalogues_folder(tmp_path: Path) -> None:
    catalog = tmp_path / "c.csv"
    catalog.write_text("id,path\na,img/a.jpg\nb,/data/b.jpg\nc,s3://bucket/c.jpg\nd,\n")
    (rows,) = open_catalog(str(catalog), need_coordinates=False, need_path=True).slices()
    expected = [f"{tmp_path}/img/a.jpg", "/data/b.jpg", "s3://bucket/c.jpg", None]
    assert rows["path"].to_pylist() == expected
