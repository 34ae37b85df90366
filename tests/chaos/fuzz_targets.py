"""What is fuzzed: for each target valid files to start from, and what is done with one input."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from astropy.io import fits
from astropy.table import Table as AstropyTable
from hypothesis import strategies as st
from multidict import CIMultiDict
from PIL import Image
from yarl import URL

from galaxray.catalog import open_catalog
from galaxray.cutouts.quality import check_image
from galaxray.cutouts.replies import Reply, TryError, follow, image_of, retry_after_s_of, verdict_of
from galaxray.errors import RowError
from galaxray.images import View, decode
from galaxray.models.checkpoint import load_checkpoint
from galaxray.models.vae import VAE
from galaxray.models.weights import load_model, save_model
from galaxray.schema import Status
from tests.chaos.fuzzing import Target, mutants

MAX_PIXELS = 1_000_000
ROWS = 40

Prepared = tuple[st.SearchStrategy[bytes], Target]


def _table() -> AstropyTable:
    rng = np.random.default_rng(3)
    table = AstropyTable()
    table["object_id"] = np.array([f"J{i:05d}+{i:04d}" for i in range(ROWS)])
    table["ra"] = rng.uniform(0, 360, ROWS)
    table["ra"].unit = "deg"
    table["dec"] = rng.uniform(-90, 90, ROWS)
    table["dec"].unit = "deg"
    table["size_arcsec"] = rng.uniform(10, 90, ROWS).astype(np.float32)
    table["targetid"] = np.arange(ROWS) + 587727178986356823
    return table


def _written(format: str, **options: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        _table().write(path, format=format, **options)
        return path.read_bytes()


def _read_catalog(content: bytes) -> str:
    """Read a catalogue as a run does, and hold the reader to its contract."""
    with tempfile.NamedTemporaryFile(prefix="fuzz-") as file:
        file.write(content)
        file.flush()
        catalog = open_catalog(file.name)
        catalog.describe()
        rows = bad = 0
        for piece in catalog.slices(rows=64):
            assert piece["row_index"].to_pylist() == list(range(rows, rows + piece.num_rows))
            assert piece["object_id"].null_count == 0
            status = np.array(piece["status"].to_pylist())
            assert set(status) <= {Status.OK, Status.BAD_COORDINATES}
            ok = status == Status.OK
            assert [text is None for text in piece["error"].to_pylist()] == ok.tolist()
            ra, dec = piece["ra_deg"].to_numpy()[ok], piece["dec_deg"].to_numpy()[ok]
            assert ((ra >= 0) & (ra < 360) & (np.abs(dec) <= 90)).all()
            rows += piece.num_rows
            bad += int((~ok).sum())
        assert rows
    return "rows" if not bad else "rows, some bad"


def _catalog_of(*seeds: bytes, finish: Callable[[bytes], bytes] = lambda content: content) -> Prepared:
    return mutants(list(seeds)), lambda content: _read_catalog(finish(content))


def catalog_text() -> Prepared:
    comma = _written("ascii.csv")
    commented = b"# a survey\n# object_id,ra,dec\n" + b"\n".join(b"a%d,%d,%d" % (i, i, -i) for i in range(ROWS))
    sexagesimal = b"name;RA;Dec\n" + b"\n".join(b'"g %d";12:%02d:01.5;-01d%02dm01.5s' % (i, i, i) for i in range(ROWS))
    return _catalog_of(comma, comma.replace(b",", b"\t"), commented, sexagesimal, b"\xef\xbb\xbf" + comma)


def catalog_ecsv() -> Prepared:
    return _catalog_of(_written("ascii.ecsv"), _written("ascii.ecsv", delimiter=","))


def catalog_votable() -> Prepared:
    return _catalog_of(
        *(_written("votable", tabledata_format=name) for name in ("tabledata", "tabledata", "binary", "binary2"))
    )


def catalog_fits() -> Prepared:
    binary = _written("fits")
    ascii_file = io.BytesIO()
    columns = [
        fits.Column("id", "A8", array=np.array([f"g{i}" for i in range(ROWS)]), ascii=True),
        fits.Column("ra", "F10.5", array=np.arange(ROWS), ascii=True),
        fits.Column("dec", "E15.7", array=np.arange(ROWS), ascii=True),
    ]
    fits.TableHDU.from_columns(columns).writeto(ascii_file)
    return _catalog_of(binary, binary, ascii_file.getvalue())


def catalog_parquet() -> Prepared:
    table = pa.table({name: pa.array(np.asarray(column)) for name, column in _table().items()})
    nested = table.append_column("tags", pa.array([[{"a": [i]}] for i in range(ROWS)]))
    seeds = [_parquet(table, compression=name) for name in ("none", "snappy", "zstd", "gzip")]
    seeds.append(_parquet(nested, compression="lz4", use_dictionary=["object_id"], data_page_version="2.0"))
    seeds.append(_parquet(table, compression="none", row_group_size=7, use_dictionary=False))
    return _catalog_of(*seeds)


def _parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def catalog_compressed() -> Prepared:
    """Odd mutants are compressed after, even ones before they are changed."""
    plain = [_written("ascii.csv"), _written("fits"), _written("votable")]
    packed = [gzip.compress(plain[0], mtime=0), lzma.compress(plain[0]), gzip.compress(plain[1], mtime=0)]

    def finish(content: bytes) -> bytes:
        return content if content.startswith((b"\x1f\x8b", b"\xfd7z")) else gzip.compress(content, 1, mtime=0)

    return _catalog_of(*plain, *packed, finish=finish)


def catalog_rows() -> Prepared:
    """Tables of any text in any column, well formed: none of them may be refused for its rows' sake."""
    cell = st.one_of(
        st.text(max_size=12),
        st.floats().map(repr),
        st.sampled_from(
            ["", "--", "nan", "-9999", "12:30:00", "+1d2m3s", "../../etc/passwd", "=1+1", "\x00", "\x1b[2J"]
        ),
    )
    tables = st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=20)

    def encode(rows: list[tuple[str, str, str]]) -> bytes:
        text = json.dumps(rows)
        return text.encode()

    def read(content: bytes) -> str:
        rows = json.loads(content)
        text = [["".join(c for c in value if not 0xD800 <= ord(c) < 0xE000) for value in row] for row in rows]
        ids, ra, dec = (pa.array(column, pa.string()) for column in zip(*text, strict=True))
        table = pa.table({"object_id": ids, "ra": ra, "dec": dec})
        file = io.BytesIO()
        pq.write_table(table, file)
        return _read_catalog(file.getvalue())

    return tables.map(encode), read


