"""lm-eval: what its adapter answers is what plain transformers does, and the harness itself where it is there."""

import json
import math

import pytest
import torch
from lm_eval_stand_in import Request, install
from test_evaluation import ROUNDING, config, measured

N_CTX = 96


@pytest.fixture(scope="module")
def deletion():
    from tl_toxmem import Deletion, NeuronSet

    return Deletion.zero(NeuronSet(tuple((1, i) for i in range(60)), 4, 128))


@pytest.fixture(scope="module")
def model(tiny_folder):
    from tl_toxmem import LensModel

    return LensModel.from_pretrained(tiny_folder("gpt2"))


@pytest.fixture
def adapter(model, monkeypatch):
    from tl_toxmem.evaluation.harness import _adapter

    install(monkeypatch)
    return _adapter(model, batch_size=2)


def log_likelihood(hf, tokens, n):
    """Of the last `n` tokens after those before them, and whether they are greedy; by one plain forward."""
    with torch.no_grad():
        logits = hf(torch.tensor([tokens[:-1]])).logits[0, -n:]
    wanted = torch.tensor(tokens[-n:])
    value = logits.log_softmax(-1)[range(n), wanted].sum()
    return float(value), bool((logits.argmax(-1) == wanted).all())


def same(got, expected):
    assert [right for _, right in got] == [right for _, right in expected]
    values = [value for value, _ in got], [value for value, _ in expected]
    assert values[0] == pytest.approx(values[1], rel=ROUNDING)


def test_tasks_without_the_harness_say_what_to_install(model, prompts, monkeypatch):
    import sys

    from tl_toxmem import ToxmemError

    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ToxmemError, match=r'pip install "tl-toxmem\[lm-eval\]"'):
        measured(model, prompts, {}, cfg=config(lm_eval_tasks=("lambada_openai",)))


def test_likelihoods_of_tokens(model):
    from tl_toxmem.evaluation.harness import loglikelihoods

    hf = model.clean_hf()
    context, new = model.encode("the town of"), model.encode(" Ulm")
    tokens, mask = model.pad([context])
    greedy = model.generate(tokens, mask, max_new_tokens=3)[0, len(context) :].tolist()
    long = model.encode("a" * 60), model.encode("b" * 50)
    pairs = [(context, new), (context, greedy), long]
    # Of what is too long the context's beginning is cut; the last token need not be run.
    expected = [log_likelihood(hf, [*a, *b][-N_CTX - 1 :], len(b)) for a, b in pairs]
    same(loglikelihoods(model, pairs, batch_size=2), expected)
    assert [right for _, right in expected] == [False, True, False]


def test_likelihoods_of_texts(adapter, model):
    """A blank before the continuation is its own, and the end of text stands where there is no context."""
    hf, end = model.clean_hf(), model.eos_ids[0]
    asked = [("the town of", " Ulm"), ("the town of ", "Ulm"), ("", "Ulm"), ("what", " now?")]
    rows = [(model.encode("the town of Ulm"), 4)] * 2 + [([end, *model.encode("Ulm")], 3)]
    rows.append((model.encode("what now?"), 5))
    same(
        adapter.loglikelihood([Request(pair) for pair in asked]),
        [log_likelihood(hf, tokens, n) for tokens, n in rows],
    )


def test_rolling_likelihoods_predict_every_token_once(adapter, model):
    hf, end = model.clean_hf(), model.eos_ids[0]
    texts = ["the town", "every river runs to a sea, " * 8]
    got = adapter.loglikelihood_rolling([Request((text,)) for text in texts])
    expected = []
    for text in texts:
        tokens = [end, *model.encode(text)]
        total, known = 0.0, 1
        while known < len(
            tokens
        ):  # windows of the context's length, the last as full as the others
            until = min(known + N_CTX, len(tokens))
            row = tokens[max(0, until - N_CTX - 1) : until]
            total += log_likelihood(hf, row, until - known)[0]
            known = until
        expected.append(total)
    assert len(model.encode(texts[1])) > 2 * N_CTX
    assert got == pytest.approx(expected, rel=ROUNDING)


def generated(model, text, n):
    """Greedy text of plain transformers, the prompt cut on its left to leave room."""
    tokens = torch.tensor([model.encode(text)[n - N_CTX :]])
    options = {"max_new_tokens": n, "do_sample": False, "pad_token_id": model.pad_id}
    with torch.no_grad():
        longer = model.clean_hf().generate(
            tokens, attention_mask=torch.ones_like(tokens), **options
        )
    return model.tokenizer.decode(longer[0, tokens.shape[1] :], skip_special_tokens=True)


