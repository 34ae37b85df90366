"""Text that others wrote, made fit to be shown: on a terminal, in a log, in a record that is passed on.

Identifiers, column names, a server's words and a library's error may hold control characters, which a terminal obeys
(they move the cursor, hide lines, change its title), and addresses may hold what gives access.
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["MAX_LINE_CHARS", "one_line", "printable", "public_settings", "without_secrets"]

MAX_LINE_CHARS = 3000
"""Longest message; a hostile file would fill the log with the name of one column."""

_USER_AND_PASSWORD = re.compile(r"//[^/?#@\s]*@(?=[^/\s])")
# Signatures of S3 (X-Amz-*), Google (X-Goog-*) and Azure (sig), and what else is commonly called so.
_SECRET = re.compile(
    r"([?&;](?:X-(?:Amz|Goog)-[^=&\s]*|[^=&\s]*(?:sig|token|key|secret|credential|passw|pwd|auth)[^=&\s]*)=)[^&#\s'\"]*?(?=:?(?:[&#\s'\"]|$))",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Hide what gives access in addresses: user and password, signatures, keys and tokens."""
    return _SECRET.sub(r"\1…", _USER_AND_PASSWORD.sub("//…@", text))


def printable(text: str) -> str:
    r"""Spell out what a terminal would obey, or could not show: an escape becomes ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def one_line(text: str) -> str:
    """Make a message one line of printable text without secrets, and not endless."""
    line = printable(" ".join(without_secrets(text).split()))
    return line if len(line) <= MAX_LINE_CHARS else f"{line[: MAX_LINE_CHARS - 1]}…"


def public_settings(value: Any) -> Any:
    """Settings (JSON values) as a run's records keep them: without secrets."""
    match value:
        case str():
            return without_secrets(value) if "://" in value else value
        case list():
            return [public_settings(item) for item in value]
        case dict():
            return {key: public_settings(item) for key, item in value.items()}
        case _:
            return value
