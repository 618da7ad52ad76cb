"""A server that speaks as much of the Hugging Face Hub's protocol as its client needs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_secret"


@dataclass
class Hub:
    """Repositories by name: the files of their only commit.

    Attributes:
        private: names of those that only TOKEN opens.
        fetched: paths of the files that were downloaded.
        created: what clients asked for to create repositories.
    """

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)
    created: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, folder: Path) -> None:
        """A repository with the files of a folder."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
        self.repositories[name] = files

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Of processes that talk to this hub, with a cache in `home`."""
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {**os.environ, **own, "NO_PROXY": "127.0.0.1", **more}


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens until the end of the ``with`` block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join(10)


def commit_of(files: dict[str, bytes]) -> str:
    """The hash of a repository's content."""
    digest = hashlib.sha1()
    for path, content in sorted(files.items()):
        digest.update(path.encode() + content)
    return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        parts = urlsplit(self.path).path.strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.hub.repositories.get(name)
        if files is None or (name in self.hub.private and not self._authorised()):
            self._answer(401, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        elif (parts + ["main"])[5 if parts[0] == "api" else 3] not in ("main", commit_of(files)):
            self._answer(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        elif parts[0] == "api" and parts[4] == "revision":
            self._answer(200, {"id": name, "sha": commit_of(files), "siblings": []})
        elif parts[0] == "api" and parts[4] == "tree":
            tree = [
                {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                for path, content in files.items()
            ]
            self._answer(200, tree)
        elif (path := "/".join(parts[4:])) in files:
            headers = {"ETag": f'"{_oid(files[path])}"', "X-Repo-Commit": commit_of(files)}
            if self.command == "GET":
                self.hub.fetched.append(path)
            self._answer(200, files[path], headers)
        else:
            self._answer(404, {"error": "no file"}, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path).path.strip("/").split("/")
        if not self._authorised():
            self._answer(401, {"error": "Invalid username or password."})
        elif parts[-1] == "validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[1:] == ["repos", "create"]:
            wanted = json.loads(body)
            self.hub.created.append(wanted)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.hub.repositories.setdefault(name, {})
            self._answer(200, {"url": f"{self.hub.url}/{name}", "id": name})
        elif parts[4] == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer(200, {"files": [{"path": path, **how} for path in paths]})
        else:
            name = "/".join(parts[2:4])
            for line in body.splitlines():
                change = json.loads(line)
                if change["key"] == "deletedFile":
                    del self.hub.repositories[name][change["value"]["path"]]
                elif change["key"] == "file":
                    content = base64.b64decode(change["value"]["content"])
                    self.hub.repositories[name][change["value"]["path"]] = content
            commit = commit_of(self.hub.repositories[name])
            url = f"{self.hub.url}/{name}/commit/{commit}"
            self._answer(200, {"success": True, "commitUrl": url, "commitOid": commit})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _oid(content: bytes) -> str:
    """The hash of a file as git computes it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
