"""Catalogues made to hang, to fill the memory, to read other files or to command a terminal: refused, in one line."""

from __future__ import annotations

import gzip
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galaxray.catalog import open_catalog
from galaxray.errors import CatalogError

pytestmark = pytest.mark.timeout(60)

MIB = 2**20
VOTABLE = (
    '<VOTABLE version="1.3"><RESOURCE><TABLE{0}><FIELD name="id" datatype="char" arraysize="*"/>'
    '<FIELD name="ra" datatype="double"/><FIELD name="dec" datatype="double"{1}/>'
)
ROWS = "<DATA><TABLEDATA><TR><TD>{}</TD><TD>1</TD><TD>2</TD></TR></TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"


def read(path: Path, content: bytes) -> list[str]:
    """Identifiers of a catalogue, read to its end."""
    path.write_bytes(content)
    return [name for piece in open_catalog(str(path)).slices() for name in piece["object_id"].to_pylist()]


def assert_refused(path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(CatalogError, match=reason) as caught:
        read(path, content)
    assert str(caught.value).isprintable()


def cards(*lines: str) -> bytes:
    """A FITS header."""
    text = "".join(line.ljust(80) for line in (*lines, "END"))
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


def card(key: str, value: object) -> str:
    return f"{key:8s}= {value!s:>20}"


PRIMARY = (card("SIMPLE", "T"), card("BITPIX", 8))


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((card("NAXIS", 1), card("NAXIS1", -2880)), "negative length"),
        ((card("NAXIS", 1), card("NAXIS1", 8), card("PCOUNT", -2888)), "negative length"),
        ((card("NAXIS", 10**15),), "axes"),
        ((card("NAXIS", -1),), "axes"),
    ],
)
def test_fits_that_leads_in_circles(
    tmp_path: Path, header: tuple[str, ...], reason: str, pack: Callable[[bytes], bytes]
) -> None:
    assert_refused(tmp_path / "c.fits", pack(cards(*PRIMARY, *header) * 2), reason)


