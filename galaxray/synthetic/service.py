"""The synthetic sky over HTTP, in the shape of the Legacy Surveys viewer's cutout service.

::

    GET /viewer/jpeg-cutout?ra=..&dec=..[&size=256|&width=..&height=..][&pixscale=0.262][&layer=ls-dr10]
    GET /viewer/fits-cutout?ra=..&dec=..[...][&bands=grz]
    GET /viewer/cutout.jpg, /viewer/cutout.fits        the same
    GET /                                              what this is

North of declination +84 nothing was observed: there a JPEG is black and a FITS image zero, as in the viewer.
"""

from __future__ import annotations

import asyncio
import io
import math
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from aiohttp import web
from astropy.io import fits
from PIL import Image

from galaxray.synthetic.render import cutout, image
from galaxray.synthetic.survey import BANDS, NATIVE_PIXEL_ARCSEC, Survey

__all__ = ["LAYERS", "CutoutRequest", "create_application", "encode_fits", "encode_jpeg", "serve"]

LAYERS: Mapping[str, Survey] = {layer: Survey() for layer in ("ls-dr8", "ls-dr9", "ls-dr10", "ls-dr10-grz")}
"""Layers that are served, unless others are given."""

MAX_SIZE = 3000
"""Larger cutouts are cut to this many pixels, as the viewer does."""
_PIXEL_SCALES_ARCSEC = (0.03, 8.0)
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class CutoutRequest:
    """What a query asks for, checked."""

    ra_deg: float
    dec_deg: float
    width: int
    height: int
    pixel_scale_arcsec: float
    bands: str
    survey: Survey

    @classmethod
    def parse(cls, query: Mapping[str, str], layers: Mapping[str, Survey]) -> CutoutRequest:
        """Read a query string.

        Raises
        ------
        ValueError
            If ``ra`` or ``dec`` is missing, or a value makes no sense.
        """
        layer, bands = query.get("layer", next(iter(layers))), query.get("bands", BANDS)
        if layer not in layers:
            raise ValueError(f"no layer {layer!r}; there are {', '.join(layers)}")
        if not bands or set(bands) - set(BANDS):
            raise ValueError(f"bands are {bands!r}, but there are only {BANDS}")
        dec_deg = _number(query, "dec")
        if abs(dec_deg) > 90:
            raise ValueError(f"dec is {dec_deg}")
        size = query.get("size", "256")
        width, height = (int(query.get(side, size)) for side in ("width", "height"))
        if min(width, height) < 1:
            raise ValueError(f"size is {width} x {height}")
        scale = _number(query, "pixscale", str(NATIVE_PIXEL_ARCSEC))
        return cls(
            ra_deg=_number(query, "ra") % 360,
            dec_deg=dec_deg,
            width=min(width, MAX_SIZE),
            height=min(height, MAX_SIZE),
            pixel_scale_arcsec=min(max(scale, _PIXEL_SCALES_ARCSEC[0]), _PIXEL_SCALES_ARCSEC[1]),
            bands=bands,
            survey=layers[layer],
        )


def _number(query: Mapping[str, str], name: str, default: str | None = None) -> float:
    text = query.get(name, default)
    if text is None:
        raise ValueError(f"{name} is missing")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{name} is {text}")
    return value


def encode_jpeg(request: CutoutRequest) -> bytes:
    """Draw a cutout as a JPEG: north up, east left."""
    size = (request.width, request.height)
    picture = image(request.ra_deg, request.dec_deg, size, request.pixel_scale_arcsec, request.survey)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def encode_fits(request: CutoutRequest) -> bytes:
    """Write a cutout as the viewer does: float32, band axis first, row 0 in the south, TAN coordinates."""
    size = (request.width, request.height)
    flux = cutout(
        request.ra_deg, request.dec_deg, size, request.pixel_scale_arcsec, request.bands, survey=request.survey
    )
    degrees = request.pixel_scale_arcsec / 3600
    header = fits.Header()
    header["SURVEY"], header["VERSION"], header["IMAGETYP"] = "SYNTHETIC", "galaxray", "image"
    header["BANDS"] = request.bands
    for number, band in enumerate(request.bands):
        header[f"BAND{number}"] = band
    header["CTYPE1"], header["CTYPE2"] = ("RA---TAN", "TANgent plane"), ("DEC--TAN", "TANgent plane")
    header["CRVAL1"], header["CRVAL2"] = (request.ra_deg, "Reference RA"), (request.dec_deg, "Reference Dec")
    header["CRPIX1"] = ((request.width + 1) / 2, "Reference x")
    header["CRPIX2"] = ((request.height + 1) / 2, "Reference y")
    header["CD1_1"], header["CD1_2"], header["CD2_1"], header["CD2_2"] = -degrees, 0.0, 0.0, degrees
    header["IMAGEW"], header["IMAGEH"] = float(request.width), float(request.height)
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.ascontiguousarray(flux[:, ::-1]), header).writeto(buffer)
    return buffer.getvalue()


def create_application(layers: Mapping[str, Survey] = LAYERS, num_threads: int = 2) -> web.Application:
    """Make the aiohttp application.

    Parameters
    ----------
    layers : mapping
        Name of each layer and the survey behind it; the first is the default.
    num_threads : int
        Threads that draw, so that the event loop stays free.
    """
    application = web.Application()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="draw")

    def handler(
        encode: Callable[[CutoutRequest], bytes], content_type: str
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def reply(request: web.Request) -> web.Response:
            try:
                wanted = CutoutRequest.parse(request.query, layers)
            except ValueError as error:
                raise web.HTTPBadRequest(text=f"{error}\n") from None
            body = await asyncio.get_running_loop().run_in_executor(pool, encode, wanted)
            return web.Response(body=body, content_type=content_type)

        return reply

    async def describe(request: web.Request) -> web.Response:
        return web.Response(text=__doc__ or "")

    async def close(application: web.Application) -> None:
        pool.shutdown(wait=False, cancel_futures=True)

    jpeg, fits_cube = handler(encode_jpeg, "image/jpeg"), handler(encode_fits, "image/fits")
    application.add_routes(
        [
            web.get("/", describe),
            web.get("/viewer/jpeg-cutout", jpeg),
            web.get("/viewer/cutout.jpg", jpeg),
            web.get("/viewer/fits-cutout", fits_cube),
            web.get("/viewer/cutout.fits", fits_cube),
        ]
    )
    application.on_cleanup.append(close)
    return application


async def serve(host: str, port: int, num_threads: int, parent: TextIO | None = None) -> None:
    """Serve until cancelled, or until ``parent`` (the standard input of whoever started this) is closed.

    Prints the address once it can be asked; port 0 takes a free one.
    """
    runner = web.AppRunner(create_application(num_threads=num_threads), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    orphaned = asyncio.Event()
    if parent is not None:
        loop = asyncio.get_running_loop()
        stream = parent

        def wait() -> None:
            stream.read()
            loop.call_soon_threadsafe(orphaned.set)

        threading.Thread(target=wait, daemon=True).start()
    try:
        await orphaned.wait()
    finally:
        await runner.cleanup()
