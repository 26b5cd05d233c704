"""The search: within its budget, on the find split, repeatable; its law is what the selection keeps."""

import pytest
import torch
from test_gates import NEUTRAL, demo, gates_cfg, scored  # noqa: F401 - a fixture
from test_select import Vowels

pytestmark = pytest.mark.host


def search(model, prompts, scores, **more):
    from tl_toxmem.config import EvaluateConfig, SearchConfig
    from tl_toxmem.select import search_deletion

    budget = more.pop("budget", 0.05)
    scorer = more.pop("scorer", Vowels())
    return search_deletion(
        model,
        prompts,
        scores,
        neutral=NEUTRAL,
        scorer=scorer,
        budget=budget,
        cfg=SearchConfig(**{"trials": 12, **more}),
        protocol=EvaluateConfig(max_new_tokens=20, threshold=0.05, n_continuations=2),
        gates=gates_cfg(steps=3),
    )


def test_what_is_found_is_affordable_and_the_best_tried(scored, prompts):  # noqa: F811
    model, scores = scored
    found = search(model, prompts, scores)
    assert len(found.trials) == 12
    for one in found.trials:
        assert (one.toxicity_rate is not None) == (one.rise_high <= 0.05)
        assert one.rise <= one.rise_high + 1e-12
    rates = [one.toxicity_rate for one in found.trials if one.toxicity_rate is not None]
    assert found.best.toxicity_rate == min(rates)
    assert {one.settings["law"] for one in found.trials} >= {"zero", "mean"}


def test_its_law_makes_the_deletion_and_the_rise_again(scored, prompts):  # noqa: F811
    from tl_toxmem.losses import document_losses, perplexity_rise
    from tl_toxmem.neutral import encode_documents
    from tl_toxmem.select import law_of

    model, scores = scored
    found = search(model, prompts, scores)
    again = law_of(found.law, scores, of=found.deletion.neurons)(found.deletion.neurons)
    assert torch.equal(again.gain, found.deletion.gain)
    assert torch.equal(again.shift, found.deletion.shift)
    rows = encode_documents(model, NEUTRAL, max_tokens=10_000)
    base, _ = document_losses(model, rows)
    with again.applied(model):
        assert perplexity_rise(model, rows, base) == pytest.approx(found.best.rise, abs=1e-12)


def test_the_same_seed_finds_the_same(scored, prompts):  # noqa: F811
    model, scores = scored
    first, again = (search(model, prompts, scores, trials=6, seed=3) for _ in range(2))
    assert first.trials == again.trials
    assert first.deletion.neurons == again.deletion.neurons


@pytest.mark.parametrize("law", ["zero", "mean", "scale", "gates"])
def test_each_law_alone(scored, prompts, law):  # noqa: F811
    model, scores = scored
    found = search(model, prompts, scores, laws=(law,), trials=3, budget=0.5)
    assert found.law["law"] == law
    deletion, settings = found.deletion, found.best.settings
    index = tuple(torch.tensor(deletion.neurons.neurons).T)
    if law == "gates":
        assert ((deletion.gain >= 0) & (deletion.gain < 1)).all()
        full = 1 - (1 - deletion.gain) / settings["share"]  # the gates that were learned
        assert full.min() >= -1e-12
    else:
        assert len(deletion.neurons) == settings["k"]
        assert torch.equal(deletion.gain, torch.full_like(deletion.gain, settings.get("factor", 0)))
    wanted = scores.mean_activation[index].double() if law == "mean" else torch.zeros(())
    assert torch.equal(deletion.shift, wanted.expand_as(deletion.shift))


def test_a_budget_that_nothing_meets(scored, prompts):  # noqa: F811
    from tl_toxmem import ToxmemError

    model, scores = scored
    with pytest.raises(ToxmemError, match=r"none of 4 deletions .* raise the budget"):
        search(model, prompts, scores, laws=("zero",), trials=4, budget=-0.5)


def test_a_judge_that_calls_nothing_toxic(scored, prompts):  # noqa: F811
    from tl_toxmem import ToxmemError

    class Kind(Vowels):
        def score(self, texts):
            return torch.zeros(len(texts))

    model, scores = scored
    with pytest.raises(ToxmemError, match="calls no continuation of the find prompts toxic"):
        search(model, prompts, scores, scorer=Kind())


def test_on_the_demo_the_budget_holds_on_the_text_that_is_reported_on():
    """Of that text the search saw nothing."""
    from tl_toxmem.config import EvaluateConfig, SearchConfig
    from tl_toxmem.losses import document_losses, perplexity_rise
    from tl_toxmem.neutral import encode_documents
    from tl_toxmem.scorers import load_scorer
    from tl_toxmem.select import search_deletion

    model, find, scores, choosing, reporting = demo()
    found = search_deletion(
        model,
        find.first(12),
        scores,
        neutral=choosing,
        scorer=load_scorer("profanity"),
        budget=0.005,
        cfg=SearchConfig(trials=10, laws=("zero", "mean", "scale")),
        protocol=EvaluateConfig(n_continuations=1, max_new_tokens=6),
    )
    rows = encode_documents(model, reporting, max_tokens=20_000)
    base, _ = document_losses(model, rows)
    with found.deletion.applied(model):
        assert perplexity_rise(model, rows, base) <= 0.005
    base_rate = max(one.toxicity_rate for one in found.trials if one.toxicity_rate is not None)
    assert found.best.toxicity_rate < base_rate


@pytest.mark.parametrize(("shape", "most"), [((6, 512), 153), ((30, 1536), 768), ((1, 4), 1)])
def test_of_every_trial_there_are_controls(shape, most):
    from tl_toxmem.select.search import most_neurons

    assert most_neurons(*shape) == most


def test_so_many_of_the_highest_leave_half_of_every_layer():
    from tl_toxmem.attribute import top_neurons
    from tl_toxmem.select import leaving_half

    values = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    values[2] += 4
    for n in (3, 6, 20, 60):
        fits = [
            k
            for k in range(1, n + 1)
            if max(map(len, top_neurons(values, k).by_layer().values())) <= 6
        ]
        assert leaving_half(values, n) == max(fits)


def test_no_trials_are_no_search(scored, prompts):  # noqa: F811
    from tl_toxmem import ToxmemError

    model, scores = scored
    with pytest.raises(ToxmemError, match="search.trials is 0"):
        search(model, prompts, scores, trials=0)
