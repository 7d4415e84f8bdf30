"""Sets of the hub, from our own server: connections that break, downloads that are killed."""

import hashlib
import http.server
import json
import signal
import threading
import urllib.parse
from pathlib import Path

import pytest
from loading_programs import LOAD, SMALL_CHUNKS, finish, start
from mirrors import put_set

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """The part of the hub's protocol that reading one set needs.

    Sends only half of the file `stall`, and the files `spoiled` with a bit flipped. Files `large` have a SHA-256.
    """

    daemon_threads = True

    def __init__(self, root, name):
        super().__init__(("127.0.0.1", 0), Answer)
        self.name, self.files = name, {str(f.relative_to(root / name)): f.read_bytes() for f in root.rglob("*.parquet")}
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut: set[str] = set()
        self.spoiled: set[str] = set()
        self.large: set[str] = set()
        self.stall: str | None = None
        self.half_sent, self.go_on = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, tmp_path):
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0", "JBN_DATA": ""}

    def gets(self, file):
        return [given for method, path, given in self.requests if method == "GET" and path.endswith(file)]

    def handle_error(self, request, client_address):
        """The client was killed."""


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        file_at, about = (f"{prefix}datasets/{self.server.name}" for prefix in ("/", "/api/"))
        if path.startswith(f"{file_at}/resolve/"):
            self.file(path.removeprefix(f"{file_at}/resolve/").partition("/")[2])
        elif path.startswith(f"{about}/tree/"):
            self.tree(path.removeprefix(f"{about}/tree/").partition("/")[2], "recursive=true" in self.path.lower())
        elif path == about or path.startswith(f"{about}/revision/"):
            self.json(
                {"id": self.server.name, "sha": COMMIT, "siblings": [{"rfilename": f} for f in self.server.files]}
            )
        else:
            self.json({}, 404, "RepoNotFound")

    do_HEAD = do_GET

    def json(self, value, status=200, error=None):
        body = json.dumps(value).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")

    def tree(self, folder, recursive):
        inside = [f for f in self.server.files if f.startswith(f"{folder}/" if folder else "")]
        deep = [f for f in inside if recursive or str(Path(f).parent) == (folder or ".")]
        entries = [self.entry(f) for f in deep]
        folders = {f.split("/")[0] for f in inside if "/" in f} if not folder else set()
        entries += [{"type": "directory", "path": f, "size": 0, "oid": "0" * 40} for f in sorted(folders)]
        self.json(*((entries, 200) if entries else ({}, 404, "EntryNotFound")))

    def entry(self, name):
        body = self.server.files[name]
        large = {"lfs": {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}}
        oid = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        return {"type": "file", "path": name, "size": len(body), "oid": oid} | (
            large if name in self.server.large else {}
        )

    def file(self, name):
        if name not in self.server.files:
            return self.json({}, 404, "EntryNotFound")
        body = self.server.files[name]
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "HEAD":
            return None
        half = len(body) // 2
        if name in self.server.spoiled:
            body = body[:half] + bytes([body[half] ^ 4]) + body[half + 1 :]
        if name in self.server.cut:
            self.server.cut.remove(name)
            self.wfile.write(body[:half])
            self.close_connection = True
        elif name == self.server.stall:
            self.wfile.write(body[first:half])
            self.server.half_sent.set()
            self.server.go_on.wait(60)
        else:
            self.wfile.write(body[first:])
        return None


@pytest.fixture
def hub(mirror):
    drawn = put_set(mirror, n=200)
    with Hub(mirror, "some/set") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server, drawn
        server.go_on.set()
        server.shutdown()
        thread.join()


def test_the_hub_is_read_where_the_mirror_lacks_the_set_and_a_connection_that_breaks_is_taken_up_again(
    hub, tmp_path, cache
):
    server, (x, y, _, _) = hub
    server.cut = {"plain/train-00000-of-00001.parquet"}
    (empty := tmp_path / "empty").mkdir()
    code = SMALL_CHUNKS + LOAD.format(name="some/set")
    out = finish(start(code, **server.environment(tmp_path) | {"JBN_DATA": str(empty)}))
    assert out.split() == [str(x.sum()), *map(str, y)]
    size = len(server.files["plain/train-00000-of-00001.parquet"])
    assert server.gets("train-00000-of-00001.parquet") == [None, f"bytes={size // 2 // 1000 * 1000}-"]
    source = json.loads(next(cache.glob("*/meta.json")).read_bytes())["source"]
    assert source["from"] == "hub" and source["config"] == "default"
    assert source["files"] == [f"hf://datasets/some/set@{COMMIT}"]


