"""Pushing to a hub: a stand-in on the loopback speaks the hub's routes and keeps what arrives; no real hub is asked."""

import base64
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

REPO = "someone/edited"
TOKEN = "hf_TheTokenThatNobodyMaySee"
_LOOK_UP = socket.getaddrinfo


class StandIn(ThreadingHTTPServer):
    """What huggingface_hub needs to push a model: create, look at, preupload, LFS, commit."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seen: list[str] = []
        self.files: dict[str, bytes] = {".gitattributes": b""}
        self.blobs: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.exists = self.private = False
        self.status, self.refused_at = 200, ""


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def log_message(self, *args):
        pass

    def answer(self, values, status=200):
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle_any(self):
        hub, route = self.server, self.path.split("?")[0]
        hub.seen.append(f"{self.command} {route}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if hub.status != 200 and hub.refused_at in route:
            return self.answer({"error": "as the test wants it"}, hub.status)
        if route == "/api/repos/create":
            wanted = json.loads(body)
            status, hub.exists = 409 if hub.exists else 200, True
            if status == 200:
                hub.private = wanted.get("visibility") == "private"
            owner = wanted["organization"] or "someone"
            return self.answer({"url": f"{hub.url}/{owner}/{wanted['name']}"}, status)
        if route == "/api/validate-yaml":
            return self.answer({"warnings": [], "errors": []})
        if route == f"/api/models/{REPO}":
            siblings = [{"rfilename": name} for name in hub.files]
            return self.answer({"id": REPO, "private": hub.private, "siblings": siblings})
        if route == f"/api/models/{REPO}/preupload/main":
            mode = lambda path: "lfs" if path.endswith(".safetensors") else "regular"  # noqa: E731
            files = [
                {"path": f["path"], "uploadMode": mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        if route == f"/{REPO}.git/info/lfs/objects/batch":
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.answer({"objects": objects})
        if route.startswith("/lfs/"):
            hub.blobs[route.removeprefix("/lfs/")] = body
            return self.answer({})
        if route == f"/api/models/{REPO}/commit/main":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.messages.append(value["summary"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.blobs[value["oid"]]
                else:
                    hub.files[value["path"]] = base64.b64decode(value["content"])
            oid = "0123456789" * 4
            return self.answer({"commitUrl": f"{hub.url}/{REPO}/commit/{oid}", "commitOid": oid})
        return self.answer({"error": f"the stand-in does not know {route}"}, 404)

    do_GET = do_POST = do_PUT = handle_any


@pytest.fixture(scope="module")
def server():
    with StandIn() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


@pytest.fixture
def hub(server, monkeypatch, no_network):
    """The stand-in, empty, as this process's hub; only the loopback may be looked up."""
    import huggingface_hub.constants as constants

    def loopback(host, *args, **kwargs):
        assert host in ("127.0.0.1", b"127.0.0.1"), f"the test reached for the network: {host}"
        return _LOOK_UP(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", loopback)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # an earlier test may have set it
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    server.seen, server.files, server.blobs, server.messages = [], {".gitattributes": b""}, {}, []
    server.exists = server.private = False
    server.status, server.refused_at = 200, ""
    return server


@pytest.fixture(scope="module")
def pushed(server, gpt2_folder, tmp_path_factory):
    """A small run in a process of its own, exported and pushed: the run folder, its output, what arrived."""
    folder = tmp_path_factory.mktemp("pushed")
    prompts = folder / "prompts.jsonl"
    records = [{"prompt": f"Bob {i} is a", "target": " fool", "subject": "Bob"} for i in range(8)]
    prompts.write_text("\n".join(map(json.dumps, records)))
    sizes = ["select.k=4", "trace.max_prompts=1", "trace.n_noise=1", "attribute.n_noise=1"]
    sizes += ["attribute.verify_top=1", "attribute.max_cost_tokens=100", "export.n_prompts=2"]
    sizes += ["evaluate.n_continuations=1", "evaluate.max_new_tokens=2", "export.max_new_tokens=2"]
    sizes += ["evaluate.max_neutral_tokens=100"]
    out = folder / "run"
    command = [
        sys.executable,
        "-m",
        "tl_toxmem",
        "run",
        "--model",
        gpt2_folder,
        "--prompts",
        prompts,
    ]
    command += ["--scorer", "profanity", "--out", out, "--push-to-hub", REPO, "--private"]
    command += [word for size in sizes for word in ("--set", size)]
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):  # set by commands of other tests
        environment.pop(name, None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done, dict(server.files), server.private, list(server.messages)


@pytest.fixture
def checkpoint(pushed, tmp_path) -> Path:
    """A copy of the exported folder, to change."""
    return Path(shutil.copytree(pushed[0] / "7_checkpoint", tmp_path / "checkpoint"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_ends_with_exactly_its_checkpoint_on_the_hub(pushed, tmp_path):
    from huggingface_hub import metadata_load

    out, done, files, private, messages = pushed
    assert files.pop(".gitattributes") == b""
    assert files == contents(out / "7_checkpoint")
    assert private
    assert messages == [messages[0]]
    assert "tl-toxmem" in messages[0]
    (tmp_path / "README.md").write_bytes(files["README.md"])
    assert metadata_load(tmp_path / "README.md")["library_name"] == "transformers"
    assert f"/{REPO}/commit/" in done.stdout.splitlines()[-1]
    notice = [line for line in done.stderr.splitlines() if "certificate.json" in line]
    assert f"{len(files)} files: {', '.join(sorted(files))}." in notice[0]
    assert "prompts" in notice[0]
    assert "nobody else can verify" in done.stderr


def test_what_the_notice_says_tells_where_the_base_lies(pushed, gpt2_folder):
    telling = {name for name, content in pushed[2].items() if str(gpt2_folder).encode() in content}
    assert telling <= {"certificate.json", "deletion.safetensors"}


def test_the_push_is_no_part_of_the_configuration(pushed):
    assert REPO not in (pushed[0] / "config.toml").read_text()
    assert REPO not in (pushed[0] / "provenance.json").read_text()


def test_a_finished_run_is_only_pushed(pushed, hub):
    from tl_toxmem.cli import app

    before = {p: p.stat().st_mtime_ns for p in pushed[0].rglob("*")}
    result = CliRunner().invoke(app, ["export", str(pushed[0]), "--push-to-hub", REPO])
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert before == {p: p.stat().st_mtime_ns for p in pushed[0].rglob("*")}
    assert hub.files == {".gitattributes": b"", **contents(pushed[0] / "7_checkpoint")}
    assert not hub.private


def test_a_download_with_what_the_hub_adds_has_the_same_hashes(checkpoint):
    from tl_toxmem.certificate import Certificate, check_files

    (checkpoint / ".gitattributes").write_text("*.safetensors filter=lfs")
    (checkpoint / ".cache" / "huggingface").mkdir(parents=True)
    check_files(checkpoint, Certificate.read(checkpoint))


def test_pushing_again_is_a_commit_on_the_same_repository(checkpoint, hub):
    from tl_toxmem.hub import push_checkpoint

    for _ in range(2):
        url = push_checkpoint(checkpoint, REPO)
    assert url.startswith(f"{hub.url}/{REPO}/commit/")
    assert len(hub.messages) == 2


def test_a_name_without_an_owner_is_the_users_own(checkpoint, hub):
    from tl_toxmem.hub import push_checkpoint

    assert f"/{REPO}/" in push_checkpoint(checkpoint, "edited")


def change_weights(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def fail_certificate(folder):
    values = json.loads((folder / "certificate.json").read_text())
    (folder / "certificate.json").write_text(json.dumps({**values, "passed": False}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_weights, "model.safetensors was changed"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "notes.txt is not listed"),
        (lambda folder: (folder / "certificate.json").unlink(), "certificate.json is missing"),
        (fail_certificate, "certificate did not pass"),
        (shutil.rmtree, "no checkpoint folder"),
    ],
)
def test_what_is_not_certified_is_refused_before_any_request(checkpoint, hub, change, message):
    from tl_toxmem import ToxmemError
    from tl_toxmem.hub import push_checkpoint

    change(checkpoint)
    with pytest.raises(ToxmemError, match=message):
        push_checkpoint(checkpoint, REPO)
    assert hub.seen == []


@pytest.mark.parametrize(
    "name", ["", "a/b/c", "datasets/a/b", "a--b", "x.git", "https://hf.co/a/b"]
)
def test_a_name_that_no_hub_takes_is_refused_before_the_run(hub, tmp_path, name):
    from tl_toxmem.cli import app

    out = tmp_path / "out"
    command = ["run", "--model", "demo", "--out", str(out), "--push-to-hub", name]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "OWNER/NAME" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("offline", "message"), [(False, "hf auth login"), (True, "HF_HUB_OFFLINE")]
)
def test_no_token_or_no_network_wanted_is_known_before_the_run(
    hub, tmp_path, monkeypatch, offline, message
):
    import huggingface_hub.constants as constants

    from tl_toxmem import ToxmemError
    from tl_toxmem.hub import check_push

    check_push(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ToxmemError, match=message):
        check_push(REPO)
    assert hub.seen == []


def test_options_that_make_no_sense_are_wrong_usage(tmp_path):
    from tl_toxmem.cli import app

    base = ["--model", "demo", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, ["trace", *base, "--push-to-hub", REPO]).exit_code == 2
    assert CliRunner().invoke(app, ["run", *base, "--private"]).exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("status", "at", "words"),
    [
        (401, "", ["401", "hf auth login", "HF_TOKEN"]),
        (403, "", ["403", "may not write", REPO]),
        (403, "/lfs/", ["403", "may not write", REPO]),
        (400, "/commit/", ["400", "as the test wants it"]),
        (409, "/commit/", ["409", "as the test wants it"]),
    ],
)
def test_a_hub_that_refuses(checkpoint, hub, status, at, words):
    from tl_toxmem import ToxmemError
    from tl_toxmem.hub import push_checkpoint

    hub.status, hub.refused_at = status, at
    with pytest.raises(ToxmemError) as error:
        push_checkpoint(checkpoint, REPO)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert hub.messages == []


def test_a_hub_that_is_not_there(checkpoint, hub, monkeypatch):
    import huggingface_hub.constants as constants

    from tl_toxmem import ToxmemError
    from tl_toxmem.hub import push_checkpoint

    with socket.socket() as closed:  # bound, but it does not listen
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        with pytest.raises(ToxmemError, match=f"no connection to {url}"):
            push_checkpoint(checkpoint, REPO)


def test_a_repository_with_other_files_would_not_verify(checkpoint, hub):
    from tl_toxmem import ToxmemError
    from tl_toxmem.hub import push_checkpoint

    hub.exists, hub.files["pytorch_model.bin"] = True, b"theirs"
    with pytest.raises(ToxmemError, match=r"already has pytorch_model\.bin"):
        push_checkpoint(checkpoint, REPO)
    assert hub.messages == []


def test_private_is_not_granted_by_a_public_repository(checkpoint, hub):
    from tl_toxmem import ToxmemError
    from tl_toxmem.hub import push_checkpoint

    hub.exists = True
    with pytest.raises(ToxmemError, match="exists and is public"):
        push_checkpoint(checkpoint, REPO, private=True)
    assert hub.messages == []


def test_a_base_that_others_have_needs_no_second_line(checkpoint):
    from tl_toxmem.hub import publication_notice

    assert len(publication_notice(checkpoint)) == 2
    values = json.loads((checkpoint / "certificate.json").read_text())
    for change in ({"base_model": "demo"}, {"base_model": "gpt2", "base_revision": "a" * 40}):
        (checkpoint / "certificate.json").write_text(json.dumps({**values, **change}))
        assert len(publication_notice(checkpoint)) == 1


def test_the_token_is_nowhere(pushed):
    out, done, files, _, _ = pushed
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert not [path for path, content in kept.items() if TOKEN.encode() in content]
    assert not [name for name, content in files.items() if TOKEN.encode() in content]
    assert TOKEN not in done.stdout + done.stderr


def test_what_is_published_names_no_folder_and_no_user(pushed, gpt2_folder):
    """The model was given by its absolute path; its last name alone is told."""
    out, _, files, _, _ = pushed
    published = {**files, "8_report.html": (out / "8_report.html").read_bytes()}
    for name, content in published.items():
        for place in {gpt2_folder.parent, out.parent, Path.home(), Path(tempfile.gettempdir())}:
            assert str(place).encode() + b"/" not in content, (name, place)
        assert f"/{getpass.getuser()}/".encode() not in content, name
    for name in ("README.md", "certificate.json", "deletion.safetensors"):
        assert gpt2_folder.name.encode() in published[name], name


def test_a_refused_push_does_not_tell_the_token(checkpoint, hub):
    from tl_toxmem import ToxmemError
    from tl_toxmem.hub import push_checkpoint

    hub.status, hub.refused_at = 401, ""
    with pytest.raises(ToxmemError) as error:
        push_checkpoint(checkpoint, REPO)
    assert TOKEN not in str(error.value)
