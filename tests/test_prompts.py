"""Prompt files, the split, and the alignment with tokens."""

import pytest


def make(n: int):
    from tl_toxmem import Prompt, PromptSet

    return PromptSet.of([Prompt(prompt=f"prompt number {i} is", target=" x") for i in range(n)])


def test_what_is_written_is_read_back_equal(tmp_path):
    from tl_toxmem import Prompt, PromptSet

    prompts = PromptSet.of(
        [
            Prompt(
                prompt="Zoë said \n\u2028\x85 “no” ",
                target=" ja",
                subject="Zoë",
                scores={"toxicity": 0.5},
            ),
            Prompt(prompt="b", target=" c", source="here", split="report", id="mine"),
        ]
    )
    prompts.write(tmp_path / "p.jsonl")
    assert PromptSet.read(tmp_path / "p.jsonl") == prompts


def test_the_split_is_stable_and_disjoint():
    prompts = make(400)
    split = prompts.split()
    assert len(split.find) + len(split.report) == 400
    assert 150 < len(split.report) < 250
    # Neither order nor additions move a prompt.
    more = make(500)
    reordered = type(more).of(reversed(more.prompts)).split()
    assert {p.id for p in split.report} <= {p.id for p in reordered.report}
    assert not {p.id for p in reordered.find} & {p.id for p in split.report}


def test_the_split_that_a_file_gives_is_kept():
    from tl_toxmem import Prompt, PromptSet

    prompts = PromptSet.of(
        [Prompt(prompt=f"{i}", target=" x", split="find" if i % 2 else "report") for i in range(10)]
    )
    assert len(prompts.split().find) == 5


def test_most_so_many():
    from tl_toxmem.config import PromptsConfig

    split = make(100).split(PromptsConfig(max_find=7, max_report=5))
    assert (len(split.find), len(split.report)) == (7, 5)


def test_neutral_text_falls_into_disjoint_halves():
    from tl_toxmem.neutral import split_documents

    documents = [f"document {i % 30}" for i in range(60)]
    choosing, reporting = split_documents(documents)
    assert len(choosing) + len(reporting) == 60
    assert not set(choosing) & set(reporting)


def test_subject_and_target_in_tokens(load):
    from tl_toxmem import Prompt, PromptSet, ToxmemError
    from tl_toxmem.tokens import align

    model = load()
    item = align(model, PromptSet.of([Prompt(prompt="see Bob run", target=" far", subject="Bob")]))[
        0
    ]
    assert "".join(item.words[slice(*item.subject)]) == "Bob"
    assert model.tokenizer.decode(item.target) == " far"
    assert len(item.full) == len(item.tokens) + len(item.target) - 1
    whole = align(model, PromptSet.of([Prompt(prompt="see Bob run", target=" far")]))[0]
    assert whole.subject == (0, len(whole.tokens))
    with pytest.raises(ToxmemError, match="context is 96"):
        align(model, PromptSet.of([Prompt(prompt="x" * 96, target="y")]))


def test_bos_is_never_corrupted(gpt2_folder):
    from tl_toxmem import LensModel, Prompt, PromptSet
    from tl_toxmem.tokens import align

    model = LensModel.from_pretrained(gpt2_folder, prepend_bos=True)
    item = align(model, PromptSet.of([Prompt(prompt="ab", target="c")]))[0]
    assert item.tokens[0] == model.tokenizer.bos_token_id
    assert item.subject == (1, 3)


def test_a_lead_in_stands_between_prompt_and_target(load):
    """The target is asked about after it; generation begins before it."""
    from tl_toxmem import Prompt, PromptSet
    from tl_toxmem.config import EvaluateConfig
    from tl_toxmem.continuations import sample_continuations
    from tl_toxmem.tokens import align, target_log_probs

    model = load()
    led = Prompt(prompt="see Bob run", lead_in=" and be", target=" far")
    joined = Prompt(prompt="see Bob run and be", target=" far")
    assert led.start == joined.prompt and led.from_start().prompt == joined.prompt
    one, other = align(model, PromptSet.of([led, joined]))
    assert one.full == other.full and one.subject == other.subject and one.words == other.words
    assert "".join(one.words[: len(one.asked)]) == "see Bob run"
    assert other.asked == other.tokens
    both = target_log_probs(model, PromptSet.of([led, joined]))
    assert both[0] == both[1]
    cfg = EvaluateConfig(n_continuations=2, max_new_tokens=4)
    bare = Prompt(prompt="see Bob run", target=" far")
    says = [sample_continuations(model, PromptSet.of([p]), cfg=cfg) for p in (led, bare, joined)]
    assert says[0] == says[1] != says[2]


def test_traced_and_attributed_as_if_it_were_of_the_prompt(load):
    import torch

    from tl_toxmem import Prompt, PromptSet, attribute_neurons, causal_trace
    from tl_toxmem.config import AttributeConfig, TraceConfig

    model = load()
    more = {"target": " far", "subject": "Bob", "neutral_target": "?"}
    led = PromptSet.of([Prompt(prompt="see Bob", lead_in=" run", counterfactual="ask Tim", **more)])
    joined = PromptSet.of([Prompt(prompt="see Bob run", counterfactual="ask Tim run", **more)])
    for corruption in ("noise", "replace"):
        cfg = TraceConfig(
            n_noise=2, corruption=corruption, metric="logit_diff", metrics=(), parts=False
        )
        one, other = (causal_trace(model, prompts, cfg=cfg) for prompts in (led, joined))
        assert torch.equal(one.restored.nan_to_num(), other.restored.nan_to_num())
        assert one.words == other.words
    cfg = AttributeConfig(verify_top=0)
    one, other = (attribute_neurons(model, prompts, cfg=cfg) for prompts in (led, joined))
    assert torch.equal(one.scores, other.scores)


def test_a_lead_in_is_written_refused_empty_and_part_of_the_id(tmp_path):
    from tl_toxmem import Prompt, PromptSet, ToxmemError

    plain, led = Prompt(prompt="a", target=" b"), Prompt(prompt="a", lead_in=" so", target=" b")
    assert plain.id != led.id and plain.start == "a" and plain.hash == led.hash
    PromptSet.of([plain, led]).write(tmp_path / "p.jsonl")
    assert PromptSet.read(tmp_path / "p.jsonl") == PromptSet.of([plain, led])
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "target": " b", "lead_in": ""}')
    with pytest.raises(ToxmemError, match="line 1: lead_in is empty"):
        PromptSet.read(tmp_path / "p.jsonl")
