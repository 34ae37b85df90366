"""The configuration of a run: frozen, typed, and closed (an unknown key is an error).

Every field is a flag of ``pipelines/annotate_catalog.py`` (dotted: ``--cutouts.layer ls-dr9``) and a key of a
TOML recipe (``[cutouts] layer = "ls-dr9"``). Units stand in the names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "STAGES",
    "CatalogConfig",
    "ClassifierConfig",
    "ComputeConfig",
    "CutoutConfig",
    "EmbedderConfig",
    "RunConfig",
    "SegmenterConfig",
    "StageName",
]

StageName = Literal["fetch", "classify", "embed", "segment"]
STAGES: tuple[StageName, ...] = ("fetch", "classify", "embed", "segment")


def _in_order(stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
    """Stages in the order in which they run, however they were given; images are fetched for any of them."""
    if len(set(stages)) < len(stages):
        raise ValueError("a stage is named twice")
    return tuple(stage for stage in STAGES if stage in stages or stage == "fetch")


Stages = Annotated[tuple[StageName, ...], AfterValidator(_in_order)]
Address = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(gt=0)]
Rate = Annotated[Positive | None, BeforeValidator(lambda value: None if value == "none" else value)]


class Section(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CatalogConfig(Section):
    """How to read the catalogue. What is left out is found by common names and UCDs."""

    format: Literal["auto", "csv", "tsv", "ecsv", "parquet", "fits", "votable"] = "auto"
    """File format; ``auto`` goes by the content."""
    id_column: str | None = None
    """Column with the object's identifier."""
    ra_column: str | None = None
    """Column with the right ascension (ICRS)."""
    dec_column: str | None = None
    """Column with the declination (ICRS)."""
    path_column: str | None = None
    """Column with the path or URI of the image (source ``files``)."""
    pixel_scale_column: str | None = None
    """Column with the pixel scale of each row's cutout, in arcsec."""
    size_column: str | None = None
    """Column with the width of each row's cutout on the sky, in arcsec."""
    angle_unit: Literal["auto", "deg", "rad", "hourangle"] = "auto"
    """Unit of the coordinates (with ``hourangle`` declination is in degrees); ``auto`` goes by unit and content."""
    hdu: int | str | None = None
    """FITS extension with the table; the first table otherwise."""


class CutoutConfig(Section):
    """Where the pixels come from, and how politely they are asked for."""

    source: Literal["legacysurvey", "sdss", "hips", "files"] = "legacysurvey"
    """``legacysurvey`` viewer, ``sdss`` SkyServer, ``hips`` (CDS hips2fits) or ``files``."""
    base_url: str | None = None
    """Address of the service, where it is not the public one."""
    layer: str = "ls-dr10"
    """Legacy Survey layer."""
    bands: str = "grz"
    """Bands of a Legacy Survey FITS cutout."""
    hips: str = "CDS/P/DESI-Legacy-Surveys/DR10/color"
    """HiPS identifier of source ``hips``."""
    format: Literal["jpg", "fits"] = "jpg"
    """What to ask a service for; a FITS cutout is drawn with the survey's published RGB stretch."""
    size_pixels: PositiveInt = 256
    """Width and height of a cutout."""
    pixel_scale_arcsec: Positive | None = None
    """Pixel scale, unless the catalogue has one per row; where left out, a service is asked for 0.262, and files have
    none."""
    fov_arcsec: Positive | None = None
    """Width on the sky; with it the pixel scale is ``fov_arcsec / size_pixels``."""
    path_template: str | None = None
    """Path of each image for source ``files``, e.g. ``images/{object_id}.jpg`` or ``s3://b/{object_id:.4}/{object_id}.png``."""
    requests_per_s: Rate = 10.0
    """Requests per second to a service, all workers together; ``none`` lifts the limit, for a service of your own."""
    max_in_flight: PositiveInt = 16
    """Requests in flight to a service, all workers together."""
    timeout_s: Positive = 30.0
    """Longest wait for one answer."""
    max_attempts: PositiveInt = 5
    """Tries per row before it is ``throttled`` or ``unreachable``."""
    backoff_s: Positive = 0.5
    """First wait before another try; doubles, with full jitter, up to ``max_backoff_s``."""
    max_backoff_s: Positive = 60.0
    """Longest wait before another try, where the service does not ask for another (Retry-After)."""
    max_bytes: PositiveInt = 64 * 2**20
    """Largest answer that is read."""
    max_pixels: PositiveInt = 64_000_000
    """Largest image that is decoded."""
    keep: bool = False
    """Keep each image in the table, as it came: binary column ``image``."""
    cache: str | None = None
    """Folder where answers are kept, by content and by request."""
    contact: str | None = None
    """Your e-mail or page, added to the User-Agent so that a service can reach you."""


