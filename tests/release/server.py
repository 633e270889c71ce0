"""A Hub on 127.0.0.1: repositories in memory, behind the part of the Hub's HTTP interface that its client uses."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from huggingface_hub.utils.sha import git_hash

TOKEN = "hf_may_write"
READ_ONLY = "hf_may_read"
_LFS = (".safetensors", ".jpg", ".png", ".bin")


@dataclass
class Repo:
    """Commits, oldest first, each all files of the repository; tags point to commits."""

    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    tags: dict[str, int] = field(default_factory=dict)

    def sha(self, index: int) -> str:
        return hashlib.sha1(repr((index, sorted(self.commits[index].items()))).encode()).hexdigest()

    def find(self, revision: str) -> int | None:
        if revision == "main":
            return len(self.commits) - 1
        shas = [self.sha(i) for i in range(len(self.commits))]
        return self.tags.get(revision, shas.index(revision) if revision in shas else None)


@dataclass
class Faults:
    """What goes wrong, once each."""

    cut_after: int | None = None  # the next download stops after this many bytes
    short_by: int = 0  # the next download is that much shorter than announced, and pretends to be whole
    refuse_commit: bool = False
    refuse_tag: bool = False

    def take(self, name: str) -> Any:
        value = getattr(self, name)
        setattr(self, name, type(self).__dataclass_fields__[name].default)
        return value


class Hub:
    """The server; `asked` lists the requests so far, as 'METHOD /path', with ' bytes=…' where a range was asked for."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}  # by 'models/org/name' or 'spaces/org/name'
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.faults = Faults()
        hub = self
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, repo_id: str, files: dict[str, bytes], tag: str | None = None) -> None:
        """A repository with these files, as if somebody had pushed them."""
        repo = self.repos.setdefault(f"models/{repo_id}", Repo())
        repo.commits.append(files)
        if tag:
            repo.tags[tag] = len(repo.commits) - 1

    def count(self, start: str) -> int:
        return sum(request.startswith(start) for request in self.asked)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self.route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        wanted = self.headers.get("Range")
        self.hub.asked.append(f"{self.command} {path}{f' {wanted}' if wanted else ''}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.command in ("POST", "PUT") and not path.startswith("/_lfs/") and path != "/api/validate-yaml":
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            if token != TOKEN:
                return self.reply(403 if token == READ_ONLY else 401, {"error": "no"})
        for method, pattern, action in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                return action(self, **found.groupdict())
        return self.reply(404, {"error": f"no such address: {self.command} {path}"})

    def reply(self, status: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code: str) -> None:
        self.reply(404, {"error": code}, {"X-Error-Code": code})

    def at(self, kind: str, repo: str, rev: str) -> tuple[Repo, int] | None:
        """The repository and the commit, or None after having answered that there is none."""
        found = self.hub.repos.get(f"{kind}/{repo}")
        index = found.find(rev) if found else None
        if found is None or index is None:
            self.missing("RepoNotFound" if found is None else "RevisionNotFound")
            return None
        return found, index

    # ---- reading

    def resolve(self, repo: str, rev: str, file: str, kind: str | None = None) -> None:
        at = self.at((kind or "models/").rstrip("/"), repo, rev)
        if at is None:
            return
        found, index = at
        commit = {"X-Repo-Commit": found.sha(index)}
        if file not in found.commits[index]:
            return self.reply(404, {"error": file}, {"X-Error-Code": "EntryNotFound", **commit})
        data = found.commits[index][file]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes", **commit}
        status, start = 200, 0
        if (asked := self.headers.get("Range")) is not None:
            status, start = 206, int(asked.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if self.command == "GET":
            if short := self.hub.faults.take("short_by"):
                body = body[:-short]
            if (cut := self.hub.faults.take("cut_after")) is not None:
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body[:cut])
                self.close_connection = True
                return
        self.reply(status, body, headers)

    def info(self, kind: str, repo: str, rev: str = "main") -> None:
        if (at := self.at(kind, repo, rev)) is not None:
            found, index = at
            files = [{"rfilename": name} for name in found.commits[index]]
            self.reply(200, {"id": repo, "sha": found.sha(index), "siblings": files, "tags": [], "private": False})

    def tree(self, kind: str, repo: str, rev: str) -> None:
        if (at := self.at(kind, repo, rev)) is not None:
            found, index = at
            self.reply(200, [_entry(path, data) for path, data in found.commits[index].items()])

    def refs(self, kind: str, repo: str) -> None:
        if (at := self.at(kind, repo, "main")) is not None:
            found, index = at
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.sha(index)}
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": found.sha(i)} for tag, i in found.tags.items()
            ]
            self.reply(200, {"branches": [main], "converts": [], "tags": tags})

    # ---- writing

    def create(self) -> None:
        asked = json.loads(self.body)
        key = f"{asked.get('type') or 'model'}s/{asked['organization']}/{asked['name']}"
        if key in self.hub.repos:
            return self.reply(409, {"error": "You already created this repo"})
        self.hub.repos[key] = Repo()
        self.reply(200, {"url": f"{self.hub.endpoint}/{asked['organization']}/{asked['name']}"})

    def validate(self) -> None:
        text = json.loads(self.body)["content"]
        good = text.startswith("---\n") and "\n---\n" in text[4:]
        errors = [] if good else [{"message": "no front matter"}]
        self.reply(200 if good else 400, {"errors": errors, "warnings": []})

    def preupload(self, kind: str, repo: str, rev: str) -> None:
        if (at := self.at(kind, repo, rev)) is not None:
            files = at[0].commits[at[1]]
            answer = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(_LFS) else "regular",
                    "shouldIgnore": False,
                    "oid": _entry(one["path"], files[one["path"]])["oid"] if one["path"] in files else None,
                }
                for one in json.loads(self.body)["files"]
            ]
            self.reply(200, {"files": answer})

    def lfs_batch(self, repo: str, kind: str | None = None) -> None:
        objects = []
        for one in json.loads(self.body)["objects"]:
            there = one["oid"] in self.hub.objects
            upload = {"upload": {"href": f"{self.hub.endpoint}/_lfs/{one['oid']}"}}
            objects.append(one if there else {**one, "actions": upload})
        self.reply(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.reply(400, {"error": "sha256"})
        self.hub.objects[oid] = self.body
        self.reply(200, {})

    def commit(self, kind: str, repo: str, rev: str) -> None:
        if self.hub.faults.take("refuse_commit"):
            return self.reply(500, {"error": "out of order"})
        if (at := self.at(kind, repo, rev)) is not None:
            found, index = at
            files = dict(found.commits[index])
            for line in map(json.loads, self.body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            found.commits.append(files)
            self.reply(200, {"commitUrl": f"{self.hub.endpoint}/{repo}/commit/x", "commitOid": found.sha(index + 1)})

    def tag(self, kind: str, repo: str, rev: str) -> None:
        if self.hub.faults.take("refuse_tag"):
            return self.reply(500, {"error": "out of order"})
        if (at := self.at(kind, repo, rev)) is not None:
            at[0].tags[json.loads(self.body)["tag"]] = at[1]
            self.reply(200, {})

    def log_message(self, *args: object) -> None:
        pass


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
    if path.endswith(_LFS):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        entry["oid"] = entry["lfs"]["oid"]
    return entry


_API = r"/api/(?P<kind>models|spaces)/(?P<repo>[^/]+/[^/]+)"
_ROUTES = [
    ("GET HEAD", r"/(?P<kind>spaces/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<file>.+)", _Handler.resolve),
    ("GET", _API, _Handler.info),
    ("GET", rf"{_API}/revision/(?P<rev>[^/]+)", _Handler.info),
    ("GET", rf"{_API}/tree/(?P<rev>[^/]+)", _Handler.tree),
    ("GET", rf"{_API}/refs", _Handler.refs),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("POST", rf"{_API}/preupload/(?P<rev>[^/]+)", _Handler.preupload),
    ("POST", r"/(?P<kind>spaces/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/_lfs/(?P<oid>\w+)", _Handler.lfs_put),
    ("POST", rf"{_API}/commit/(?P<rev>[^/]+)", _Handler.commit),
    ("POST", rf"{_API}/tag/(?P<rev>[^/]+)", _Handler.tag),
]
