"""A hub-shaped HTTP server on loopback: what huggingface_hub asks of the real one, in memory, for tests.

It checks the SHA-256 of every large file on PUT, asks for the token, hides private repositories from everybody else, and can
cut a connection in mid-upload. It proves the kit's side of the conversation, not that the real Hub answers the same.
"""

import base64
import hashlib
import json
import re
from collections import Counter
from urllib.parse import unquote, urlsplit

from loopback import LoopbackServer, QuietHandler

OWNER, TOKEN, READ_TOKEN = "ada", "hf_loopbackSecretToken0123456789abcd", "hf_loopbackReadOnly0123456789abcdef"
LARGE = (".safetensors", ".gguf")


class Repo:
    """Files by path, who may see it, and its number of commits."""

    def __init__(self, private: bool, files: dict[str, bytes] | None = None, gated: bool = False):
        self.private, self.gated, self.commits, self.lfs = private, gated, 0, set()
        self.files = files or {".gitattributes": b"*.gguf filter=lfs\n"}

    @property
    def sha(self) -> str:
        return hashlib.sha1(b"%d" % self.commits).hexdigest()

    def entry(self, path: str) -> dict:
        data = self.files[path]
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        found = {"type": "file", "path": path, "size": len(data), "oid": git}
        if path in self.lfs:
            found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return found


class HubServer(LoopbackServer):
    """`repos` by (kind, name), `objects` by SHA-256, `puts` counts complete uploads, `calls` holds the path of every request.

    `cuts` uploads of more than `cut_from` bytes are still to be cut in the middle, once `after` have arrived.
    """

    def __init__(self, cuts: int = 0, after: int = 0, cut_from: int = 1 << 20):
        super().__init__(_Handler)
        self.repos, self.objects, self.puts = {}, {}, Counter()
        self.cuts, self.after, self.cut_from, self.was_cut = cuts, after, cut_from, 0


COMMIT = Repo(False).sha  # the first of every repository
QWEN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 640,
        "max_position_embeddings": 512, "tie_word_embeddings": True}  # fmt: skip


def config_server() -> HubServer:
    """A Hub with a few public models of nothing but a config.json, or none, and one that is gated."""
    server = HubServer()
    models = {"some/qwen": QWEN, "some/mistral": {**QWEN, "model_type": "mistral"}, "some/gguf": None, "some/gated": QWEN}
    for name, config in models.items():
        files = {"config.json": json.dumps(config).encode()} if config else None
        server.repos["model", name] = Repo(False, files, gated=name == "some/gated")
    return server