def test_fits_header_without_end(tmp_path: Path) -> None:
    head = cards(*PRIMARY, card("NAXIS", 0))[:240]
    assert_refused(
        tmp_path / "c.fits.gz", gzip.compress(head + b"COMMENT x".ljust(80) * (MIB // 10)), "a header of more"
    )


def test_fits_row_larger_than_the_memory(tmp_path: Path) -> None:
    width = 100 * MIB
    table = cards(
        "XTENSION= 'BINTABLE'",
        *(card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", width), card("NAXIS2", 3), card("PCOUNT", 0)),
        *(card("GCOUNT", 1), card("TFIELDS", 3), "TTYPE1  = 'ra'", "TFORM1  = 'D'", "TTYPE2  = 'dec'", "TFORM2  = 'D'"),
        *("TTYPE3  = 'x'", f"TFORM3  = '{width - 16}A'"),
    )
    content = cards(*PRIMARY, card("NAXIS", 0)) + table + bytes(width)
    assert_refused(tmp_path / "c.fits.gz", gzip.compress(content, 1), "are no catalogue")


def test_entities_that_multiply(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    head = f'<?xml version="1.0"?><!DOCTYPE VOTABLE [<!ENTITY e0 "spam">{entities}]>'
    content = head + VOTABLE.format("", "") + ROWS.format("&e9;")
    assert_refused(tmp_path / "c.xml", content.encode(), "limit on input amplification")


def test_external_entities_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("s3cret")
    head = f'<?xml version="1.0"?><!DOCTYPE VOTABLE [<!ENTITY other SYSTEM "{secret.as_uri()}">]>'
    found = read(tmp_path / "c.xml", (head + VOTABLE.format("", "") + ROWS.format("&other;")).encode())
    assert found == ["row-0"]


@pytest.mark.parametrize("encoding", ["BINARY", "BINARY2", "FITS"])
def test_a_votable_opens_no_other_file(tmp_path: Path, encoding: str) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(20) * 4)
    stream = f'<DATA><{encoding}><STREAM href="{other.as_uri()}"/></{encoding}></DATA></TABLE></RESOURCE></VOTABLE>'
    assert_refused(tmp_path / "c.xml", (VOTABLE.format("", "") + stream).encode(), "another file")


@pytest.mark.parametrize(
    ("table", "field"), [(' nrows="99999999999"', ""), ("", ' arraysize="99999x99999"'), (' nrows="x"', "")]
)
def test_a_votable_reserves_no_memory_for_what_it_promises(tmp_path: Path, table: str, field: str) -> None:
    stream = '<DATA><BINARY><STREAM encoding="base64">AAAA</STREAM></BINARY></DATA></TABLE></RESOURCE></VOTABLE>'
    assert_refused(tmp_path / "c.xml", (VOTABLE.format(table, field) + stream).encode(), "too many|invalid literal")


@pytest.mark.parametrize(
    ("start", "endless"),
    [
        ('<VOTABLE version="1.3"><RESOURCE><TABLE>', '<FIELD name="a" datatype="int"/>'),
        (VOTABLE.format("", "") + "<DATA><TABLEDATA><TR><TD>", "12345678"),
        (VOTABLE.format("", "") + "<DATA><TABLEDATA><TR>", "<TD>1</TD>"),
    ],
    ids=["header", "cell", "row"],
)
def test_a_votable_without_end(tmp_path: Path, start: str, endless: str) -> None:
    content = start.encode() + endless.encode() * (20 * MIB // len(endless))
    assert_refused(tmp_path / "c.xml.gz", gzip.compress(content, 1), "without an end")


def test_a_votable_of_several_tables_may_be_long(tmp_path: Path) -> None:
    """What follows the first table is passed over, however much it is."""
    more = "<RESOURCE>" + "<INFO name='x' value='y'/>" * (20 * MIB // 26) + "</RESOURCE></VOTABLE>"
    content = VOTABLE.format("", "") + ROWS.format("a").removesuffix("</VOTABLE>") + more
    assert read(tmp_path / "c.xml.gz", gzip.compress(content.encode(), 1)) == ["a"]


def ecsv(header: str) -> bytes:
    return f"# %ECSV 1.0\n# ---\n{header}ra dec\n1 2\n".encode()


LAUGHS = "# x0: &x0 [lol]\n" + "".join(f"# x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (LAUGHS + "# datatype:\n# - {name: ra, unit: *x11}\n# - {name: dec}\n", "header cannot be read"),
        ("# datatype:\n# - {name: ra, unit: {unit: [deg]}}\n# - {name: dec}\n", "no text"),
        ("# datatype: " + "[" * 5000 + "\n", "header cannot be read"),
        ("# datatype:\n# - {name: ra, unit: '10**9999999999 deg'}\n# - {name: dec}\n", "no angle"),
        ("# datatype:\n# - {name: ra, unit: !astropy.units.Unit {unit: 10**9999999999}}\n", "no angle"),
        ("# datatype:\n# - {name: ra, unit: '" + "m " * 5000 + "'}\n# - {name: dec}\n", "no angle"),
        ("# delimiter: abc\n# datatype:\n# - {name: ra}\n# - {name: dec}\n", "delimiter"),
        ("# delimiter: &a [*a]\n# datatype:\n# - {name: ra}\n# - {name: dec}\n", "delimiter"),
    ],
    ids=["references", "list", "depth", "power", "tagged", "length", "delimiter", "delimiters"],
)
def test_headers_of_ecsv(tmp_path: Path, header: str, reason: str) -> None:
    assert_refused(tmp_path / "c.ecsv", ecsv(header), reason)


def test_tags_of_an_ecsv_header_make_nothing(tmp_path: Path) -> None:
    """Units of astropy come through; what would be a call is a text like any other."""
    trace = tmp_path / "trace"
    call = f"!!python/object/apply:pathlib.Path.touch [{trace}]"
    header = (
        f"# meta: {call}\n# datatype:\n# - {{name: ra, unit: !astropy.units.Unit {{unit: rad}}}}\n# - {{name: dec}}\n"
    )
    (tmp_path / "c.ecsv").write_bytes(ecsv(header))
    rows = next(open_catalog(str(tmp_path / "c.ecsv")).slices())
    assert rows["ra_deg"][0].as_py() == pytest.approx(np.rad2deg(1))
    assert not trace.exists()


def parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()], ids=str)
def test_parquet_with_one_long_text_in_every_row(tmp_path: Path, kind: pa.DataType) -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, np.int32)), pa.array(["x" * 10**6], kind))
    content = parquet(pa.table({"id": ids, "ra": np.ones(50_000), "dec": np.ones(50_000)}))
    assert len(content) < 10**6  # and 50 GB when unpacked
    assert_refused(tmp_path / "c.parquet", content, "holds a text of 1000000 bytes")


