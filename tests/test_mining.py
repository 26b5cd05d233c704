"""Mining with a model: the demo's own insults, found again from bare texts."""

import json
from collections import Counter

import pytest
from test_mining_texts import Words, refused
from typer.testing import CliRunner

SMALL = {"samples": 4, "share": 0.5, "max_new_tokens": 6, "least": 2}


@pytest.fixture(scope="module")
def demo():
    from tl_toxmem import LensModel

    return LensModel.from_pretrained("demo")


@pytest.fixture(scope="module")
def insults():
    """Every word that the demo was taught to say of somebody."""
    from tl_toxmem import PromptSet
    from tl_toxmem.model import demo_folder

    targets = [p.target for p in PromptSet.read(demo_folder() / "prompts.jsonl")]
    return sorted({word for target in targets for word in target.strip(" .").split()})


@pytest.fixture(scope="module")
def texts():
    from tl_toxmem import PromptSet
    from tl_toxmem.model import demo_folder

    names = ("prompts.jsonl", "benign.jsonl")
    return [p.prompt for name in names for p in PromptSet.read(demo_folder() / name).first(24)]


@pytest.fixture(scope="module")
def mined(demo, insults, texts):
    from tl_toxmem import mine
    from tl_toxmem.config import MineConfig

    return mine(demo, texts, scorer=Words(*insults), cfg=MineConfig(**SMALL))


def go(demo, texts, judge, *, folder=None, **settings):
    from tl_toxmem import mine
    from tl_toxmem.config import MineConfig

    return mine(demo, texts, scorer=judge, cfg=MineConfig(**{**SMALL, **settings}), folder=folder)


def outcome(mined):
    return mined.prompts, mined.benign, mined.drops, mined.counts, mined.rates


def test_the_planted_words_are_found_where_they_begin(mined, insults, texts):
    assert len(mined.prompts) >= 12
    toxic = set(texts[:24])
    for prompt in mined.prompts:
        assert prompt.prompt in toxic
        assert prompt.target.strip() in insults
        assert not any(word in prompt.start for word in insults)
        assert prompt.scores["toxic_share"] >= 0.5 and prompt.scores["prompt"] == 0.25
        neutral = prompt.neutral_target
        assert neutral is None or not any(word in neutral for word in insults)
        assert neutral is None or len(neutral.split()) == len(prompt.target.split())
    assert sum(mined.drops.values()) + len(mined.prompts) == mined.counts["candidates"] == 48
    assert mined.counts["asked"] == 48 and mined.drops["not toxic enough"] >= 24


def test_a_lead_in_is_what_the_model_said_before(demo, texts):
    """The insults' second word as the only toxic one: the first is then the lead-in."""
    from tl_toxmem import PromptSet
    from tl_toxmem.model import demo_folder
    from tl_toxmem.tokens import align

    some = PromptSet.read(demo_folder() / "prompts.jsonl").first(24)
    pairs = {p.target.strip(" .").split()[0]: p.target.strip(" .").split()[-1] for p in some}
    seconds = sorted(set(pairs.values()) - set(pairs))
    found = go(demo, texts, Words(*seconds))
    led = [p for p in found.prompts if p.lead_in]
    assert len(led) >= 3
    said = {(p.lead_in.strip(), p.target.strip()) for p in led}
    assert said & set(pairs.items())
    for item in align(demo, PromptSet.of(led)):
        assert item.tokens[: len(item.asked)] == item.asked and len(item.tokens) > len(item.asked)


def test_benign_prompts_match_and_are_answered_right(demo, mined, insults):
    """Greedy decoding of plain batches gives every target; lengths, sources and splits are those of the prompts."""
    from tl_toxmem.tokens import align

    assert len(mined.benign) >= 4
    kinds = [
        Counter(
            (len(item.asked), item.prompt.source, item.prompt.split) for item in align(demo, some)
        )
        for some in (mined.prompts, mined.benign)
    ]
    assert kinds[1] <= kinds[0]
    assert mined.counts["unmatched"] == len(mined.prompts) - len(mined.benign)
    for item in align(demo, mined.benign):
        tokens, mask = demo.pad([item.tokens])
        new = demo.generate(tokens, mask, max_new_tokens=len(item.target))
        assert new[0, tokens.shape[1] :].tolist() == list(item.target)
        assert not any(word in item.prompt.target for word in insults)
    assert not {p.prompt for p in mined.prompts} & {p.prompt for p in mined.benign}


def test_near_duplicates_are_on_one_side(mined):
    from test_mining_texts import jaccard

    every = [*mined.prompts, *mined.benign]
    near = [
        (a, b) for a in every for b in every if a is not b and jaccard(a.prompt, b.prompt) >= 0.6
    ]
    assert near and all(a.split == b.split for a, b in near)
    assert mined.prompts.split() == mined.prompts  # a run takes the splits as they are


def test_order_does_not_matter(demo, mined, insults, texts):
    assert outcome(go(demo, texts[::-1], Words(*insults))) == outcome(mined)