class _Handler(QuietHandler):
    server: HubServer

    def do_HEAD(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.calls.append(path)
        found = [(re.fullmatch(pattern, path), *rest) for methods, pattern, *rest in ROUTES if self.command in methods.split()]
        match, action, right = next((one for one in found if one[0]), (None, "", ""))
        if not match:
            self.body()
            return self.refuse(404, "EntryNotFound", f"no route {path}")
        given = match.groupdict()
        if self.command == "POST":
            given["asked"] = [json.loads(line) for line in self.body().splitlines()]
        if "kind" in given:
            given["repo"] = self.repo(given.pop("kind") or "model", match["name"], right)
        allowed = given["repo"] if "repo" in given else not right or self.allowed(right)
        return getattr(self, action)(**given) if allowed else None

    do_GET = do_POST = do_PUT = do_HEAD

    def whoami(self) -> None:
        role = "read" if self.token == READ_TOKEN else "write"
        self.send(200, {"name": OWNER, "orgs": [{"name": "guild"}], "auth": {"accessToken": {"role": role}}})

    def create(self, asked: list[dict]) -> None:
        kind, name = asked[0].get("type", "model"), f"{asked[0]['organization'] or OWNER}/{asked[0]['name']}"
        taken = (kind, name) in self.server.repos
        if not taken:
            self.server.repos[kind, name] = Repo(asked[0].get("visibility") == "private" or asked[0].get("private") is True)
        prefix = "" if kind == "model" else f"{kind}s/"
        self.send(409 if taken else 200, {"url": f"{self.server.url}/{prefix}{name}", "error": "You already created this repo"})

    def validate(self, asked: list[dict]) -> None:
        good = re.match(r"---\n(.*\n)?---\n", asked[0]["content"], re.DOTALL)
        self.send(200 if good else 400, {"errors": [] if good else [{"message": "no metadata"}], "warnings": []})

    def preupload(self, name: str, repo: Repo, asked: list[dict]) -> None:
        files = [{"path": one["path"], "shouldIgnore": False, "oid": None,
                  "uploadMode": "lfs" if one["path"].endswith(LARGE) or one["size"] > 5_000_000 else "regular"}
                 for one in asked[0]["files"]]  # fmt: skip
        repo.lfs.update(one["path"] for one in files if one["uploadMode"] == "lfs")
        self.send(200, {"files": files})

    def batch(self, name: str, repo: Repo, asked: list[dict]) -> None:
        objects = []
        for one in asked[0]["objects"]:
            href = f"{self.server.url}/lfs/{one['oid']}"
            todo = {"actions": {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}}
            objects.append(one | ({} if one["oid"] in self.server.objects else todo))
        self.send(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        size = int(self.headers["Content-Length"])
        with self.server.lock:
            cut = self.server.cuts > 0 and size > self.server.cut_from and sum(self.server.puts.values()) >= self.server.after
            self.server.cuts -= cut
            self.server.was_cut += cut
        if cut:  # half of it arrives, then the line is dead
            self.rfile.read(size // 2)
            raise ConnectionAbortedError
        data = self.rfile.read(size)
        good = hashlib.sha256(data).hexdigest() == oid
        if good:
            self.server.objects[oid] = data
            self.server.puts[oid] += 1
        self.send(200 if good else 400, {"error": "SHA-256 does not match"})

    def verify(self, oid: str, asked: list[dict]) -> None:
        good = len(self.server.objects.get(oid, b"")) == asked[0]["size"]
        self.send(200 if good else 404, {"error": "no such object"})

    def commit(self, name: str, repo: Repo, asked: list[dict]) -> None:
        header, *changes = [line["value"] for line in asked]
        lost = [one["path"] for one in changes if "oid" in one and one["oid"] not in self.server.objects]
        if lost or header.get("parentCommit", repo.sha) != repo.sha:
            return self.send(400 if lost else 412, {"error": f"no object for {lost}" if lost else "the branch has moved"})
        for one in changes:
            repo.files[one["path"]] = self.server.objects[one["oid"]] if "oid" in one else base64.b64decode(one["content"])
        repo.commits += 1
        self.send(200, {"commitUrl": f"{self.server.url}/{name}/commit/{repo.sha}", "commitOid": repo.sha, "success": True})

    def info(self, name: str, repo: Repo) -> None:
        siblings = [{"rfilename": path} for path in sorted(repo.files)]
        self.send(200, {"id": name, "sha": repo.sha, "private": repo.private, "siblings": siblings, "tags": []})

    def tree(self, name: str, repo: Repo) -> None:
        self.send(200, [repo.entry(path) for path in sorted(repo.files)])

    def resolve(self, name: str, repo: Repo, revision: str, path: str) -> None:
        if repo.gated:
            self.refuse(403, "GatedRepo", "Access to this model is restricted.")
        elif revision not in ("main", repo.sha):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif path not in repo.files:
            self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.sha})
        else:
            entry = repo.entry(path)
            etag = entry.get("lfs", entry)["oid"]
            self.send(200, repo.files[path], {"ETag": f'"{etag}"', "X-Repo-Commit": repo.sha})

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
            return self.refuse(404 if self.token in (TOKEN, READ_TOKEN) else 401, "RepoNotFound", "Repository not found")
        return repo if self.allowed(what) else None

    def refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.send(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})


_REPO, _NAME = r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)", r"/(?:(?P<kind>dataset)s/)?(?P<name>[^/]+/[^/]+)"
ROUTES = (  # methods, path, the handler's method, the right that the token needs
    ("GET", r"/api/whoami-v2", "whoami", "read"),
    ("POST", r"/api/repos/create", "create", "write"),
    ("POST", r"/api/validate-yaml", "validate", ""),
    ("POST", _REPO + r"/preupload/main", "preupload", "write"),
    ("POST", _NAME + r"\.git/info/lfs/objects/batch", "batch", "write"),
    ("PUT", r"/lfs/(?P<oid>\w+)", "put", ""),
    ("POST", r"/lfs/(?P<oid>\w+)/verify", "verify", "write"),
    ("POST", _REPO + r"/commit/main", "commit", "write"),
    ("GET", _REPO + r"(?:/revision/\w+)?", "info", "read"),
    ("GET", _REPO + r"/tree/\w+", "tree", "read"),
    ("GET HEAD", _NAME + r"/resolve/(?P<revision>\w+)/(?P<path>.+)", "resolve", "read"),
)
