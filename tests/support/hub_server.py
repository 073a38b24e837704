"""A hub-shaped HTTP server on loopback: what huggingface_hub asks of the real one, in memory; used by the tests of the Hub.

It checks the SHA-256 of every large file on PUT, asks for the token, hides private repositories from everybody else, and can
cut a connection in mid-upload. It proves the kit's side of the conversation, not that the real Hub answers the same.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from urllib.parse import unquote, urlsplit

from loopback import LoopbackServer, QuietHandler

OWNER, TOKEN, READ_TOKEN = "ada", "hf_loopbackSecretToken0123456789abcd", "hf_loopbackReadOnly0123456789abcdef"
LARGE = (".safetensors", ".gguf")


class Repo:
    """Files by path, whether it is private, and its number of commits."""

    def __init__(self, private: bool):
        self.private, self.commits, self.lfs = private, 0, set()
        self.files: dict[str, bytes] = {".gitattributes": b"*.gguf filter=lfs\n"}

    @property
    def sha(self) -> str:
        return hashlib.sha1(b"%d" % self.commits).hexdigest()

    def entry(self, path: str) -> dict:
        data = self.files[path]
        found = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
        if path in self.lfs:
            found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return found


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer(LoopbackServer):
    """`repos` by (kind, name), `objects` by SHA-256, `puts` counts uploads that arrived whole.

    `cuts` large uploads are still to be cut in the middle, once `after` have arrived.
    """

    def __init__(self, cuts: int = 0, after: int = 0):
        super().__init__(_Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.puts: Counter[str] = Counter()
        self.cuts, self.after, self.was_cut, self.lock = cuts, after, 0, threading.Lock()
        self.calls: list[str] = []


class _Handler(QuietHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self.route()

    do_GET = do_POST = do_PUT = do_HEAD

    def route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.calls.append(f"{self.command} {path}")
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                getattr(self, name)(**match.groupdict())
                return
        self.body()
        self.send(404, {"error": f"no route {path}"}, {"X-Error-Code": "EntryNotFound"})

    def whoami(self) -> None:
        if self.allowed("read"):
            role = "read" if self.token == READ_TOKEN else "write"
            self.send(200, {"name": OWNER, "orgs": [{"name": "guild"}], "auth": {"accessToken": {"role": role}}})

    def create(self) -> None:
        asked = json.loads(self.body())
        if not self.allowed("write"):
            return
        kind, name = asked.get("type", "model"), f"{asked['organization'] or OWNER}/{asked['name']}"
        taken = (kind, name) in self.server.repos
        if not taken:
            self.server.repos[kind, name] = Repo(asked.get("visibility") == "private" or asked.get("private") is True)
        prefix = "" if kind == "model" else f"{kind}s/"
        self.send(409 if taken else 200, {"url": f"{self.server.url}/{prefix}{name}", "error": "You already created this repo"})

    def validate(self) -> None:
        text = json.loads(self.body())["content"]
        good = text.startswith("---\n") and text.count("\n---\n") >= 1
        self.send(200 if good else 400, {"errors": [] if good else [{"message": "no metadata"}], "warnings": []})

    def preupload(self, kind: str, name: str) -> None:
        asked = json.loads(self.body())
        if repo := self.repo(kind, name, "write"):
            files = [{"path": one["path"], "shouldIgnore": False, "oid": None,
                      "uploadMode": "lfs" if one["path"].endswith(LARGE) or one["size"] > 5_000_000 else "regular"}
                     for one in asked["files"]]  # fmt: skip
            repo.lfs.update(one["path"] for one in files if one["uploadMode"] == "lfs")
            self.send(200, {"files": files})

    def batch(self, name: str, kind: str | None) -> None:
        asked = json.loads(self.body())
        if not self.repo(kind or "model", name, "write"):
            return
        objects = []
        for one in asked["objects"]:
            href = f"{self.server.url}/lfs/{one['oid']}"
            todo = {"actions": {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}}
            objects.append(one | ({} if one["oid"] in self.server.objects else todo))
        self.send(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        size = int(self.headers["Content-Length"])
        with self.server.lock:
            cut = self.server.cuts > 0 and size > 1 << 20 and sum(self.server.puts.values()) >= self.server.after
            self.server.cuts -= cut
            self.server.was_cut += cut
        if cut:  # half of it arrives, then the line is dead
            self.rfile.read(size // 2)
            self.close_connection = True
            self.connection.close()
            return
        data = self.rfile.read(size)
        good = hashlib.sha256(data).hexdigest() == oid
        if good:
            self.server.objects[oid] = data
            self.server.puts[oid] += 1
        self.send(200 if good else 400, {"error": "SHA-256 does not match"})

    def verify(self, oid: str) -> None:
        asked = json.loads(self.body())
        if self.allowed("write"):
            good = len(self.server.objects.get(oid, b"")) == asked["size"]
            self.send(200 if good else 404, {"error": "no such object"})

    def commit(self, kind: str, name: str) -> None:
        lines = [json.loads(line) for line in self.body().splitlines()]
        if not (repo := self.repo(kind, name, "write")):
            return
        header, *changes = [line["value"] for line in lines]
        if header.get("parentCommit", repo.sha) != repo.sha:
            self.send(412, {"error": "the branch has moved"})
            return
        if lost := [one["path"] for one in changes if "oid" in one and one["oid"] not in self.server.objects]:
            self.send(400, {"error": f"no object for {lost}"})
            return
        for one in changes:
            repo.files[one["path"]] = self.server.objects[one["oid"]] if "oid" in one else base64.b64decode(one["content"])
        repo.commits += 1
        self.send(200, {"commitUrl": f"{self.server.url}/{name}/commit/{repo.sha}", "commitOid": repo.sha, "success": True})

    def info(self, kind: str, name: str) -> None:
        if repo := self.repo(kind, name, "read"):
            siblings = [{"rfilename": path} for path in sorted(repo.files)]
            self.send(200, {"id": name, "sha": repo.sha, "private": repo.private, "siblings": siblings, "tags": []})

    def tree(self, kind: str, name: str, under: str | None) -> None:
        if repo := self.repo(kind, name, "read"):
            chosen = [path for path in sorted(repo.files) if path.startswith(f"{under}/" if under else "")]
            if chosen or not under:
                self.send(200, [repo.entry(path) for path in chosen])
            else:
                self.send(404, {"error": f"{under} does not exist"}, {"X-Error-Code": "EntryNotFound"})

    def resolve(self, name: str, path: str, kind: str | None) -> None:
        if not (repo := self.repo(kind or "model", name, "read")):
            return
        if path not in repo.files:
            self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.sha})
            return
        entry = repo.entry(path)
        etag = entry.get("lfs", entry)["oid"]
        self.raw(200, repo.files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": repo.sha})

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def allowed(self, what: str) -> bool:
        good = self.token == TOKEN or (what == "read" and self.token == READ_TOKEN)
        if not good:
            self.send(403 if self.token == READ_TOKEN else 401, {"error": "Invalid username or password."})
        return good

    def repo(self, kind: str, name: str, what: str) -> Repo | None:
        """The repository, or an answer that does not tell whether it is hidden or missing."""
        repo = self.server.repos.get((kind, name))
        if what == "read" and repo and not repo.private:
            return repo
        if repo is None or self.token not in (TOKEN, READ_TOKEN):
            code = 404 if self.token in (TOKEN, READ_TOKEN) else 401
            self.send(code, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        return repo if self.allowed(what) else None

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        self.raw(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def raw(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


_REPO, _NAME = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)", r"(?P<name>[^/]+/[^/]+)"
ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", _REPO + r"/preupload/main", "preupload"),
    ("POST", rf"/(?:(?P<kind>dataset)s/)?{_NAME}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(?P<oid>\w+)", "put"),
    ("POST", r"/lfs/(?P<oid>\w+)/verify", "verify"),
    ("POST", _REPO + r"/commit/main", "commit"),
    ("GET", _REPO + r"(?:/revision/\w+)?", "info"),
    ("GET", _REPO + r"/tree/\w+(?:/(?P<under>.+))?", "tree"),
    ("GET HEAD", rf"/(?:(?P<kind>dataset)s/)?{_NAME}/resolve/\w+/(?P<path>.+)", "resolve"),
)
