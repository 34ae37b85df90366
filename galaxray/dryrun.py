"""The plan of a run in words, for ``--dry-run``."""

from __future__ import annotations

import math
from collections.abc import Sequence

from galaxray.catalog import Catalog
from galaxray.config import RunConfig
from galaxray.cutouts import estimate
from galaxray.modelset import ModelSet
from galaxray.plan import choose_rows_per_unit
from galaxray.runs import Run

__all__ = ["dry_run"]


def dry_run(config: RunConfig, catalog: Catalog, models: ModelSet, pools: Sequence[str], run: Run | None) -> str:
    """What the run would do, asking nothing of a survey service.

    Parameters
    ----------
    config : RunConfig
    catalog : Catalog
        Counted here if its format does not say how many rows it has.
    models : ModelSet
    pools : sequence of str
        A line per stage: actors and their share of the cluster.
    run : Run or None
        The run to go on with, if the output folder holds one.
    """
    num_rows = catalog.num_rows if run is None else run.num_rows
    if num_rows is None:
        num_rows = sum(piece.num_rows for piece in catalog.slices(limit=config.limit))
    num_rows = min(num_rows, config.limit or num_rows)
    rows_per_unit = choose_rows_per_unit(config, num_rows) if run is None else run.rows_per_unit
    done = 0 if run is None else run.rows_in(run.done())
    lines = [
        f"catalogue  {num_rows:,} rows",
        catalog.describe(),
        f"cutouts    {estimate(config.cutouts, num_rows - done).sentence}",
        *models.lines,
        f"output     {config.output}: {math.ceil(num_rows / rows_per_unit):,} files of {rows_per_unit:,} rows",
        *([] if run is None else [f"           run {run.run_id} is there: {done:,} of {num_rows:,} rows are done"]),
        "cluster",
        *(f"  {line}" for line in pools),
        "Nothing was done: leave --dry-run out to begin.",
    ]
    return "\n".join(lines)
