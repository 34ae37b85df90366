from __future__ import annotations

import pytest

from galaxray.catalog import open_catalog
from galaxray.config import RunConfig
from galaxray.dryrun import dry_run
from galaxray.errors import RunMismatchError
from galaxray.modelset import ModelSet
from galaxray.plan import find_run, plan_run
from galaxray.schema import to_table

NO_MODELS = ModelSet(views=(), record={}, lines=())


@pytest.fixture
def config(tmp_path) -> RunConfig:
    lines = [f"g{i},{i},0,{i}.jpg" for i in range(70)]
    (tmp_path / "c.csv").write_text("\n".join(["object_id,ra,dec,path", *lines]) + "\n")
    return RunConfig(catalog=str(tmp_path / "c.csv"), output=str(tmp_path / "run"))


def test_a_new_folder_holds_no_run_and_is_not_made(config, tmp_path):
    catalog = open_catalog(config.catalog)
    assert find_run(config, catalog, {}) is None
    text = dry_run(config, catalog, NO_MODELS, ["sum       1 of 2"], None)
    assert "3 files of 32 rows" in text
    assert "sum       1 of 2" in text
    assert not (tmp_path / "run").exists()


def test_it_says_how_much_of_the_run_is_done(config):
    catalog = open_catalog(config.catalog)
    run = plan_run(config, catalog, {}, versions={})
    run.commit(1, to_table(run.read_unit(1)))
    text = dry_run(config, catalog, NO_MODELS, [], find_run(config, catalog, {}))
    assert f"run {run.run_id} is there: 32 of 70 rows are done" in text
    assert "38 requests" in text


def test_another_run_is_refused_as_by_a_real_run(config):
    catalog = open_catalog(config.catalog)
    plan_run(config, catalog, {}, versions={})
    with pytest.raises(RunMismatchError, match="limit was None, is 5"):
        find_run(config.model_copy(update={"limit": 5}), catalog, {})


def test_paths_for_a_template_stay_as_they_stand(config):
    catalog = open_catalog(config.catalog, need_path=True, anchor_paths=False)
    assert next(catalog.slices())["path"][3].as_py() == "3.jpg"
