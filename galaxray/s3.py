"""S3 for what is only read: endpoint and credentials from the environment, as with every S3 tool."""

from __future__ import annotations

from typing import Any

__all__ = ["s3_reader"]


def s3_reader(**options: Any) -> Any:
    """Make a file system that reads S3; anonymously where there are no credentials (its attribute ``anon`` tells).

    Parameters
    ----------
    **options
        Arguments of ``s3fs.S3FileSystem``.

    Returns
    -------
    s3fs.S3FileSystem
        Without a cache of listings, which would hide what has just been written.
    """
    import botocore.session
    import s3fs

    if not {"anon", "key", "profile", "session"} & options.keys():
        options["anon"] = botocore.session.get_session().get_credentials() is None
    return s3fs.S3FileSystem(**options, use_listings_cache=False, skip_instance_cache=True)
