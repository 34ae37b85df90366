from __future__ import annotations

import pytest

from galaxray.config import CutoutConfig
from galaxray.cutouts import check_cutouts
from galaxray.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size_pixels": 5000}, "cutouts.size_pixels 5000"),
        ({"base_url": "foo"}, "cutouts.base_url 'foo'"),
        ({"source": "sdss", "format": "fits"}, "cutouts.format fits"),
        ({"source": "files", "path_template": "{name}.jpg"}, "cutouts.path_template"),
        ({"contact": "Zoë"}, "cutouts.contact"),
        ({"cache": "s3://bucket/cache"}, "cutouts.cache"),
        ({"cache": ""}, "cutouts.cache"),
        ({"cache": "{file}"}, "cutouts.cache .* cannot be written to"),
        ({"cache": "/proc/cache"}, "cutouts.cache /proc/cache cannot be written to"),
    ],
)
def test_settings_that_every_worker_would_refuse(tmp_path, settings, message):
    (tmp_path / "file").write_text("")
    settings = {key: str(tmp_path / "file") if value == "{file}" else value for key, value in settings.items()}
    with pytest.raises(ConfigError, match=message) as caught:
        check_cutouts(CutoutConfig(**settings))
    assert "\n" not in str(caught.value)


def test_a_good_cache_is_not_made_yet(tmp_path):
    source = check_cutouts(CutoutConfig(cache=str(tmp_path / "a" / "cache"), contact="me@example.org"))
    assert source.required_columns == {"ra_deg", "dec_deg"}
    assert not (tmp_path / "a").exists()