def _galaxy(size: int = 48, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:size, :size]
    light = 200 * np.exp(-np.hypot(x - size / 2, y - size / 3) / 6)
    pixels = np.clip(light[..., None] * [1, 0.8, 0.6] + rng.normal(20, 6, (size, size, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def _encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    _galaxy(mode=mode).save(file, kind, **options)
    return file.getvalue()


def _decode_image(content: bytes) -> str:
    """Decode as the stage does, and draw what a model would see."""
    image = decode(content, MAX_PIXELS)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.shape[0] * image.shape[1] <= MAX_PIXELS
    View(32, 1.2).apply(image)
    return "image"


def _images_of(*seeds: bytes, finish: Callable[[bytes], bytes] = lambda content: content) -> Prepared:
    return mutants(list(seeds)), lambda content: _decode_image(finish(content))


def image_jpeg() -> Prepared:
    return _images_of(
        _encoded("JPEG"),
        _encoded("JPEG", progressive=True),
        _encoded("JPEG", mode="L"),
        _encoded("JPEG", mode="CMYK"),
        _encoded("JPEG", quality=95, subsampling=0, restart_marker_rows=1, exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08"),
    )


def image_png() -> Prepared:
    seeds = [_encoded("PNG", mode=mode) for mode in ("RGB", "RGBA", "P", "L", "I;16", "1")]
    return _images_of(*seeds, finish=_with_right_sums)


def _with_right_sums(content: bytes) -> bytes:
    """Mend the check sums of a PNG, or every change would end at them."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    mended, at = content[:8], 8
    while at + 12 <= len(content):
        length = struct.unpack_from(">I", content, at)[0]
        body = content[at + 4 : at + 8 + length]
        if at + 12 + length > len(content):
            break
        mended += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return mended + content[at:]


def image_others() -> Prepared:
    tiffs = [
        _encoded("TIFF", compression=name) for name in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
    ]
    tiffs.append(_encoded("TIFF", mode="F"))
    webps = [_encoded("WEBP"), _encoded("WEBP", lossless=True)]
    return _images_of(_encoded("GIF"), _encoded("BMP"), _encoded("BMP", mode="P"), *webps, *tiffs)


def image_fits() -> Prepared:
    rng = np.random.default_rng(7)
    cube = rng.normal(0.02, 0.01, (3, 24, 24)).astype(np.float32)
    hdus = [fits.PrimaryHDU(cube), fits.PrimaryHDU(cube[0]), fits.PrimaryHDU((cube[0] * 1000).astype(np.int16))]
    hdus[2].header["BZERO"], hdus[2].header["BSCALE"] = 10, 0.5
    plane = (cube[1] * 10_000).astype(np.int32)
    for name in ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1"):
        values = np.abs(plane) if name == "PLIO_1" else plane
        hdus.append(fits.CompImageHDU(values, compression_type=name, tile_shape=(12, 12)))
    seeds = []
    for hdu in hdus:
        file = io.BytesIO()
        hdu.writeto(file)
        seeds.append(file.getvalue())

    def finish(content: bytes) -> bytes:  # some packed, as survey services send them
        return gzip.compress(content, 1, mtime=0) if len(content) % 3 == 0 else content

    return _images_of(*seeds, finish=finish)


def image_check() -> Prepared:
    """The check before decoding: whatever it lets through is bounded by what it was told."""
    fits_file = io.BytesIO()
    fits.PrimaryHDU(np.zeros((3, 48, 48), np.float32) + 1).writeto(fits_file)
    seeds = [_encoded("JPEG"), _encoded("JPEG", progressive=True), _encoded("PNG"), fits_file.getvalue(), b"<html>429"]

    def check(content: bytes) -> str:
        passed, refused = [], []
        for expected in (None, "jpg", "fits"):
            try:
                found = check_image(content, max_pixels=MAX_PIXELS, expected=expected)
            except RowError as error:
                refused.append(error.status)
            else:
                assert found is None or 0 < found.width * found.height <= MAX_PIXELS
                passed.append(expected or "any")
        assert set(refused) <= {Status.CORRUPT, Status.BLANK}
        return f"passes as {' and '.join(passed) or 'nothing'}"

    return mutants(seeds), check


def http_reply() -> Prepared:
    """Headers and bodies of a service: a JSON object of headers, then the body."""
    body = _encoded("JPEG", quality=30)
    headers: list[dict[str, str]] = [
        {"Retry-After": "120", "Date": "Sat, 21 Nov 2026 10:00:00 GMT"},
        {"Retry-After": "Sat, 21 Nov 2026 10:02:00 GMT", "Date": "Sat, 21 Nov 2026 10:00:00 GMT"},
        {"Location": "https://elsewhere.example/viewer/jpeg-cutout?ra=1&dec=2"},
        {"Location": "//[::1]:80/../a", "Content-Encoding": "gzip"},
        {"Content-Encoding": "deflate"},
    ]
    bodies = [body, body, body, gzip.compress(body, mtime=0), zlib.compress(body)]
    seeds = [
        json.dumps(head).encode() + b"\n" + packed + bytes([code])
        for head, packed in zip(headers, bodies, strict=True)
        for code in (20, 50, 42)
    ]
    target = URL("https://service.example/cutout?ra=1")

    def read(content: bytes) -> str:
        text, _, packed = content.partition(b"\n")
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = {"Retry-After": text.decode("latin1"), "Location": text.decode("latin1")}
        if not isinstance(given, dict):
            given = {"Location": str(given)[:1000]}
        # A header holds no line ends: aiohttp's parser would have refused them.
        lines = {name: " ".join(str(value).splitlines()) for name, value in given.items()}
        reply = Reply(10 * (packed[-1:] or b"\x14")[0], "reason", CIMultiDict(lines), packed[:-1])
        verdict_of(reply.code)
        wait_s = retry_after_s_of(reply.headers)
        assert wait_s is None or wait_s >= 0
        try:
            following = follow(target, reply.headers.get("Location", ""))
        except TryError:
            pass
        else:
            assert (following.scheme, following.host) == ("https", "service.example")
        image = image_of(reply, max_bytes=100_000)
        assert len(image) <= 100_000
        return "body"

    return mutants(seeds), read


def weights() -> Prepared:
    """Our two files in one input: the card, a line end, the tensors. The digest is mended after the change."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(Path(folder) / "model", VAE(latent_dim=3, size=16, channels=2, max_channels=4), {"view": {}})
        card, tensors = json.loads(path.with_suffix(".json").read_text()), path.read_bytes()
    seeds = [
        json.dumps(card).encode() + b"\n" + tensors,
        json.dumps({**card, "architecture": {}}).encode() + b"\n" + tensors,
    ]

    def load(content: bytes) -> str:
        text, _, tensors = content.partition(b"\n")
        found = hashlib.sha256(tensors).hexdigest()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            path.write_bytes(tensors)
            path.with_suffix(".json").write_bytes(text.replace(card["sha256"].encode(), found.encode()))
            load_model(path, "vae")
        return "model"

    return mutants(seeds), load


def checkpoint() -> Prepared:
    """The pickle in a Zoobot checkpoint; the zip around it is made anew."""
    file = io.BytesIO()
    hparams = {"name": "resnet18", "num_classes": 2, "timm_kwargs": {}, "label_col": "label"}
    state = {"encoder.conv1.weight": torch.zeros(4, 3, 3, 3), "head.linear.weight": torch.zeros(2, 4)}
    torch.save({"state_dict": state, "hyper_parameters": hparams}, file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))

    def load(content: bytes) -> str:
        with tempfile.NamedTemporaryFile(suffix=".ckpt") as target:
            with zipfile.ZipFile(target, "w") as archive:
                for name, member in members.items():
                    archive.writestr(name, content if name == pickled else member)
            target.flush()
            load_checkpoint(Path(target.name))
        return "model"

    return mutants([members[pickled]]), load


TARGETS: dict[str, Callable[[], Prepared]] = {
    function.__name__: function
    for function in (
        catalog_text,
        catalog_ecsv,
        catalog_votable,
        catalog_fits,
        catalog_parquet,
        catalog_compressed,
        catalog_rows,
        image_jpeg,
        image_png,
        image_others,
        image_fits,
        image_check,
        http_reply,
        weights,
        checkpoint,
    )
}
