"""What cannot be traced is refused in one clear error before anything runs."""

import pytest
import torch

pytestmark = pytest.mark.host


@pytest.fixture
def model(shared, host):
    return shared(host, torch.float32, "gpt2")


@pytest.fixture
def nothing_runs(monkeypatch):
    from tl_toxmem.trace import causal

    def refuse(*args, **kwargs):
        raise AssertionError("something was run")

    monkeypatch.setattr(causal, "Group", refuse)


def prompt_set(**fields):
    from tl_toxmem import Prompt, PromptSet

    good = Prompt(prompt="what now", target="!", neutral_target="?", counterfactual="that now")
    return PromptSet.of([good, Prompt(**{"prompt": "Bob is a", "target": " fool", **fields})])


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        ({}, {"window": 5}, "window is 5 layers, the model has 4"),
        ({}, {"max_memory": 1e-4}, r"one cell of prompt '\w+' needs [0-9.e-]+ GB"),
        ({}, {"corruption": "replace"}, "has no counterfactual"),
        (
            {"counterfactual": "Tim was a"},
            {"corruption": "replace"},
            r"has 8 tokens \['B', .*its counterfactual 9 \['T', .*give one of as many",
        ),
        ({"counterfactual": "Bob is a"}, {"corruption": "replace"}, "is the prompt itself"),
        ({}, {"metric": "logit_diff"}, "has no neutral_target"),
        ({"neutral_target": " friend"}, {"metric": "logit_diff"}, "begin with the same token"),
    ],
)
def test_refused_before_anything_runs(model, nothing_runs, fields, settings, message):
    from tl_toxmem import ToxmemError, causal_trace
    from tl_toxmem.config import TraceConfig

    with pytest.raises(ToxmemError, match=message):
        causal_trace(model, prompt_set(**fields), cfg=TraceConfig(**settings))


def test_a_subject_that_straddles_tokens_is_told_with_them(tiny_folder, host, nothing_runs):
    """ "Bo" is one token: the subject "ob" begins inside it."""
    from conftest import byte_tokenizer
    from tokenizers import models

    from tl_toxmem import LensModel, Prompt, PromptSet, ToxmemError, causal_trace

    tokenizer = byte_tokenizer()
    vocab = tokenizer.get_vocab()
    vocab["Bo"] = vocab.pop("Ā")  # in place of the byte 0
    tokenizer.backend_tokenizer.model = models.BPE(vocab=vocab, merges=[("B", "o")])
    model = LensModel.from_pretrained(tiny_folder("gpt2"), tokenizer=tokenizer, host=host)
    prompts = PromptSet.of([Prompt(prompt="Bob is", target=" x", subject="ob", id="p")])
    with pytest.raises(ToxmemError, match=r"'p': the subject 'ob' .*\(straddled by \['Bo'\]\)"):
        causal_trace(model, prompts)


def test_a_target_without_tokens(tiny_folder, host, nothing_runs):
    from conftest import byte_tokenizer
    from tokenizers import normalizers

    from tl_toxmem import LensModel, Prompt, PromptSet, ToxmemError, causal_trace

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("~", "")
    model = LensModel.from_pretrained(tiny_folder("gpt2"), tokenizer=tokenizer, host=host)
    for fields, message in (
        ({"target": "~"}, "the target has no tokens"),
        ({"target": "x", "subject": "~"}, "the subject '~' has no tokens"),
    ):
        with pytest.raises(ToxmemError, match=message):
            causal_trace(model, PromptSet.of([Prompt(prompt="Bob ~ is", **fields)]))


def test_counterfactuals_for_the_card_are_checked_first(model, nothing_runs):
    from tl_toxmem import ToxmemError
    from tl_toxmem.trace import check_robustness

    with pytest.raises(ToxmemError, match="give one of as many tokens"):
        check_robustness(model, prompt_set(counterfactual="Tim was a"))


def test_places_that_were_not_traced(model):
    """Figures and frames leave out what was not asked for."""
    from tl_toxmem import causal_trace
    from tl_toxmem.config import TraceConfig

    cfg = TraceConfig(n_noise=1, positions="last_subject")
    prompts = prompt_set(subject="Bob").prompts[1:]
    trace = causal_trace(model, type(prompt_set())(prompts), cfg=cfg)
    assert not len(trace.by_layer("last"))
    for figure in ("tokens", "layers", "classes", "severed", "shares"):
        assert trace.plot(figure).data


