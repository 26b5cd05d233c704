"""Kept scores: no text is judged twice, none is lost, and no file is believed that is damaged or another judge's."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tiny_judges import load, make_checkpoint, refused, texts


@dataclass
class Counting:
    """A judge that remembers what it was asked; its scores need all the digits of a float32."""

    name: str = "counting"
    sha256: str = "0" * 64
    asked: list[str] = field(default_factory=list)
    add: float = 0.0

    def score(self, texts):
        self.asked += texts
        return torch.tensor([1 / (3 + len(text)) + self.add for text in texts])

    def provenance(self):
        return {"scorer": self.name, "label": "length", "sha256": self.sha256}


def cached(scorer, folder: Path):
    from tl_toxmem.scorers import CachedScorer

    return CachedScorer(scorer, folder)


def test_every_text_is_judged_once_also_by_another_process(tmp_path):
    judge = Counting()
    samples = ["sea", "a fool", "sea", "", "a fool"]
    scorer = cached(judge, tmp_path / "run" / "cache")
    want = Counting().score(samples)
    assert torch.equal(scorer.score(samples), want)
    assert judge.asked == ["sea", "a fool", ""]
    assert torch.equal(scorer.score([*samples, "rain falls"])[:5], want)
    assert judge.asked == ["sea", "a fool", "", "rain falls"]
    later = Counting()
    again = cached(later, tmp_path / "run" / "cache").score(samples)
    assert torch.equal(again, want), "a float32 comes back to the last bit"
    assert again.dtype == torch.float32
    assert later.asked == []


def test_it_is_a_judge_itself(tmp_path):
    from tl_toxmem.scorers import ToxicityScorer

    scorer = cached(load(make_checkpoint(tmp_path)), tmp_path / "cache")
    assert isinstance(scorer, ToxicityScorer)
    assert scorer.provenance() == scorer.scorer.provenance()
    assert scorer.name == scorer.scorer.name
    assert scorer.score([]).shape == (0,)
    assert not (tmp_path / "cache").exists()
    samples = texts(30)
    got = scorer.score(samples)
    assert torch.equal(cached(scorer.scorer, tmp_path / "cache").score(samples), got)


@pytest.mark.parametrize("change", [{"sha256": "1" * 64}, {"name": "other"}])
def test_another_judge_has_another_file(tmp_path, change):
    cached(Counting(), tmp_path).score(["sea"])
    other = Counting(**change)
    cached(other, tmp_path).score(["sea"])
    assert other.asked == ["sea"]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_file_is_as_the_formats_page_says(tmp_path):
    judge = Counting()
    scorer = cached(judge, tmp_path)
    scorer.score(["sea"])
    first, second = map(json.loads, scorer.file().read_text().splitlines())
    assert first == {"format_version": 1, "kind": "scores", "scorer": judge.provenance()}
    key = hashlib.sha256(b"sea").hexdigest()
    score = float(torch.tensor(1 / 6))
    check = hashlib.sha256(f"{key} {score}".encode()).hexdigest()[:8]
    assert second == {"sha256": key, "score": score, "check": check}
    digest = hashlib.sha256(json.dumps(judge.provenance(), sort_keys=True).encode()).hexdigest()
    assert scorer.file().name == f"scores-{digest[:16]}.jsonl"


def test_every_torn_tail_is_cut_off_and_judged_again(tmp_path):
    """At whatever byte of the last line a kill struck."""
    scorer = cached(Counting(), tmp_path)
    scorer.score(["sea", "rain"])
    path, whole = scorer.file(), scorer.file().read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    for cut in range(1, last):
        path.write_bytes(whole[:-cut])
        judge = Counting()
        assert torch.equal(
            cached(judge, tmp_path).score(["sea", "rain"]), Counting().score(["sea", "rain"])
        )
        assert judge.asked == ["rain"]
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: [b"{}", *lines[1:]], ["does not hold the scores of counting"]),
        (lambda lines: [], ["does not hold the scores of counting"]),
        (lambda lines: [lines[0].replace(b"0000", b"0001"), *lines[1:]], ["does not hold"]),
        (
            lambda lines: [lines[0], lines[1].replace(b"0.", b"0.0"), lines[2]],
            ["line 2 is damaged"],
        ),
        (lambda lines: [lines[0], lines[1][:-9], *lines[2:]], ["line 2 is damaged"]),
        (lambda lines: [*lines, b""], ["line 4 is damaged"]),
        (lambda lines: [*lines, b'{"sha256": "ab", "score": 0.5}'], ["line 4 is damaged"]),
        (lambda lines: [*lines, lines[1][:76] + b' "score": 1.5}'], ["line 4 is damaged"]),
        (lambda lines: [*lines, lines[1][:76] + b' "score": NaN}'], ["line 4 is damaged"]),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_and_left_alone(tmp_path, damage, words):
    scorer = cached(Counting(), tmp_path)
    scorer.score(["sea", "rain"])
    path = scorer.file()
    path.write_bytes(b"".join(line + b"\n" for line in damage(path.read_bytes().splitlines())))
    before = path.read_bytes()
    fresh = cached(Counting(), tmp_path)
    refused(lambda: fresh.score(["sea"]), str(path), "remove", *words)
    assert path.read_bytes() == before


def test_scores_before_a_kill_are_kept(tmp_path):
    """The judge is killed in its third part of the texts; what it said of the first two is not asked again."""
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from test_scorers_cached import Counting\n"
        "from tl_toxmem.scorers import CachedScorer, cached\n"
        "cached._CHUNK = 10\n"
        "class Killed(Counting):\n"
        "    def score(self, texts):\n"
        "        if len(self.asked) == 20:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().score(texts)\n"
        "CachedScorer(Killed(), Path(sys.argv[1])).score([str(i) for i in range(30)])\n"
    )
    place = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, **place}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    judge = Counting()
    cached(judge, tmp_path).score([str(i) for i in range(30)])
    assert judge.asked == [str(i) for i in range(20, 30)]


def test_what_is_no_score_or_no_known_judge_is_not_kept(tmp_path):
    for add in (1.0, float("nan")):
        scorer = cached(Counting(add=add), tmp_path)
        refused(lambda scorer=scorer: scorer.score(["sea"]), "counting gave", "between 0 and 1")
    judge = Counting()
    judge.provenance = lambda: {"scorer": "counting"}
    unknown = cached(judge, tmp_path)
    refused(lambda: unknown.score(["sea"]), "cannot be kept", "sha256 of its weights")


def test_a_run_keeps_scores_of_all_its_judges(tmp_path, monkeypatch):
    """The pipeline's inputs: raw until the run folder is there, then with its cache; the first judge decides."""
    from tl_toxmem.config import make_config
    from tl_toxmem.pipeline.inputs import read_inputs
    from tl_toxmem.store import RunFolder

    checkpoint = make_checkpoint(tmp_path / "judge")
    scorers = ["profanity", f"detoxify:{checkpoint}"]
    cfg = make_config({"model": "demo", "out": str(tmp_path / "run"), "scorer": scorers})
    inputs = read_inputs(cfg)
    assert not (tmp_path / "run").exists()
    ours = inputs.cached(RunFolder(cfg.out))
    for scorer in ours.scorers:
        scorer.score(["the sea is calm"])
    assert [s.name for s in ours.scorers] == ["profanity", f"detoxify:{checkpoint.name}"]
    assert ours.scorer is ours.scorers[0]
    assert len(list(RunFolder(cfg.out).cache.iterdir())) == 2


def test_judges_of_one_name_are_refused(tmp_path):
    from tl_toxmem.config import make_config
    from tl_toxmem.pipeline.inputs import read_inputs

    one, other = (make_checkpoint(tmp_path / name) for name in "ab")
    names = [f"detoxify:{one}", f"detoxify:{other}"]
    same = make_config({"model": "demo", "out": str(tmp_path / "run"), "scorer": names})
    refused(lambda: read_inputs(same), "are both called", str(one), str(other))


def test_judges_in_the_configuration(tmp_path):
    import tomllib

    from tl_toxmem.config import make_config

    def config(**values):
        return make_config({"model": "demo", "out": str(tmp_path), **values})

    assert config().scorers == ("profanity",)
    assert config(scorer=["profanity"]).hash() == config(scorer="profanity").hash()
    two = config(scorer=["profanity", "detoxify:original"])
    assert two.scorers == ("profanity", "detoxify:original")
    assert two.hash() != config(scorer=["detoxify:original", "profanity"]).hash()
    assert make_config(tomllib.loads(two.to_toml())) == two
    assert config(trust_pickle=True).hash() == config().hash()
    refused(lambda: config(scorer=["profanity", "profanity"]), "scorer", "each judge once")
