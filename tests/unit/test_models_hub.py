"""Models by name from a hub: a real HTTP server on loopback with the hub's addresses."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from galaxray.models.weights import BUILTIN_FOLDER

SCRIPT = """
import sys
from galaxray.errors import WeightsError
from galaxray.models.weights import load_model, resolve
for ref in sys.argv[1:]:
    try:
        print(load_model(resolve(ref))[1]["name"])
    except WeightsError as error:
        print("refused:", error)
"""
# In a process of its own: the hub's address is read from the environment when its library is imported.


class Hub(BaseHTTPRequestHandler):
    """``/OWNER/NAME/resolve/main/FILE``: the built-in models, as galaxray/models/builtin has them."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        repository, _, name = self.path.partition("/resolve/main/")
        path = BUILTIN_FOLDER / name
        if (repository == "/me/cardless" and name.endswith(".json")) or not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_models_come_with_their_cards_or_are_refused(hub, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    refs = ["hf_hub:me/models/vae.safetensors", "hf_hub:me/cardless/vae.safetensors", "hf_hub:me/models"]
    command = [sys.executable, "-c", SCRIPT, *refs]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100)
    loaded, cardless, empty = done.stdout.splitlines()
    assert loaded == "vae"
    assert cardless.startswith("refused: ")
    assert "has no card beside it (vae.json)" in cardless
    assert empty.startswith("refused: hf_hub:me/models holds none of Finetuneable")
