"""Detoxify's published files from a stand-in server on the loopback: what arrives, and what does not."""

import functools
import hashlib
import os
import socket
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from tiny_judges import ROUNDING, make_checkpoint, refused, seal, texts

_LOOK_UP = socket.getaddrinfo


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.server.mode == "truncated":
            content = (self.server.folder / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        elif self.server.mode == "other":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"a page of an hotel's network")
        else:
            super().do_GET()


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A server whose one file is published as `unbiased`; torch.hub's cache is empty."""
    import detoxify.detoxify

    def loopback(host, *args, **kwargs):
        assert host == "127.0.0.1", f"the test reached for the network: {host}"
        return _LOOK_UP(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", loopback)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "release"
    config = str(folder / "config")  # where the real one names a hub id
    classes = ("toxicity", "insult")
    checkpoint = make_checkpoint(folder, "Roberta", classes=classes, n_classes=5, model_type=config)
    handler = functools.partial(_Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.folder, server.asked, server.mode = folder, [], ""
        server.checkpoint = checkpoint
        server.cached = tmp_path / "home" / "hub" / "checkpoints" / checkpoint.name
        server.url = f"http://127.0.0.1:{server.server_port}/{checkpoint.name}"
        monkeypatch.setitem(detoxify.detoxify.MODEL_URLS, "unbiased", server.url)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def unbiased():
    from tl_toxmem.scorers import load_scorer

    return load_scorer("detoxify:unbiased")


def test_a_published_model_is_fetched_once_and_judges_as_detoxify_does(release):
    import detoxify

    scorer = unbiased()
    assert release.asked == []
    assert "sha256" not in scorer.provenance()
    samples = texts(9)
    got = scorer.score(samples)
    assert torch.equal(unbiased().score(samples), got)
    assert release.asked == [f"/{release.checkpoint.name}"]
    assert release.cached.read_bytes() == release.checkpoint.read_bytes()
    want = hashlib.sha256(release.cached.read_bytes()).hexdigest()
    assert scorer.provenance()["sha256"] == want
    theirs = torch.tensor(detoxify.Detoxify("unbiased").predict(samples)["toxicity"])
    assert torch.allclose(got, theirs, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("mode", ["truncated", "other", "missing"])
def test_a_failed_download_leaves_nothing_and_can_be_repeated(release, monkeypatch, mode):
    release.mode = mode
    if mode == "missing":
        release.checkpoint.rename(release.checkpoint.with_suffix(".away"))
    scorer = unbiased()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *a, **k: pytest.fail("the file was opened"))
        refused(lambda: scorer.score(["sea"]), "cannot download detoxify:unbiased", release.url)
    assert list(release.cached.parent.iterdir()) == []
    release.mode = ""
    if mode == "missing":
        release.checkpoint.with_suffix(".away").rename(release.checkpoint)
    assert len(scorer.score(["sea"])) == 1


class _Code:
    """In a pickle: a folder is made when it is opened."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_code_of_a_published_file_is_run_only_for_who_trusts_it(release, tmp_path, monkeypatch):
    """Eight digits of a hash are soon met by another file: they tell damage, and not who made it."""
    import detoxify.detoxify

    from tl_toxmem.scorers import load_scorer

    content = torch.load(release.checkpoint, weights_only=True)
    torch.save({**content, "more": _Code(tmp_path / "executed")}, release.folder / "evil.ckpt")
    evil = seal(release.folder / "evil.ckpt")
    url = release.url.replace(release.checkpoint.name, evil.name)
    monkeypatch.setitem(detoxify.detoxify.MODEL_URLS, "unbiased", url)
    refused(lambda: unbiased().score(["sea"]), "cannot be opened as tensors", "--trust-pickle")
    assert not (tmp_path / "executed").exists()
    assert len(load_scorer("detoxify:unbiased", trust_pickle=True).score(["sea"])) == 1
    assert (tmp_path / "executed").exists()


def test_the_cache_of_a_model_that_has_to_be_fetched_first(release, tmp_path):
    """Its weights, and with them the name of the file of scores, are known only after the first score."""
    from tl_toxmem.scorers import CachedScorer

    got = CachedScorer(unbiased(), tmp_path / "cache").score(texts(5))
    later = CachedScorer(unbiased(), tmp_path / "cache")
    assert torch.equal(later.score(texts(5)), got)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_five_published_models_are_known_by_their_hashes():
    from detoxify.detoxify import MODEL_URLS

    from tl_toxmem.scorers import PUBLISHED

    assert set(PUBLISHED) == set(MODEL_URLS)
    prefixes = [url.rsplit("-", 1)[1] for url in map(MODEL_URLS.get, PUBLISHED)]
    assert prefixes == [
        "c1212f89.ckpt", "c7548aa0.ckpt", "0b549669.ckpt", "0e1d6498.ckpt", "c8519128.ckpt"
    ]  # fmt: skip
