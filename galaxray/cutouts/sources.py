"""Where the pixels come from: the services that cut images out of surveys, and files.

A source only says which address holds the image of a row; reading it is the business of :mod:`.http` and
:mod:`.files`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from galaxray.config import CutoutConfig
from galaxray.cutouts.files import FileSource
from galaxray.errors import ConfigError, RowError
from galaxray.schema import Status

__all__ = ["CutoutSource", "HipsSource", "LegacySurveySource", "SdssSource", "make_source"]


class CutoutSource(Protocol):
    """Where the image of a row is."""

    @property
    def base_url(self) -> str | None:
        """The service: the only one that is asked. None for files."""

    @property
    def required_columns(self) -> frozenset[str]:
        """Columns that a batch must have."""

    def locate(self, row: Mapping[str, Any], pixel_scale_arcsec: float) -> str:
        """Address of the image of one row.

        Parameters
        ----------
        row : mapping
            The catalogue's columns of one row: ``object_id``, ``ra_deg``, ``dec_deg``, ...
        pixel_scale_arcsec : float
            Pixel scale to ask for, in arcsec.

        Raises
        ------
        RowError
            If there can be no image for this row.
        """


class _Service:
    """What the services have in common: square cutouts around a position, asked for by GET."""

    name = ""
    default_base_url = ""
    path = ""
    formats: tuple[str, ...] = ("jpg",)
    min_size_pixels = 1
    max_size_pixels = 1_000_000
    required_columns = frozenset({"ra_deg", "dec_deg"})

    def __init__(self, config: CutoutConfig) -> None:
        if config.format not in self.formats:
            raise ConfigError(f"cutouts.format {config.format}: source {self.name} gives {' or '.join(self.formats)}")
        if not self.min_size_pixels <= config.size_pixels <= self.max_size_pixels:
            raise ConfigError(
                f"cutouts.size_pixels {config.size_pixels}: source {self.name} gives {self.min_size_pixels} to "
                f"{self.max_size_pixels} pixels, and silently another size for any other number"
            )
        self.base_url = _checked_base_url(config.base_url or self.default_base_url)
        self._config = config
        self._size_pixels = config.size_pixels
        self._endpoint = f"{self.base_url}{self.path}"

    def locate(self, row: Mapping[str, Any], pixel_scale_arcsec: float) -> str:
        """Address of the image of one row; see `CutoutSource.locate`."""
        ra_deg, dec_deg = row["ra_deg"], row["dec_deg"]
        if not (isfinite(ra_deg) and abs(dec_deg) <= 90):
            raise RowError(Status.BAD_COORDINATES, f"no position on the sky: ra {ra_deg}, dec {dec_deg}")
        # Fixed decimals (36 micro-arcsec): no exponents, which not every service reads, and the same address each time.
        return f"{self._endpoint}?ra={ra_deg:.8f}&dec={dec_deg:.8f}&{self._options(pixel_scale_arcsec)}"

    def _options(self, pixel_scale_arcsec: float) -> str:
        raise NotImplementedError


class LegacySurveySource(_Service):
    """The Legacy Survey viewer (legacysurvey.org/viewer), or any service with its addresses.

    The viewer clamps the size to 3,000 pixels without a word (``maxsize`` in its ``map/views.py``), so larger ones are
    refused. Outside of a layer's footprint it answers with a blank picture or, at some versions, 500.
    """

    name = "legacysurvey"
    default_base_url = "https://www.legacysurvey.org"
    formats = ("jpg", "fits")
    max_size_pixels = 3000

    def __init__(self, config: CutoutConfig) -> None:
        self.path = f"/viewer/{'jpeg' if config.format == 'jpg' else 'fits'}-cutout"
        super().__init__(config)
        bands = "" if config.format == "jpg" else f"&bands={quote(config.bands, safe='')}"
        self._fixed = f"size={config.size_pixels}&layer={quote(config.layer, safe='')}{bands}"

    def _options(self, pixel_scale_arcsec: float) -> str:
        return f"pixscale={pixel_scale_arcsec:.6g}&{self._fixed}"


class SdssSource(_Service):
    """SDSS SkyServer's image cutout service (skyserver.sdss.org, DR18).

    It clamps the size to 64..2,048 pixels. Outside of the footprint it answers 404, or 200 with a black picture that
    bears the words "outside the SDSS footprint": nine tenths of its pixels are exactly 0, which decoding calls blank.
    """

    name = "sdss"
    default_base_url = "https://skyserver.sdss.org/dr18"
    path = "/SkyServerWS/ImgCutout/getjpeg"
    min_size_pixels = 64
    max_size_pixels = 2048

    def _options(self, pixel_scale_arcsec: float) -> str:
        return f"scale={pixel_scale_arcsec:.6g}&width={self._size_pixels}&height={self._size_pixels}"


class HipsSource(_Service):
    """hips2fits of the CDS in Strasbourg: any HiPS, in tangential projection, north up."""

    name = "hips"
    default_base_url = "https://alasky.cds.unistra.fr"
    path = "/hips-image-services/hips2fits"

    def __init__(self, config: CutoutConfig) -> None:
        super().__init__(config)
        self._fixed = (
            f"width={config.size_pixels}&height={config.size_pixels}&projection=TAN&format=jpg"
            f"&hips={quote(config.hips, safe='')}"
        )

    def _options(self, pixel_scale_arcsec: float) -> str:
        return f"fov={pixel_scale_arcsec * self._size_pixels / 3600:.8f}&{self._fixed}"


SOURCES: dict[str, Callable[[CutoutConfig], CutoutSource]] = {
    "legacysurvey": LegacySurveySource,
    "sdss": SdssSource,
    "hips": HipsSource,
    "files": FileSource,
}


def make_source(config: CutoutConfig) -> CutoutSource:
    """Make the source that the configuration names.

    Raises
    ------
    ConfigError
        If the source cannot give what is asked for.
    """
    return SOURCES[config.source](config)


def _checked_base_url(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        is_good = re.fullmatch(r"https?://[!-~]+", base_url) and parts.hostname and parts.port != 0
    except ValueError:  # no such port, or a bracket too many
        is_good = False
    if not is_good:
        raise ConfigError(
            f"cutouts.base_url {base_url!r}: write http://HOST or https://HOST, with its path if it has one"
        )
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"cutouts.base_url of host {parts.hostname}: leave out user, query and fragment")
    return base_url.rstrip("/")
