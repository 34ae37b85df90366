"""Settings of ``pipelines/fetch_cutouts.py``."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from galaxray.config import Address, CatalogConfig, ComputeConfig, CutoutConfig, PositiveInt, RunConfig, Section
from galaxray.log import LogFormat
from galaxray.settings import ProgramSettings, clean_help

__all__ = ["FetchSettings", "SplitConfig"]

NO_LABELS = ("none",)


class SplitConfig(Section):
    """Which galaxies train, validate and test: a hash of the identifier decides."""

    val: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fraction of the galaxies to validate on."""
    test: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Fraction of the galaxies to test on."""
    seed: int = 0
    """Another seed draws other splits."""


class FetchSettings(ProgramSettings):
    """Make a data set to train on: images, with the labels of a catalogue, already split, as Parquet shards.

    Galaxies without a good image are left out and listed, with the reason. Killed, and run again with the same
    command, it goes on where it was.

    For example:
      fetch_cutouts.py --catalog votes.parquet --output shards --tree gz_decals_5        # Legacy Survey cutouts
      fetch_cutouts.py --catalog gz1.csv --output shards --labels P_EL,P_CW --cutouts.source sdss
      fetch_cutouts.py --catalog labels.csv --output shards --labels T --cutouts.source files
      fetch_cutouts.py --images photos --output shards                                   # photos/CLASS/NAME.jpg

    The labels are columns of the catalogue: those of a decision tree (--tree), which are checked to be votes, and any
    others that are named (--labels). A galaxy's split depends on its identifier alone, so that none changes sides
    between two catalogues. Dashes and underscores mean the same in a flag. A flag with several values takes them
    separated by commas, or is given several times.

    Exit status: 0 done; 3 done, but a larger share of the rows failed than --max-failed-fraction (by default any share
    may fail); 2 bad input or settings; 1 any other failure.
    """

    catalog: Address | None = None
    """Catalogue: CSV, TSV, ECSV, Parquet (file or folder), FITS table or VOTable; a path, ``s3://`` or ``https://``."""
    images: Address | None = None
    """Instead of a catalogue: a folder of images (jpg, jpeg, png, fits). Their names are the identifiers, its
    sub-folders the classes (column ``label``)."""
    output: Address
    """Folder of the data set: a path or ``s3://``."""
    labels: tuple[str, ...] = ()
    """Columns of the catalogue to keep as labels; ``none`` for images alone."""
    tree: str | None = None
    """Decision tree, such as ``gz_decals_5``, whose votes the catalogue has; its columns are labels."""
    missing: tuple[str, ...] = ()
    """Values that stand for a missing label, e.g. ``-9999,-99``; empty and NaN always do."""
    split: SplitConfig = SplitConfig()
    limit: PositiveInt | None = None
    """Only the first rows of the catalogue."""
    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Exit with status 3 if a larger share of the rows failed; 1.0, the default, lets any number of rows fail."""
    columns: CatalogConfig = CatalogConfig()
    cutouts: CutoutConfig = CutoutConfig()
    compute: ComputeConfig = ComputeConfig()
    config: str | None = Field(None, description="Recipe (TOML) with these same keys; flags win over it.")
    dry_run: bool = Field(False, description="Check the labels, print the plan (rows, requests, bytes, time) and stop.")
    log: LogFormat = Field("text", description="What is told on stderr: lines, or JSON objects with the run's id.")
    retry_failed: bool = Field(False, description="Also fetch again what was throttled or unreachable.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.catalog is None) == (self.images is None):
            raise ValueError(
                "give --catalog, or --images for a folder of images" + (", not both" * (self.catalog is not None))
            )
        if self.images is not None and (self.tree is not None or self.labels not in ((), ("label",), NO_LABELS)):
            raise ValueError("a folder of images has no labels but its sub-folders: --labels and --tree need --catalog")
        return self

    @property
    def without_labels(self) -> bool:
        """Whether images alone are asked for."""
        return self.labels == NO_LABELS

    def run_config(self, catalog: str, output: str) -> RunConfig:
        """The run that fetches the images.

        Parameters
        ----------
        catalog, output : str
            Addresses of its catalogue and its folder.
        """
        columns, cutouts = self.columns, self.cutouts.model_copy(update={"keep": True})
        if self.images is not None:
            columns = CatalogConfig(id_column="id_str", path_column="file_loc")
            cutouts = cutouts.model_copy(update={"source": "files", "path_template": None})
        return RunConfig(
            catalog=catalog,
            output=output,
            stages=("fetch",),
            limit=self.limit,
            max_failed_fraction=self.max_failed_fraction,
            columns=columns,
            cutouts=cutouts,
            compute=self.compute,
        )


clean_help(FetchSettings)