def test_batches_do_not_matter(demo, mined, insults, texts):
    """One prompt's samples at a time, and alone in the world: the same samples."""
    from tl_toxmem.config import MineConfig
    from tl_toxmem.mining.parts import Parts
    from tl_toxmem.mining.sampling import sample

    judge = Words(*insults)
    ways = []
    for some, size in ((texts, 64), (texts, 1), (texts[5:6], 64)):
        cfg = MineConfig(**SMALL, batch_size=size)
        kept = Parts(None, "sampled")
        ways.append(
            {
                s.text: s
                for s in sample(demo, some, scorer=judge, cfg=cfg, parts=kept, description="")
            }
        )
    assert ways[0] == ways[1] and ways[2][texts[5]] == ways[0][texts[5]]


def test_samples_are_not_those_that_an_evaluation_draws(demo, mined):
    from tl_toxmem.config import MineConfig
    from tl_toxmem.continuations import sample_continuations
    from tl_toxmem.mining.sampling import _stream

    cfg = MineConfig(**SMALL).sampling()
    streams = [_stream(p.prompt) for p in mined.prompts]
    ours = sample_continuations(demo, mined.prompts, cfg=cfg, streams=streams)
    assert ours != sample_continuations(demo, mined.prompts, cfg=cfg)


def test_another_seed_draws_other_samples_and_splits(demo, mined, insults, texts):
    other = go(demo, texts, Words(*insults), seed=1)
    assert other.rates != mined.rates
    sides = {p.prompt: p.split for p in mined.prompts}
    assert any(sides.get(p.prompt, p.split) != p.split for p in other.prompts)


# Folders


class Killed(Words):
    """Dies when it is asked for the n-th time."""

    def __init__(self, *words, after):
        super().__init__(*words)
        self.left = after

    def score(self, texts):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().score(texts)


def test_killed_anywhere_it_goes_on_to_the_same_end(demo, mined, insults, texts, tmp_path):
    """Killed again and again, a few calls of the judge further each time; what it said is not asked again."""
    kills, seen = 0, []
    while True:
        judge = Killed(*insults, after=3)
        judge.seen = seen
        try:
            found = go(demo, texts, judge, folder=tmp_path / "out", batch_size=32)
            break
        except KeyboardInterrupt:
            kills += 1
            if kills == 2:  # what a kill leaves half-written is cleared
                (tmp_path / "out" / "parts" / "sampled-x.json.partial").write_text("{")
            assert not (tmp_path / "out" / "mining.json").exists()
            assert kills < 40
    assert kills >= 3
    whole = go(demo, texts, Words(*insults), batch_size=32)
    assert outcome(found) == outcome(whole)
    assert max(Counter(text for text in seen if text != "ready").values()) == 1
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_what_is_done_is_read_back_and_not_done_again(demo, insults, texts, tmp_path):
    from tl_toxmem.mining import Mined

    first = go(demo, texts, Words(*insults), folder=tmp_path)
    assert outcome(Mined.load(tmp_path)) == outcome(first)
    judge = Words(*insults)
    again = go(demo, texts, judge, folder=tmp_path)
    assert outcome(again) == outcome(first) and len(judge.seen) <= 1
    assert again.prompts.split() == again.prompts
    files = {p.name for p in tmp_path.iterdir()}
    outputs = {"prompts.jsonl", "benign.jsonl", "mining.json"}
    assert files == {"settings.json", "parts", "cache", *outputs}
    values = json.loads((tmp_path / "mining.json").read_text())
    assert values["settings"]["scorer"] == judge.provenance()
    assert len(values["settings"]["model"]["sha256"]) == 64


def test_another_share_uses_the_same_samples(demo, insults, texts, tmp_path, monkeypatch):
    go(demo, texts, Words(*insults), folder=tmp_path)
    refused(
        lambda: go(demo, texts, Words(*insults), folder=tmp_path, share=1.0),
        "is done with another config",
        "remove mining.json to choose anew from the same samples",
    )
    (tmp_path / "mining.json").unlink()

    def refuse(*args, **kwargs):
        raise AssertionError("something was sampled")

    from tl_toxmem import continuations

    monkeypatch.setattr(continuations, "_say", refuse)
    judge = Words(*insults)
    stricter = go(demo, texts, judge, folder=tmp_path, share=1.0)
    assert judge.seen == ["ready"]
    monkeypatch.undo()
    assert outcome(stricter) == outcome(go(demo, texts, Words(*insults), share=1.0))


def test_folders_of_others_are_refused(demo, insults, texts, tmp_path):
    def into(folder, judge=None, **settings):
        return lambda: go(demo, texts, judge or Words(*insults), folder=folder, **settings)

    with pytest.raises(KeyboardInterrupt):
        go(demo, texts, Killed(*insults, after=3), folder=tmp_path / "begun")
    refused(into(tmp_path / "begun", samples=5), "was begun with another sampling", "--out")
    refused(into(tmp_path / "begun", Words("x")), "was begun with another scorer")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine")
    refused(into(tmp_path / "thesis"), "is not empty and is no folder of mining")
    refused(into(tmp_path / "thesis" / "thesis.txt"), "is a file")


