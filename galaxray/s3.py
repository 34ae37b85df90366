"""S3: endpoint and credentials from the environment, as with every S3 tool (AWS_ENDPOINT_URL, AWS_PROFILE, ...)."""

from __future__ import annotations

from typing import Any

__all__ = ["s3_filesystem", "s3_reader"]

PATIENCE = {
    "connect_timeout": 10,
    "read_timeout": 15,
    "retries": {"mode": "standard", "total_max_attempts": 8},
}
"""How long a store may be away. A refusal (500, 503 SlowDown) is tried again after up to 1, 2, 4, 8, 16, 20 and 20
seconds: 35 s in the mean, 71 s at most."""

ROUNDS = 3
"""Where a connection is lost, also in the middle of an answer, s3fs begins again with all that. A store that takes
requests and never answers is so given up after 3 x (8 x 15 + 71) seconds, before a run counts as stalled (600 s)."""


def s3_filesystem(**options: Any) -> Any:
    """Make a file system on S3 that outlasts a store's moments of weakness, for a bounded time.

    Parameters
    ----------
    **options
        Arguments of ``s3fs.S3FileSystem``.

    Returns
    -------
    s3fs.S3FileSystem
        Without a cache of listings, which would hide what has just been written.
    """
    import s3fs

    options.setdefault("config_kwargs", PATIENCE)
    filesystem = s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
    filesystem.retries = ROUNDS
    return filesystem


def s3_reader(**options: Any) -> Any:
    """Make a file system that reads S3; anonymously where there are no credentials (its attribute ``anon`` tells).

    Parameters
    ----------
    **options
        Arguments of ``s3fs.S3FileSystem``.
    """
    import botocore.session

    if not {"anon", "key", "profile", "session"} & options.keys():
        options["anon"] = botocore.session.get_session().get_credentials() is None
    return s3_filesystem(**options)