def test_greedy_texts_end_where_they_are_told_to(adapter, model):
    long = "every river runs to a sea, " * 8
    whole = generated(model, "what now", 9)
    end = whole[4]
    asked = [
        ("Bob is a", {"max_gen_toks": 5, "until": []}),
        (long, {"max_gen_toks": 70}),
        ("what now", {"max_gen_toks": 9, "until": [end, "\x00"]}),
        ("what now", {"max_gen_toks": 9, "until": end}),
        (long, {"max_gen_toks": 5, "until": [""]}),
    ]
    got = adapter.generate_until([Request(pair) for pair in asked])
    texts = [generated(model, text, options["max_gen_toks"]) for text, options in asked]
    assert got == [texts[0], texts[1], *[whole.split(end)[0]] * 2, texts[4]]
    assert len(set(got)) == 4 and got[2] != whole


def test_greedy_texts_of_no_stated_length_fit_the_context(adapter, model):
    """The harness's usual 256 tokens are more than this model's context has."""
    got = adapter.generate_until([Request(("Bob is a", {"until": []})), Request(("", {}))])
    end = model.tokenizer.decode([model.eos_ids[0]])
    assert got == [generated(model, text, N_CTX // 2) for text in ("Bob is a", end)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gen_toks": 96}, "asks for 96 new tokens, and the model's context is 96: choose"),
        ({"max_gen_toks": 300}, "asks for 300 new tokens"),
        ({"do_sample": True}, "tasks that sample are not run"),
    ],
)
def test_what_is_not_generated(adapter, options, message):
    from tl_toxmem import ToxmemError

    with pytest.raises(ToxmemError, match=message):
        adapter.generate_until([Request(("Bob", {})), Request(("Bob is a", options))])


def test_tasks_run_on_base_and_every_edit(model, prompts, deletion, monkeypatch):
    """Hooks act while the harness asks, and its numbers come back by edit and task."""
    from tl_toxmem import ToxmemError, bake

    install(monkeypatch)
    cfg = config(lm_eval_tasks=("twice",))
    found = measured(model, prompts, {"deletion": deletion}, cfg=cfg).tasks
    hf, tokens = model.clean_hf(), model.encode("Bob is a fool")
    before = log_likelihood(hf, tokens, 5)[0]
    undo = bake(hf, deletion)
    after = log_likelihood(hf, tokens, 5)[0]
    undo.restore()
    assert [(one["edit"], one["task"]) for one in found] == [
        ("none", "twice"),
        ("deletion", "twice"),
    ]
    for one, value in zip(found, (before, after), strict=True):
        expected = {"sum,none": pytest.approx(2 * value, rel=ROUNDING), "n": 2.0}
        assert one["values"] == expected
    assert abs(after - before) > 0.01
    with pytest.raises(ToxmemError, match="lm-eval has no task 'thrice'"):
        measured(model, prompts, {}, cfg=config(lm_eval_tasks=("thrice",)))


def test_the_harness_itself_runs_on_an_edited_model(model, deletion, tmp_path, monkeypatch):
    """Answers weighed, a rolling perplexity and greedy answers; where lm-eval is there."""
    pytest.importorskip("lm_eval")
    from tl_toxmem.evaluation.harness import loglikelihoods, run_tasks

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    with deletion.applied(model):
        tokens, mask = model.pad([model.encode("Bob is a")])
        new = model.generate(tokens, mask, max_new_tokens=5)[0, tokens.shape[1] :]
    answer = model.tokenizer.decode(new, skip_special_tokens=True)
    questions = [{"q": "Bob is a", "a": answer}, {"q": "the town of", "a": " Ulm"}]
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(q) + "\n" for q in questions))

    def task(name, kind, metrics, **more):
        return {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}},
            "test_split": "test",
            "output_type": kind,
            "doc_to_text": "{{q}}",
            "doc_to_target": "{{a}}",
            "target_delimiter": "",
            "metric_list": [{"metric": metric} for metric in metrics],
            **more,
        }

    tasks = [
        task("weighed", "loglikelihood", ("perplexity", "acc")),
        task("rolled", "loglikelihood_rolling", ("bits_per_byte",), doc_to_target="{{q}}"),
        task("said", "generate_until", ("exact_match",), generation_kwargs={"max_gen_toks": 5}),
    ]
    pairs = [(model.encode(q["q"]), model.encode(q["a"])) for q in questions]
    whole = [([model.eos_ids[0]], model.encode(q["q"])) for q in questions]
    with deletion.applied(model):
        found = run_tasks(model, tasks, batch_size=2, seed=0)
        expected = [value for value, _ in loglikelihoods(model, pairs, batch_size=2)]
        rolled = sum(value for value, _ in loglikelihoods(model, whole, batch_size=2))
    wanted = math.exp(-sum(expected) / 2)
    assert found["weighed"]["perplexity,none"] == pytest.approx(wanted, rel=ROUNDING)
    n_bytes = sum(len(q["q"].encode()) for q in questions)
    bits = -rolled / n_bytes / math.log(2)
    assert found["rolled"]["bits_per_byte,none"] == pytest.approx(bits, rel=ROUNDING)
    assert found["said"]["exact_match,none"] == 0.5
