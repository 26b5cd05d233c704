"""Every reader of a file with a good file of it: what the fuzzer begins with, and what hypothesis spoils."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Reader:
    """A reader, and how a good record of it is written.

    Attributes:
        name: of the reader, and of the seed's file.
        suffix: of the file.
        read: gives the record, or raises a ToxmemError.
        write: writes the good record.
        good: the record itself.
    """

    name: str
    suffix: str
    read: Callable[[Path], Any]
    write: Callable[[Path], object]
    good: Any


def trace(*, n: int = 2, layers: int = 3, width: int = 4, inner: bool = True):
    """A small trace with a benign one and a robustness card."""
    import torch

    from tl_toxmem import Trace
    from tl_toxmem.stats import Estimate
    from tl_toxmem.trace import Robustness
    from tl_toxmem.trace.agreement import Profile

    draw = torch.Generator().manual_seed(n)

    def some(*shape: int):
        return torch.rand(*shape, generator=draw)

    profile = Profile("as configured", "", "mlp_out", (0.1, 0.2, 0.3), Estimate(1.0, 0.9, 1.0, n))
    return Trace(
        sites=("mlp_out", "attn_out"),
        metrics=("log_prob", "prob"),
        metric="log_prob",
        prompt_ids=tuple("ab"[:n]),
        words=tuple(("Bob", " is", " a") for _ in range(n)),
        subjects=tuple((0, 1) for _ in range(n)),
        clean=some(2, n),
        corrupted=some(2, n),
        restored=some(2, n, 2, layers, width),
        parts=some(2, n, 2, 4),
        exact=some(n, 2, layers, width) > 0.5,
        n_restored=torch.ones(2, layers, dtype=torch.long),
        corruption="noise",
        noise=0.5,
        n_noise=2,
        seed=0,
        benign=trace(n=1, inner=False) if inner else None,
        robustness=Robustness("last", (profile,)) if inner else None,
    )


def scores():
    """Small scores with a verification."""
    import torch

    from tl_toxmem import NeuronScores
    from tl_toxmem.attribute import Verification

    found = Verification(
        torch.tensor([[0, 1], [1, 2]]),
        torch.tensor([True, False]),
        torch.rand(2),
        torch.rand(2, 3),
        6,
        "zero",
        0,
    )
    return NeuronScores(
        "gradient", torch.rand(2, 4), torch.rand(3, 2, 4), ("a", "b", "c"), 0, cost=torch.rand(2, 4),
        verification=found, facts={"residual": 0.1}, model_name="m", architecture="gpt2",
    )  # fmt: skip


def evaluation():
    """A small evaluation by two judges, with an example, their agreement and a task."""
    from tl_toxmem.evaluation import EditResult, Evaluation, Example
    from tl_toxmem.scorers import judge_agreement
    from tl_toxmem.stats import Estimate

    one = Estimate(0.5, 0.25, 0.75, 4)
    rows = tuple(
        EditResult(
            edit=edit, n_neurons=n, layers=(0, 1), scorer=scorer, seed=0, toxicity_rate=one, neutral_perplexity=one,
            neutral_perplexity_ratio=one, kl_neutral=Estimate(0.1, None, None, 1),
        )
        for edit, n in (("none", 0), ("deletion", 3))
        for scorer in ("a", "b")
    )  # fmt: skip
    judged = [[0.9, 0.1], [0.2, 0.7]], [[0.8, 0.6], [0.1, 0.9]]
    agreed = judge_agreement(
        *judged, threshold=0.5, names=("a", "b"), seed=0, texts=[["x", "y"], ["z", "w"]]
    )
    protocol = {
        "description": "in short",
        "headline": "toxicity_rate",
        "intervals": "95 %",
        "n_prompts": 4,
        "scored_text": "continuation only",
        "neutral_documents": 2,
        "neutral_tokens": 9,
        "neutral_windows": "windows of 8 tokens",
    }
    return Evaluation(
        rows,
        protocol,
        (Example("Bob is a", " fool", " man", 0.9, 0.1),),
        ({"edit": "none", **json.loads(json.dumps(agreed.to_json()))},),
        ({"edit": "none", "task": "t", "values": {"acc": 0.5}},),
    )


def comparison():
    """A small comparison."""
    from tl_toxmem.comparison import Comparison, Entry
    from tl_toxmem.comparison.regression import TraceRegression
    from tl_toxmem.stats import Estimate

    slope = Estimate(0.1, -0.1, 0.2, 4)
    regression = TraceRegression(
        0.1, 0.2, 0.3, slope, 0.1, 0.05, 0.09, "log_prob", 2, 2, (0.1, 0.2), (0.3, 0.4)
    )
    entry = Entry("deletion", "deletion", "ours", "deletion", "neurons", 3.0)
    return Comparison(evaluation(), (entry,), regression, ("one method, as it has no place here",))


def selected():
    """A small selection with all that there can be."""
    from tl_toxmem import NeuronSet
    from tl_toxmem.cards import Change, Excited, NeuronCard
    from tl_toxmem.select import Joint, KPoint, Selected, Tried
    from tl_toxmem.stats import Estimate

    one = Estimate(0.5, 0.25, 0.75, 4)
    card = NeuronCard(
        0, 1, one, 0.5, None, (("a", 0.5),), (("b", -0.5),), (Excited("Bob is a", " a", 2, 1.5),),
        (Change("Bob is a", " fool", " man"),),
    )  # fmt: skip
    return Selected(
        k=2,
        rule="k as configured",
        method="gradient",
        ranked_by="search",
        layers=(0, 1),
        curve=(KPoint(0, 0.0, 0.5, 0.5), KPoint(2, 0.01, 0.1, None)),
        trials=(Tried(0, {"law": "gates", "share": 0.7}, 0.1, 0.2, 0.25),),
        law={"law": "gates", "scales": [0.5, 0.25]},
        selected=NeuronSet(((0, 1), (1, 2)), 2, 4),
        joint_effect=Joint(one, one, (one, one), "scale"),
        controls={"random_neurons": NeuronSet(((0, 2), (1, 3)), 2, 4)},
        loudness_ratios={"random_neurons": 0.9},
        no_decoy="there are no benign prompts",
        early_layers=(0,),
        cards=(card,),
    )


def provenance():
    """What a run folder says of itself."""
    names = ("prompts", "neutral", "model")
    return {
        "format_version": 1,
        "model": "demo",
        "revision": None,
        "config_hash": "0" * 64,
        "inputs": dict.fromkeys(names, "0" * 64),
        "seed": 0,
        "versions": {"tl-toxmem": "0"},
        "stages": {"prompts": "1" * 64},
        "outputs": {"1_prompts.jsonl": "2" * 64, "7_checkpoint": {"config.json": "3" * 64}},
        "engines": {"prompts": {"engine": "local"}},
    }


def deletion():
    """A small law with a low-rank part, for a named base."""
    import torch

    from tl_toxmem import Deletion, NeuronSet
    from tl_toxmem.base import Base
    from tl_toxmem.law import LowRank

    U = torch.zeros(4, 1, dtype=torch.float64)
    U[1] = 1
    part = LowRank(U, torch.ones(1, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    values = torch.tensor([0.0, 0.5], dtype=torch.float64)
    base = Base("m", None, "gpt2", {"h.0.mlp.c_proj.weight": ("float32", "0" * 64)})
    neurons = NeuronSet(((0, 1), (1, 2)), 2, 4)
    return Deletion(
        neurons, values, values.clone(), "zero", {"host": "hooked"}, added={0: part}, base=base
    )


def certificate():
    """A certificate that passed."""
    from tl_toxmem.certificate import Certificate

    return Certificate(
        1e-7, 0.5, (1, 1), "float64", 1e-8, 1e-6, 1e-6, "float32", None, True, False, 1e-5, 1e-4, True, "hooked", "m",
        None, False, ("Bob is a",), 4, {"config.json": "0" * 64}, {"tl-toxmem": "0", "transformer-lens": "0"},
    )  # fmt: skip


def mined():
    """A mining of two prompts."""
    from tl_toxmem import Prompt, PromptSet
    from tl_toxmem.mining import Mined

    return Mined(
        _prompts(), PromptSet.of([Prompt(prompt="the town", target=" is", id="x")]), {"too short": 1}, {"asked": 2},
        {"asked": 0.5}, {"0.1": 2}, {"model": {"name": "m", "sha256": "0"}},
    )  # fmt: skip


def _prompts():
    from tl_toxmem import Prompt, PromptSet

    return PromptSet.of(
        [
            Prompt(
                prompt="Bob is a",
                target=" fool",
                subject="Bob",
                scores={"x": 0.5},
                source="s",
                split="find",
            ),
            Prompt(
                prompt="the ü\u2028",
                lead_in=" so",
                target=" x",
                neutral_target=" y",
                counterfactual="the b",
            ),
        ]
    )


def readers(folder: Path) -> list[Reader]:
    """All readers; `folder` is for those that read more than one file.

    The file that is spoiled is the one that the reader is called with.
    """
    from tl_toxmem import Deletion, NeuronScores, NeuronSet, PromptSet, Trace
    from tl_toxmem.attribute import read_labelled
    from tl_toxmem.certificate import Certificate
    from tl_toxmem.comparison import Comparison
    from tl_toxmem.config import make_config, read_toml
    from tl_toxmem.delta import load_originals
    from tl_toxmem.evaluation import Evaluation
    from tl_toxmem.mining import Mined, read_candidates
    from tl_toxmem.neutral import read_documents
    from tl_toxmem.select import Selected
    from tl_toxmem.store import RunFolder
    from tl_toxmem.weights import _header, model_files

    cfg = make_config({"model": "demo", "out": "out", "trace": {"window": 3}, "select": {"k": 4}})
    neurons = NeuronSet(((0, 1), (1, 2)), 2, 4)
    text = '{"text": "a", "toxic": true}\n{"text": "b", "toxic": false}\n'
    table = 'prompt,source,prompt_toxicity\n"the, town",a,0.5\nBob is,,\n'

    def in_folder(name: str, save: Callable[[Path], object], load: Callable[[Path], Any]):
        """A reader of a folder as one of its file `name`."""

        def read(path: Path) -> Any:
            place = folder / f"of-{name}"
            if not place.is_dir():
                place.mkdir(parents=True)
                save(place)
            (place / name).write_bytes(path.read_bytes())
            return load(place)

        def write(path: Path) -> None:
            place = folder / f"from-{name}"
            place.mkdir(parents=True, exist_ok=True)
            save(place)
            path.write_bytes((place / name).read_bytes())

        return read, write

    law, made, own = deletion(), mined(), certificate()
    mining = in_folder("mining.json", made.save, Mined.load)
    certified = in_folder("certificate.json", own.write, Certificate.read)
    ours = in_folder(
        "provenance.json",
        lambda place: (place / "provenance.json").write_text(json.dumps(provenance())),
        lambda place: RunFolder(place).provenance(),
    )
    index = in_folder(
        "model.safetensors.index.json",
        lambda place: (
            (place / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "a.safetensors"}}'
            ),
            (place / "a.safetensors").write_bytes(b""),
        ),
        model_files,
    )
    return [
        Reader("prompts", ".jsonl", PromptSet.read, _prompts().write, _prompts()),
        Reader(
            "config",
            ".toml",
            lambda p: make_config(read_toml(p)),
            lambda p: p.write_text(cfg.to_toml()),
            cfg,
        ),
        Reader("deletion", ".safetensors", Deletion.load, law.save, law),
        Reader("originals", ".safetensors", load_originals, law.save, {}),
        Reader("neurons", ".json", NeuronSet.read, neurons.write, neurons),
        Reader("trace", ".safetensors", Trace.load, (t := trace()).save, t),
        Reader("scores", ".safetensors", NeuronScores.load, (s := scores()).save, s),
        Reader("evaluation", ".json", Evaluation.load, evaluation().save, evaluation()),
        Reader("comparison", ".json", Comparison.load, comparison().save, comparison()),
        Reader("certificate", ".json", *certified, own),
        Reader("mining", ".json", *mining, made),
        Reader("selected", ".json", Selected.load, selected().save, selected()),
        Reader("provenance", ".json", *ours, provenance()),
        Reader("labelled", ".jsonl", read_labelled, lambda p: p.write_text(text), None),
        Reader("candidates", ".csv", read_candidates, lambda p: p.write_text(table), None),
        Reader("candidates-lines", ".jsonl", read_candidates, _prompts().write, None),
        Reader(
            "neutral", ".txt", read_documents, lambda p: p.write_text("one\ntwo\n"), ["one", "two"]
        ),
        Reader("header", ".safetensors", _header, law.save, None),
        Reader("index", ".json", *index, None),
    ]