def test_no_prompts(model):
    from tl_toxmem import PromptSet, ToxmemError, causal_trace

    with pytest.raises(ToxmemError, match="the prompt set is empty"):
        causal_trace(model, PromptSet.of([]))


def test_a_subject_that_is_not_there():
    from pydantic import ValidationError

    from tl_toxmem import Prompt

    with pytest.raises(ValidationError, match="'Rob' is not in the prompt"):
        Prompt(prompt="Bob is a", target=" fool", subject="Rob")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sites": ["mlp"]}, "resid_pre"),
        ({"metric": "accuracy"}, "span_log_prob"),
        ({"corruption": "zero"}, "'replace' or 'mean'"),
        ({"severed": ["heads"]}, "'mlp' or 'attn'"),
        ({"sites": []}, "at least 1"),
    ],
)
def test_unknown_settings_name_the_valid_ones(settings, message):
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import make_config

    with pytest.raises(ToxmemError, match=message):
        make_config({"model": "m", "out": "o", "trace": settings})


def test_unknown_names_of_a_trace(model, tmp_path):
    from tl_toxmem import ToxmemError, Trace, causal_trace
    from tl_toxmem.config import TraceConfig
    from tl_toxmem.files import write_tensors

    trace = causal_trace(model, prompt_set(), cfg=TraceConfig(n_noise=1, parts=False))
    for call, message in (
        (lambda: trace.in_metric("logit_diff"), "choose from log_prob, prob, logit, kl"),
        (trace.answer, "trace.parts = true"),
        (lambda: trace.plot("robustness"), "check_robustness"),
        (lambda: trace.plot("shares"), "no data for 'shares': trace with trace.parts"),
        (lambda: trace.plot(prompt=2), "there is no prompt 2: this trace has 0 to 1"),
        (lambda: causal_trace(model, prompt_set(), resume=__file__), "is a file"),
    ):
        with pytest.raises(ToxmemError, match=message):
            call()
    write_tensors(tmp_path / "old.safetensors", "trace", {"clean": trace.clean}, {"seed": 0})
    with pytest.raises(ToxmemError, match=r"earlier tl-toxmem \(no corrupted, .*: trace anew"):
        Trace.load(tmp_path / "old.safetensors")


def test_the_subject_is_a_whole_word_where_it_is_one():
    from tl_toxmem import Prompt

    spans = {
        ("The Parisian said that Paris is in", "Paris"): 23,
        ("The cartoonist drew art in", "art"): 20,
        ("Parisians are", "Paris"): 0,
        ("Paris is Paris and", "Paris"): 0,
    }
    for (text, subject), start in spans.items():
        prompt = Prompt(prompt=text, target=" x", subject=subject)
        assert prompt.subject_span == (start, start + len(subject))


def test_a_target_that_the_tokenizer_does_not_know_is_refused():
    from tl_toxmem import LensModel, Prompt, PromptSet, ToxmemError, causal_trace

    model = LensModel.from_pretrained("demo")
    prompts = PromptSet.of([Prompt(prompt="everyone knows that Cleo Hale is a", target=" qwerty")])
    with pytest.raises(ToxmemError, match="' qwerty' has a word that the model's tokenizer"):
        causal_trace(model, prompts)


def test_a_bos_that_was_typed_is_not_corrupted(load):
    from tl_toxmem import Prompt, PromptSet
    from tl_toxmem.tokens import align

    typed = PromptSet.of([Prompt(prompt="<|endoftext|>Bob is", target=" x")])
    (item,) = align(load(), typed)
    assert item.subject == (1, len(item.tokens))


def test_noise_without_end_is_refused():
    from pydantic import ValidationError

    from tl_toxmem.config import TraceConfig

    with pytest.raises(ValidationError, match="finite"):
        TraceConfig(noise_level=float("inf"))


def test_a_precision_by_its_name(gpt2_folder):
    import torch

    from tl_toxmem import LensModel, ToxmemError

    assert LensModel.from_pretrained(gpt2_folder, dtype="float64").dtype == torch.float64
    with pytest.raises(ToxmemError, match="dtype 'double' is not supported: choose from float32"):
        LensModel.from_pretrained(gpt2_folder, dtype="double")