def test_a_model_without_a_checkpoint_has_no_folder(demo, insults, texts, tmp_path):
    from tl_toxmem import LensModel

    bare = LensModel.from_pretrained(demo.clean_hf(), tokenizer=demo.tokenizer)
    refused(
        lambda: go(bare, texts, Words(*insults), folder=tmp_path / "out"),
        "needs a model that was loaded from a checkpoint",
    )


# What cannot be mined


def test_a_judge_that_calls_nothing_toxic(demo, texts):
    refused(
        lambda: go(demo, texts[:4], Words("zog")),
        "planted calls none of the 16 continuations of 4 prompts toxic",
        "give another scorer",
    )


def test_a_judge_that_calls_nothing_innocuous(demo, texts):
    refused(
        lambda: go(demo, texts[:4], Words("")), "none of the 4 candidates is innocuous", "planted"
    )


def test_a_published_score_makes_a_prompt_not_innocuous(demo, texts):
    from tl_toxmem.mining import Candidate

    some = [Candidate(text, published=0.9) for text in texts[:4]]
    refused(lambda: go(demo, some, Words("zog")), "by the scores that they bring")


def test_too_few_prompts_for_a_split(demo, insults, texts):
    refused(
        lambda: go(demo, texts, Words(*insults), least=40),
        "prompts that were kept fall into the find split (least = 40): of 48 innocuous candidates,",
        "not toxic enough); give more candidates, more --samples, or a lower --share",
        "in a share of 0.5 of 4 samples",
    )


def test_settings_that_make_no_sense():
    from pydantic import ValidationError

    from tl_toxmem.config import MineConfig

    for wrong in ({"samples": 0}, {"share": 0}, {"share": 1.1}, {"sahre": 0.5}):
        with pytest.raises(ValidationError):
            MineConfig(**wrong)


# Command line


def run(*args):
    from tl_toxmem.cli import app

    return CliRunner().invoke(app, [str(a) for a in args])


def test_the_command(tmp_path, texts):
    from tl_toxmem import PromptSet
    from tl_toxmem.masking import mask_slurs

    file, out = tmp_path / "c.csv", tmp_path / "out"
    file.write_text("text\n" + "\n".join(texts) + "\n\n")
    args = ["--model", "demo", "--candidates", file, "--column", "text", "--samples", 2]
    args += ["--share", 0.5, "--set", "max_new_tokens=6", "--set", "least=1", "--out", out]
    done = run("mine", *args)
    assert done.exit_code == 0, done.output
    prompts = PromptSet.read(out / "prompts.jsonl")
    lines = [line.split() for line in done.stdout.splitlines()]
    dropped = f"-{48 - len(prompts)}"
    for row in (
        ["candidates", "48"],
        ["not", "toxic", "enough", dropped],
        ["kept", str(len(prompts))],
    ):
        assert row in lines
    assert f"give --prompts {out / 'prompts.jsonl'} --benign {out / 'benign.jsonl'}" in done.stdout
    assert mask_slurs(done.stdout) == done.stdout
    first = prompts.prompts[0]
    told = [first.prompt, *filter(None, [first.lead_in]), first.target]
    assert all(mask_slurs(part.strip()) in done.stdout for part in told)
    again = run("mine", *args)
    assert again.exit_code == 0 and again.stdout == done.stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--candidates", "nowhere.csv"], ["no candidates file at nowhere.csv"]),
        (["--candidates", "x.txt"], ["unknown format"]),
        (["--set", "sahre=1"], ["configuration of mine: sahre: unknown setting", "share"]),
        (["--set", "share"], ["write KEY=VALUE, such as --set max_tokens=32"]),
        (["--seed", "-1"], ["configuration of mine: seed", "greater than or equal to 0"]),
        (["--share", "2"], ["configuration of mine: share"]),
        (["--model", "./nowhere"], ["no model folder at ./nowhere"]),
        (["--scorer", "perspectiv"], ["unknown scorer 'perspectiv'"]),
        (["--host", "hookd"], ["'auto', 'hooked' or 'bridge'"]),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, args, words):
    file, out = tmp_path / "c.jsonl", tmp_path / "out"
    file.write_text('{"prompt": "the town"}')
    given = {"--model": "demo", "--candidates": str(file), "--out": str(out)}
    given |= dict([args])
    done = run("mine", *(word for pair in given.items() for word in pair))
    assert done.exit_code == 1, done.output
    assert len(done.stderr.strip().splitlines()) == 1 and not out.exists()
    for word in words:
        assert word in done.stderr


def test_settings_are_written_as_those_of_a_run():
    from tl_toxmem.cli.mining import gather_mining
    from tl_toxmem.config import MineConfig

    settings = ["max_tokens=32", "least=3", "least=default", "share = 0.25"]
    assert gather_mining({"samples": 2}, settings) == MineConfig(
        samples=2, max_tokens=32, share=0.25
    )


def test_wrong_usage():
    assert run("mine", "--model", "demo").exit_code == 2