class ClassifierConfig(Section):
    """The classifier: a decision tree, classes, or regression."""

    weights: tuple[str, ...] = ("builtin:classifier",)
    """Model file (Zoobot ``.ckpt``, or ours), ``builtin:NAME`` or ``hf_hub:OWNER/NAME``; several make an ensemble."""
    passes: PositiveInt = 1
    """Monte Carlo dropout passes per model."""
    orientations: Literal[1, 2, 4, 8] = 1
    """Look at each image in so many orientations (as it is, mirrored, turned), as a galaxy has no up and down, and take
    them all for equally likely: 8 are a little better than one, and take eight times as long."""
    tree: str | None = None
    """Decision tree, where the model file does not name it; e.g. ``gz_decals_5``."""
    tree_version: Literal["published", "corrected"] = "published"
    """Which answers lead to a question, for the proportion asked: as Zoobot codes it, or as volunteers met it."""
    arch: str | None = None
    """timm architecture of a Zoobot checkpoint that neither names it nor is one of Zoobot's model zoo."""
    labels: tuple[str, ...] | None = None
    """Names of the classes or regression targets, where the model file does not hold them, or holds others."""
    view_size: PositiveInt | None = None
    """Width and height in pixels of what the model sees, where it was trained with others than its file or Zoobot's."""
    view_zoom: Annotated[float | None, Field(ge=1)] = None
    """Enlargement before that, a ratio of small whole numbers; Zoobot's is 1.2."""
    seed: int = 0
    """Seed of the dropout passes."""


class EmbedderConfig(Section):
    """The variational autoencoder."""

    weights: str = "builtin:vae"
    """Model file or ``builtin:NAME``."""


class SegmenterConfig(Section):
    """The UNet for spiral-arm and bar masks."""

    weights: str = "builtin:segmenter"
    """Model file or ``builtin:NAME``."""
    where: Literal["face-on-featured", "all"] = "face-on-featured"
    """Which galaxies are segmented; the default asks the classifier for a featured disk that is not edge-on."""
    min_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least vote fraction for featured-or-disk and for not edge-on."""


class ComputeConfig(Section):
    """What runs where."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes GPUs if the cluster has any."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the models. ``auto`` is ``bf16`` where the hardware has it (faster; moves the vote fractions of the
    built-in classifier by 0.0007 in the mean), otherwise ``fp32``."""
    batch_size: PositiveInt | None = None
    """Images per forward pass; by device where left out."""
    num_cpus: PositiveInt | None = None
    """Logical CPUs of a local Ray; all cores where left out."""
    max_cpus: PositiveInt | None = None
    """CPUs to plan for; where left out, what the cluster has, or what its autoscaler may add where that is known."""
    max_gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs to plan for; where left out, what the cluster has, or what its autoscaler may add where that is known."""
    fetchers: PositiveInt | None = None
    """Actors that fetch, at most ``cutouts.max_in_flight``; where left out, up to one per node that the cluster may
    have, and for a service no more than one per 100 ``cutouts.requests_per_s``."""
    actors: Literal["shared", "separate"] = "shared"
    """Whether the models share one actor (``shared``) or have one each."""
    gpus_per_actor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of a GPU for each model actor."""
    rows_per_unit: PositiveInt | None = None
    """Rows per work unit, the grain of resuming and of output files; by the catalogue's size where left out."""
    stall_timeout_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    """A run without progress for this long ends with an error that names the stage; where left out, 600 s or what a bad
    service may take for a work unit, whichever is longer."""


class RunConfig(Section):
    """Everything that decides what a run does."""

    catalog: Address
    """Catalogue: CSV, TSV, ECSV, Parquet (file or folder), FITS table or VOTable; a path, ``s3://`` or ``https://``."""
    output: Address
    """Run folder: a path or ``s3://``."""
    stages: Stages = STAGES
    """What to do, comma separated: fetch,classify,embed,segment."""
    limit: PositiveInt | None = None
    """Only the first rows of the catalogue."""
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Exit with status 3 if a larger share of the rows failed; 1.0, the default, lets any number of rows fail."""
    columns: CatalogConfig = CatalogConfig()
    cutouts: CutoutConfig = CutoutConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    segmenter: SegmenterConfig = SegmenterConfig()
    compute: ComputeConfig = ComputeConfig()