def test_a_download_that_was_killed_starts_again_and_leaves_nothing_in_the_cache(hub, tmp_path, cache):
    server, (x, y, _, _) = hub
    server.stall = "plain/train-00000-of-00001.parquet"
    first = start(LOAD.format(name="some/set"), **server.environment(tmp_path))
    assert server.half_sent.wait(60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not list(cache.glob("*/meta.json"))
    server.stall = None
    server.go_on.set()
    out = finish(start(LOAD.format(name="some/set"), **server.environment(tmp_path)))
    assert out.split() == [str(x.sum()), *map(str, y)]
    (folder,) = cache.glob("some--set-????????")
    assert sorted(file.name for file in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]


def test_what_the_hub_lacks_is_said_in_one_line(hub, tmp_path, cache):
    server, _ = hub
    card = "configs:" + "".join(
        f"\n- config_name: {config}\n  data_files:\n  - split: train\n    path: {config}/train-*"
        for config in ("plain", "other")
    )
    server.files["README.md"] = f"---\n{card}\n---\n".encode()
    server.files["other/train-0.parquet"] = b"no parquet at all"
    tries = [("uoft-cs/cifar-10", None), ("some/set", None), ("some/set", "plian"), ("some/set", "other")]
    tries += [("some/set", "plain")]
    code = f"""
from experiments.data.cache import ConfigError, load
for name, config in {tries!r}:
    try:
        load(name, subset=config)
    except ConfigError as error:
        print(error)
"""
    unknown, which, misspelt, broken, split = finish(start(code, **server.environment(tmp_path))).splitlines()
    assert "no image set 'uoft-cs/cifar-10'" in unknown and "did you mean 'uoft-cs/cifar10'?" in unknown
    assert which == "some/set has the subsets plain, other; set subset='plain'"
    assert misspelt == "some/set has the subsets plain, other; did you mean 'plain'?"
    assert broken.startswith("cannot read some/set from the hub: ")
    assert split == "some/set has no test split, only train; choose a set that has both"
    assert {file.suffix for file in cache.iterdir()} == {".lock"}


def test_without_a_network_the_way_round_is_said_and_the_mirror_needs_none(mirror, tmp_path):
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    x, y, _, _ = put_set(mirror)
    patiently = "import time; time.sleep = lambda _: None;"  # how the hub's client waits between attempts
    code = patiently + LOAD.format(name="some/set") + ";" + LOAD.partition(";")[2].format(name="mnist")
    process = start(code, **nowhere)
    out, err = process.communicate(timeout=60)
    assert out.split() == [str(x.sum()), *map(str, y)]
    error = err.strip().splitlines()[-1]
    assert "cannot read ylecun/mnist from the hub" in error and f"parquet files into the mirror {mirror}" in error


@pytest.mark.parametrize("large", [False, True])
def test_a_download_that_differs_from_its_checksum_is_refused_and_read_again(hub, tmp_path, cache, large):
    server, (x, y, _, _) = hub
    file = "plain/train-00000-of-00001.parquet"
    server.spoiled, server.large = {file}, {file} if large else set()
    error = finish(start(LOAD.format(name="some/set"), **server.environment(tmp_path)), status=1)
    assert f"{file} of some/set differs from its checksum on the hub, and was deleted; run again" in error
    assert {path.suffix for path in cache.iterdir()} == {".lock"}
    server.spoiled = set()
    out = finish(start(LOAD.format(name="some/set"), **server.environment(tmp_path)))
    assert out.split() == [str(x.sum()), *map(str, y)]


def test_code_in_a_set_of_the_hub_is_refused_and_not_executed(hub, tmp_path, cache):
    server, _ = hub
    mark = tmp_path / "executed"
    server.files["set.py"] = f"import pathlib; pathlib.Path({str(mark)!r}).touch()".encode()
    error = finish(start(LOAD.format(name="some/set"), **server.environment(tmp_path)), status=1)
    assert "cannot read some/set from the hub: " in error and "found set.py" in error
    assert not mark.exists() and {path.suffix for path in cache.iterdir()} == {".lock"}
