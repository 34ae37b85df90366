"""Text of others is shown without commanding a terminal, and addresses without what gives access."""

from __future__ import annotations

import json

import pytest

from galaxray.display import MAX_LINE_CHARS, one_line, printable, public_settings, without_secrets
from galaxray.errors import CatalogError


@pytest.mark.parametrize(
    ("address", "secrets"),
    [
        ("https://me:pa55@host/cat.csv", ["me:", "pa55"]),
        ("https://token@host/cat.csv?x=1", ["token"]),
        ("http://me:p:a@proxy:3128", ["p:a"]),
        (
            "https://b.s3.amazonaws.com/cat.fits?X-Amz-Credential=AKIA/1/s3&X-Amz-Date=1&X-Amz-Signature=f00",
            ["AKIA", "f00"],
        ),
        ("https://b.s3.amazonaws.com/cat.fits?AWSAccessKeyId=AKIA&Signature=f00&Expires=9", ["AKIA", "f00"]),
        ("https://a.blob.core.windows.net/c/f?sv=2024&sig=f00%3D", ["f00"]),
        ("https://host/f?a=1&access_token=f00&apiKey=b4r", ["f00", "b4r"]),
        ("https://host/f?password=f00#top", ["f00"]),
    ],
)
def test_what_gives_access_is_hidden(address: str, secrets: list[str]) -> None:
    shown = without_secrets(f"{address}: the server answers 403 Forbidden")
    assert not [secret for secret in secrets if secret in shown]
    assert shown.startswith(address.partition("://")[0])
    assert shown.endswith(": the server answers 403 Forbidden")


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/a/b.csv", "https://host/a@b.csv?ra=1&dec=2", "/data/me@home/cat.csv", "galaxies.csv", "a?b=c"],
)
def test_what_gives_no_access_stays(address: str) -> None:
    assert without_secrets(address) == address


def test_settings_are_kept_without_secrets() -> None:
    settings = {"catalog": "https://me:pa55@h/c", "limit": 3, "w": ["a.ckpt", "https://h/?sig=f00"], "c": {"d": None}}
    kept = public_settings(settings)
    assert kept == {"catalog": "https://…@h/c", "limit": 3, "w": ["a.ckpt", "https://h/?sig=…"], "c": {"d": None}}
    assert "pa55" not in json.dumps(kept)


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;owned\x07", "a\rb", "\x9b31m", "\u202egnp.exe", "\x00", "\udc80"])
def test_an_error_is_one_line_that_commands_no_terminal(text: str) -> None:
    shown = str(CatalogError(f"no column {text}\nin it"))
    assert shown.isprintable()
    assert shown.startswith("no column ")
    assert shown.endswith("in it")


def test_letters_of_all_scripts_and_signs_stay() -> None:
    assert printable("α Cen, Δ = 3″, 銀河, é") == "α Cen, Δ = 3″, 銀河, é"


def test_a_message_is_not_endless() -> None:
    assert len(one_line("x" * 10**6)) == MAX_LINE_CHARS