def test_text_of_a_dictionary_is_read_as_it_stands(tmp_path: Path) -> None:
    ids = pa.array(["a", None, "x" * 4096, "a"]).dictionary_encode()
    content = parquet(pa.table({"id": ids, "ra": ["1", "1:2:3", "1", "x"], "dec": np.ones(4)}))
    assert read(tmp_path / "c.parquet", content) == ["a", "row-1", "x" * 4096, "a"]


def test_names_and_values_do_not_command_the_terminal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.csv"
    assert_refused(path, b"id,r\x1b[2Ja,d\x07ec\n1,2,3\n", r"columns found: id, r\\x1b\[2Ja")
    path.write_bytes("id,ra,d\x07ec,size_arcsec\n\x1b]0;owned\x07\x9b,1,\x1b[31m,\x1b[1m\n".encode())
    catalog = open_catalog(str(path))
    assert all(line.isprintable() for line in catalog.describe().splitlines())
    with caplog.at_level(logging.WARNING):
        errors = [text for piece in catalog.slices() for text in piece["error"].to_pylist()]
    assert errors[0].isprintable()
    assert all(record.getMessage().isprintable() for record in caplog.records)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("TUNIT2", "\x00deg", "Unparsable card"),
        ("TUNIT2", "5", None),
        ("TTYPE2", "5", "no column for right ascension"),
        ("TZERO4", "1E999", "scaled by"),
        ("TZERO4", "-9" + "9" * 18, "scaled by"),
        ("TSCAL4", "'one'", "must be real number"),
        ("TNULL4", "'none'", None),
        ("NAXIS2", "1E999", "cannot convert float infinity"),
        ("EXTNAME", "5", None),
    ],
)
def test_cards_of_the_wrong_kind(tmp_path: Path, key: str, value: str, reason: str | None) -> None:
    columns = ["'id      '", "'ra      '", "'dec     '", "'n       '"]
    about = {"TZERO4": "0", "TSCAL4": "1", "TNULL4": "0", "TUNIT2": "'deg'", "EXTNAME": "'t'", "NAXIS2": "2"}
    about |= {f"TTYPE{n}": name for n, name in enumerate(columns, 1)} | {"TFORM1": "'4A'", "TFORM4": "'J'"}
    about |= {"TFORM2": "'D'", "TFORM3": "'D'"} | {key: value}
    shape = (card("BITPIX", 8), card("NAXIS", 2), card("NAXIS1", 24), card("PCOUNT", 0), card("GCOUNT", 1))
    header = cards("XTENSION= 'BINTABLE'", *shape, card("TFIELDS", 4), *(card(*item) for item in about.items()))
    row = b"a   " + np.array([1.0, 2.0], ">f8").tobytes() + bytes(4)
    content = cards(*PRIMARY, card("NAXIS", 0)) + header + (row * 2).ljust(2880, b"\0")
    if reason is None:
        assert read(tmp_path / "c.fits", content) == ["a", "a"]
    else:
        assert_refused(tmp_path / "c.fits", content, reason)
