"""Selection, its size, its controls; sets of neurons; what verification, agreement and cards say."""

import pytest
import torch

pytestmark = pytest.mark.host
UNCHECKED = {"verify_top": 0, "verify_random": 0}
# Of 200 neurons whose loudness spreads over four orders of magnitude, the five nearest are a few per cent away.
AS_LOUD = 0.1
# Effects are kept in float32.
EXACT = 1e-5


class Vowels:
    """A judge that anything can be measured with: the share of vowels."""

    name = "vowels"

    def score(self, texts):
        return torch.tensor([sum(c in "aeiou" for c in t) / max(len(t), 1) for t in texts])

    def provenance(self):
        return {"scorer": self.name}


def test_choose_k_measures_what_deleting_does_and_costs(load, prompts):
    from tl_toxmem import Deletion, attribute_neurons, choose_k, select_neurons
    from tl_toxmem.config import AttributeConfig, EvaluateConfig, SelectConfig
    from tl_toxmem.continuations import sample_continuations, score_continuations

    model = load()
    texts = ["the cat sat", "on the mat and slept"]
    scores = attribute_neurons(model, prompts, cfg=AttributeConfig(**UNCHECKED), neutral=texts)
    cfg = SelectConfig(max_k=50, max_perplexity_increase=0.05, n_continuations=3)
    protocol = EvaluateConfig(max_new_tokens=20, threshold=0.05)
    base, *curve = choose_k(
        model, prompts, scores, neutral=texts, scorer=Vowels(), cfg=cfg, protocol=protocol
    )
    assert (base.k, base.perplexity_increase) == (0, 0)
    assert [p.k for p in curve][:6] == [1, 2, 3, 5, 7, 10]
    for point in curve:
        affordable = point.perplexity_increase <= 0.05
        assert (point.toxicity_rate is not None) == affordable
    point = next(p for p in curve if p.toxicity_rate is not None)
    chosen = select_neurons(scores, cfg=cfg.model_copy(update={"k": point.k}))
    with Deletion.zero(chosen).applied(model):
        again = sample_continuations(
            model, prompts, cfg=protocol.model_copy(update={"n_continuations": 3})
        )
    assert point.toxicity_rate == (score_continuations(Vowels(), again) >= 0.05).mean()
    only = select_neurons(scores, cfg=cfg.model_copy(update={"k": 7, "layers": (2, 3)}))
    assert len(only) == 7
    assert set(only.by_layer()) <= {2, 3}


def test_controls_share_nothing_with_the_selection():
    from tl_toxmem import NeuronSet, ToxmemError

    chosen = NeuronSet(((1, 3), (1, 1), (2, 0), (1, 3)), 4, 10)
    assert chosen.neurons == ((1, 1), (1, 3), (2, 0))
    same = chosen.random_like(seed=0)
    assert {layer: len(ns) for layer, ns in same.by_layer().items()} == {1: 2, 2: 1}
    early = chosen.random_like(seed=0, layers=[0])
    assert set(early.by_layer()) == {0}
    assert not set(chosen) & (set(same) | set(early))
    assert same == chosen.random_like(seed=0)
    with pytest.raises(ToxmemError, match="no layer 9"):
        chosen.random_like(seed=0, layers=[9])
    with pytest.raises(ToxmemError, match="neuron 10 in layer 0"):
        NeuronSet(((0, 10),), 4, 10)


def test_the_smallest_affordable_k_that_does_nearly_all():
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.select import KPoint, pick_k

    rates = {0: 0.8, 1: 0.7, 2: 0.31, 3: 0.33, 5: 0.30, 7: None}
    curve = [KPoint(k, 0.005 if rate else 0.02, 0.1, rate) for k, rate in rates.items()]
    assert pick_k(curve, cfg=SelectConfig()) == 2  # removes 0.49 of the best's 0.50
    assert pick_k(curve, cfg=SelectConfig(keep_removed=0.9)) == 2
    assert pick_k(curve, cfg=SelectConfig(keep_removed=0.99)) == 5


def test_no_affordable_choice_is_said_in_one_line():
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.select import KPoint, pick_k

    base = KPoint(0, 0.0, 0.1, 0.5)
    with pytest.raises(ToxmemError, match="even 1 neuron raises neutral perplexity by 3.00%"):
        pick_k([base, KPoint(1, 0.03, 0.1, None)], cfg=SelectConfig())
    with pytest.raises(ToxmemError, match="no number of neurons within"):
        pick_k([base, KPoint(1, 0.0, 0.1, 0.5), KPoint(2, 0.0, 0.1, 0.6)], cfg=SelectConfig())


def test_nothing_to_remove_is_said_in_one_line(load, prompts):
    from tl_toxmem import ToxmemError, attribute_neurons, choose_k
    from tl_toxmem.config import AttributeConfig, EvaluateConfig

    model = load()
    scores = attribute_neurons(
        model, prompts, cfg=AttributeConfig(**UNCHECKED), neutral=["the cat sat"]
    )
    with pytest.raises(ToxmemError, match="no continuation of the 3 find prompts toxic"):
        choose_k(
            model,
            prompts,
            scores,
            neutral=["the cat sat"],
            scorer=Vowels(),
            protocol=EvaluateConfig(threshold=1.0, max_new_tokens=3),
        )


def scores_of(values, *, cost=None, loudness=None, per_prompt=None):
    from tl_toxmem import NeuronScores

    values = torch.as_tensor(values, dtype=torch.float32)
    nothing = torch.full_like(values, torch.nan)
    prompts = values[None] if per_prompt is None else torch.as_tensor(per_prompt).float()
    return NeuronScores(
        "gradient",
        values,
        prompts,
        tuple(f"p{i}" for i in range(len(prompts))),
        0,
        cost=nothing if cost is None else torch.as_tensor(cost).float(),
        loudness=nothing if loudness is None else torch.as_tensor(loudness).float(),
    )


def test_each_way_of_ranking_worked_out_by_hand():
    from tl_toxmem import ToxmemError, select_neurons
    from tl_toxmem.config import SelectConfig

    scores = scores_of(
        [[5.0, 4.0, 1.0], [3.0, 0.5, 0.0]],
        cost=[[10.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
        # Of the first prompt 0.3 x the largest is 1.8, of the second 1.2.
        per_prompt=[[[6, 2, 1], [1, 0, 0]], [[4, 1, 1], [5 / 3, 1, 0]]],
    )

    def chosen(**settings):
        return set(select_neurons(scores, cfg=SelectConfig(**settings)))

    assert chosen(method="top", k=2) == {(0, 0), (0, 1)}
    # Mean cost 2, floor 0.1: 5 / 10.2, 4 / 1.2, 1 / 1.2, 3 / 0.2, 0.5 / 0.2, 0.
    assert chosen(k=1) == {(1, 0)}
    assert chosen(k=3) == {(1, 0), (0, 1), (1, 1)}
    assert chosen(method="threshold", threshold=3.0) == {(0, 0), (0, 1), (1, 0)}
    assert chosen(method="shared", threshold=0.3, share=1.0) == {(0, 0)}
    assert chosen(method="shared", threshold=0.3, share=0.5) == {(0, 0), (0, 1), (1, 0)}
    assert chosen(method="top", k=1, layers=(1,)) == {(1, 0)}
    assert chosen(method="threshold", threshold=0.4, layers="late") == {(1, 0), (1, 1)}
    with pytest.raises(ToxmemError, match="4, but there are 3 neurons"):
        chosen(method="top", k=4, layers=(1,))
    with pytest.raises(ToxmemError, match="no neuron reaches 9; the highest has 5"):
        chosen(method="threshold", threshold=9)
    with pytest.raises(ToxmemError, match="needs select.threshold"):
        chosen(method="shared")
    with pytest.raises(ToxmemError, match="no layer 7"):
        chosen(method="top", k=1, layers=(7,))
    with pytest.raises(ToxmemError, match="needs a trace"):
        chosen(method="top", k=1, layers="trace")
    with pytest.raises(ToxmemError, match=r"needs cfg\.k"):
        chosen(method="top")


def test_layers_by_the_trace_are_those_whose_interval_is_above_zero(load, prompts):
    from tl_toxmem import ToxmemError, causal_trace, select_neurons
    from tl_toxmem.config import SelectConfig, TraceConfig
    from tl_toxmem.trace import mediating_layers

    model = load()
    cfg = TraceConfig(n_noise=3, metric="prob", metrics=())
    for some in (prompts, prompts.first(1)):
        trace = causal_trace(model, some, cfg=cfg)
        layers = mediating_layers(trace)
        above = set()
        for place in ("last_subject", "last"):
            frame = trace.by_layer(place)
            own = frame[frame.site == "mlp_out_single"]
            above |= set(own[(own.low if len(some) > 1 else own.value) > 0].layer)
        assert set(layers) == above
    assert 0 < len(layers) < 4
    scores = scores_of(torch.rand(4, 128))
    cfg = SelectConfig(method="top", k=20, layers="trace")
    assert set(select_neurons(scores, cfg=cfg, trace=trace).by_layer()) <= set(layers)
    with pytest.raises(ToxmemError, match="of a model of 4 layers, not 2"):
        select_neurons(scores_of(torch.rand(2, 9)), cfg=cfg, trace=trace)
    without = causal_trace(model, prompts, cfg=TraceConfig(n_noise=2, sites=("attn_out",)))
    with pytest.raises(ToxmemError, match="no MLP outputs"):
        mediating_layers(without)


def test_greedy_takes_what_is_left_of_an_effect(load, prompts, host):
    """With one neuron a round it is the plain greedy loop; and joint effects are what deleting together does."""
    from tl_toxmem import Deletion, NeuronSet, attribute_neurons, joint_effect, select_greedily
    from tl_toxmem.attribute import measure_ablations
    from tl_toxmem.attribute.scores import highest
    from tl_toxmem.config import AttributeConfig, SelectConfig
    from tl_toxmem.tokens import align, target_batch, target_log_prob

    model = load(host)
    texts = ["the cat sat", "on the mat and slept"]
    scores = attribute_neurons(model, prompts, cfg=AttributeConfig(**UNCHECKED), neutral=texts)
    cfg = SelectConfig(method="greedy", k=4, rounds=4, candidates=25)
    found = select_greedily(model, prompts, scores, cfg=cfg)
    weight = scores.cost + 0.1 * scores.cost.mean()
    left, chosen = highest(scores.per_cost(floor=0.1), 25), []
    for _ in range(4):
        with Deletion.zero(NeuronSet(tuple(chosen), 4, 128)).applied(model):
            effects = measure_ablations(model, prompts, left).mean(1)
        best = max(range(len(left)), key=lambda i: float(effects[i] / weight[left[i]]))
        chosen.append(left.pop(best))
    assert set(found) == set(chosen)
    batch = align(model, prompts)
    tokens, mask, keep = target_batch(model, batch)
    base = target_log_prob(model.forward(tokens, mask, keep=keep), batch)
    with Deletion.zero(found).applied(model):
        after = target_log_prob(model.forward(tokens, mask, keep=keep), batch)
    joint = joint_effect(model, prompts, found)
    assert joint.together.value == pytest.approx(float((base - after).mean()), abs=1e-5)
    alone = measure_ablations(model, prompts, list(found)).mean(1).sum()
    assert joint.summed.value == pytest.approx(float(alone), abs=1e-5)
    assert joint.together.value != pytest.approx(joint.summed.value, abs=1e-3)
    assert "nats" in joint.text()


def test_layers_of_the_settings_count_everywhere(load, prompts):
    from tl_toxmem import ToxmemError, attribute_neurons, choose_k, control_sets, select_greedily
    from tl_toxmem.config import AttributeConfig, SelectConfig

    model = load()
    scores = attribute_neurons(
        model, prompts, cfg=AttributeConfig(**UNCHECKED), neutral=["the cat sat"]
    )
    cfg = SelectConfig(method="greedy", k=3, rounds=1, candidates=10, layers="late")
    found = select_greedily(model, prompts, scores, cfg=cfg)
    assert found == select_greedily(model, prompts, scores, cfg=cfg, layers=(3,))
    assert set(found.by_layer()) == {3}
    assert set(select_greedily(model, prompts, scores, cfg=cfg, layers=(0,)).by_layer()) == {0}
    controls = control_sets(found, scores, seed=0, cfg=cfg, benign=scores)
    assert set(controls["decoy"].by_layer()) == {3}
    with pytest.raises(ToxmemError, match="no layer 17: the model has layers 0 to 3"):
        select_greedily(model, prompts, scores, cfg=cfg, layers=(17,))
    traced = cfg.model_copy(update={"layers": "trace"})
    with pytest.raises(ToxmemError, match=r"needs a trace: .*layers=layers_of\(cfg"):
        choose_k(model, prompts, scores, neutral=["x y"], scorer=Vowels(), cfg=traced)
    with pytest.raises(ToxmemError, match=r"layers=layers_of\(cfg"):
        control_sets(found, scores, seed=0, cfg=traced, benign=scores)


@pytest.mark.parametrize("name", ["zero", "scale", "mean", "input_gain"])
def test_effects_are_of_the_law_that_is_used(load, prompts, host, name):
    """Joint effects, single ones and cards against really deleting by that law."""
    from tl_toxmem import Deletion, NeuronSet, joint_effect, neuron_cards
    from tl_toxmem.attribute import measure_ablations
    from tl_toxmem.tokens import target_log_probs

    model = load(host, torch.float64)
    means = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    laws = {
        "zero": Deletion.zero,
        "scale": lambda some: Deletion.scale(some, -0.5),
        "mean": lambda some: Deletion.mean(some, means),
        "input_gain": lambda some: Deletion.input_gain(some, 0.3),
    }
    law = laws[name]
    chosen = NeuronSet(((0, 5), (2, 7), (2, 90)), 4, 128)
    base = target_log_probs(model, prompts)

    def taken(neurons):
        with law(neurons).applied(model):
            return base - target_log_probs(model, prompts)

    each = torch.stack([taken(NeuronSet((n,), 4, 128)) for n in chosen])
    found = measure_ablations(model, prompts, list(chosen)[::-1], law=law)
    assert torch.allclose(found.flip(0).double(), each, atol=EXACT)
    joint = joint_effect(model, prompts, chosen, law=law)
    assert joint.together.value == pytest.approx(float(taken(chosen).mean()), abs=EXACT)
    assert [e.value for e in joint.alone] == pytest.approx(each.mean(1).tolist(), abs=EXACT)
    assert joint.law == law(chosen).law and joint.law in joint.text()
    (card,) = neuron_cards(model, prompts, NeuronSet(((2, 7),), 4, 128), law=law, n_examples=0)
    assert card.effect.value == pytest.approx(float(each[1].mean()), abs=EXACT)
    assert card.law == joint.law and card.law in str(card)
    assert not card.excited and not card.changes
    assert each.abs().max() > 1e-3


def test_sets_and_their_algebra(tmp_path):
    from tl_toxmem import NeuronSet, ToxmemError

    one = NeuronSet(((2, 1), (0, 3), (0, 1), (0, 3)), 4, 10)
    other = NeuronSet(((0, 3), (3, 9)), 4, 10)
    assert one.neurons == ((0, 1), (0, 3), (2, 1))
    assert (one | other).neurons == ((0, 1), (0, 3), (2, 1), (3, 9))
    assert (one & other).neurons == ((0, 3),)
    assert (one - other).neurons == ((0, 1), (2, 1))
    assert one.overlap(other) == 1 / 4
    assert one.overlap(one) == 1
    empty = NeuronSet((), 4, 10)
    assert empty.overlap(empty) == 0
    one.write(tmp_path / "set.json")
    assert NeuronSet.read(tmp_path / "set.json") == one
    with pytest.raises(ToxmemError, match="different shape: 4 x 10 and 4 x 11"):
        one | NeuronSet((), 4, 11)
    (tmp_path / "bad.json").write_text(
        '{"format_version": 1, "neurons": [["a", 1]], "n_layers": 4, "d_mlp": 10}'
    )
    with pytest.raises(ToxmemError, match="pairs of whole numbers"):
        NeuronSet.read(tmp_path / "bad.json")
    (tmp_path / "other.json").write_text('{"format_version": 1}')
    with pytest.raises(ToxmemError, match="no neuron set"):
        NeuronSet.read(tmp_path / "other.json")


def test_controls_are_as_large_disjoint_and_as_loud():
    from tl_toxmem import control_sets
    from tl_toxmem.config import SelectConfig
    from tl_toxmem.select import controls_text, loudness_ratios

    draw = torch.Generator().manual_seed(0)
    values, loudness = torch.rand(2, 6, 200, generator=draw)
    scores = scores_of(values, cost=torch.rand(6, 200, generator=draw), loudness=loudness**4)
    benign = scores_of(values.flip(1), cost=scores.cost, loudness=loudness)
    chosen = scores.top(30)
    found = control_sets(chosen, scores, seed=3, benign=benign, cfg=SelectConfig(method="top"))
    assert set(found) == {"random_neurons", "random_early_layers", "random_anywhere", "decoy"}
    for control in found.values():
        assert len(control) == 30
        assert not set(control) & set(chosen)
    counts = {layer: len(ns) for layer, ns in chosen.by_layer().items()}
    matched = found["random_neurons"]
    assert {layer: len(ns) for layer, ns in matched.by_layer().items()} == counts
    assert set(found["random_early_layers"].by_layer()) <= {0, 1}
    ours = sorted(float(scores.loudness[n]) for n in chosen)
    theirs = sorted(float(scores.loudness[n]) for n in matched)
    plain = sorted(float(scores.loudness[n]) for n in chosen.random_like(seed=3))
    gap = [sum(abs(a - b) for a, b in zip(ours, other, strict=True)) for other in (theirs, plain)]
    assert gap[0] < 0.5 * gap[1]
    ratios = loudness_ratios(chosen, found, scores)
    assert ratios["random_neurons"] == pytest.approx(sum(theirs) / sum(ours), abs=1e-6)
    assert ratios["random_neurons"] == pytest.approx(1, abs=AS_LOUD)
    assert f"random neurons {ratios['random_neurons']:.2f} x" in controls_text(ratios, None)
    assert "There is no decoy: none." in controls_text(ratios, "none")
    best = [n for n in benign.top(60) if n not in set(chosen)]
    assert set(found["decoy"]) <= set(best)
    assert "decoy" not in control_sets(chosen, scores, seed=3)


def verification_of(top, rest, *, n_rest=1000):
    """Of measured means, one prompt."""
    from tl_toxmem.attribute import Verification

    values = torch.tensor([*top, *rest])[:, None]
    n = len(values)
    return Verification(
        neurons=torch.stack([torch.zeros(n), torch.arange(n)], 1).long(),
        is_top=torch.arange(n) < len(top),
        scores=torch.arange(n, 0, -1).float(),
        measured=values,
        n_rest=n_rest,
        law="zero",
        seed=0,
    )


def test_what_a_verification_says():
    from scipy.stats import binomtest

    found = verification_of([4.0, 3.0, 2.0, -1.0], [0.1, 2.6, *[0.0] * 38], n_rest=400)
    assert found.precision == 3 / 4
    assert found.spearman_top == pytest.approx(1.0)
    over, share = found.missed_share
    assert over == 1  # the median of the top is 2.5
    exact = binomtest(1, 40).proportion_ci(0.9, method="exact").high  # one-sided 95 %
    assert share == pytest.approx(exact, abs=1e-6)
    missed = found.missed_effect
    assert missed.value == pytest.approx(400 * 2.7 / 40)
    assert found.rest_effect.value == pytest.approx(400 * 2.7 / 40)
    assert (
        missed.high > missed.value + 400 * 0.07 * 4.0
    )  # 7 % may be missed by 40, as strong as the strongest
    assert "Of 40 random others, 1 reach the median" in found.text()
    frame = found.frame()
    assert list(frame.top) == [True] * 4 + [False] * 40


def test_noise_about_zero_carries_nothing():
    """Positive parts alone make something of nothing; what speaks against the target is subtracted."""
    import numpy as np

    noise = np.random.default_rng(0).normal(0, 0.01, 200).tolist()
    found = verification_of([4.0, 3.0, 2.0], noise, n_rest=10_000)
    rest = found.rest_effect
    assert rest.value == pytest.approx(10_000 * float(np.mean(noise)), rel=1e-4)
    assert rest.low < 0 < rest.high
    assert found.missed_effect.value > 30, "of this, the text says that it is noise as well"
    assert f"carry {rest.value:.3g} nats ({rest.low:.3g} to {rest.high:.3g})" in found.text()
    assert "noise included" in found.text()
    assert "on a single prompt: no interval" in found.text()
    assert "whole interval" not in found.text()


def test_the_limit_of_what_was_missed_holds_in_95_of_100_samples():
    """Coverage: of samples from a population with a known share, the limit is above it nearly always."""
    import numpy as np

    population = np.zeros(1000)
    population[:40] = 5.0
    held = 0
    for seed in range(100):
        sample = np.random.default_rng(seed).choice(population, 100, replace=False)
        found = verification_of([3.0, 3.0], sample.tolist())
        held += found.missed_share[1] >= 0.04
    assert held >= 93


def test_the_limit_of_what_the_others_carry_holds_where_few_are_strong():
    import numpy as np

    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        population = np.zeros(3000)
        population[:30] = rng.exponential(1.0, 30)
        sample = rng.choice(population, 200, replace=False)
        found = verification_of([5.0, 4.0, 3.0], sample.tolist(), n_rest=3000)
        held += found.missed_effect.high >= population.sum()
    assert held >= 95


def test_agreement_is_of_the_measured_effects(load, prompts, host):
    from tl_toxmem import compare_methods
    from tl_toxmem.config import AttributeConfig

    model = load(host)
    cfg = AttributeConfig(n_noise=2, verify_random=60)
    names = ["ablation", "gradient", "integrated_gradients", "direct_effect"]
    found = compare_methods(model, prompts, methods=names, k=10, cfg=cfg)
    frame = found.frame().set_index("method")
    # Ablation is the truth: it captures all of the best that are known, and correlates with itself.
    assert frame.captured["ablation"] == pytest.approx(1, abs=1e-5)
    assert frame.spearman["ablation"] == pytest.approx(1)
    assert frame.effect["ablation"] == frame.effect.max()
    for name in names[1:]:
        assert frame.captured[name] < 1
        assert frame.low[name] <= frame.captured[name] <= frame.high[name] + 1e-9
    between = found.between()
    assert len(between) == 6
    row = between[(between.one == "ablation") & (between.other == "gradient")].iloc[0]
    tops = found.tops()
    assert row.overlap == len(set(tops["ablation"]) & set(tops["gradient"])) / 10


def test_methods_are_compared_by_the_law_that_is_asked_for(load, prompts):
    from tl_toxmem import Texts, ToxmemError, compare_methods
    from tl_toxmem.attribute import measure_ablations
    from tl_toxmem.attribute.cost import with_cost
    from tl_toxmem.config import AttributeConfig

    model, neutral = load(), ["the cat sat", "on the mat"]
    cfg = AttributeConfig(verify_random=5, verify_law="mean")
    with pytest.raises(ToxmemError, match="verify_law = 'mean' needs neutral text"):
        compare_methods(model, prompts, methods=["gradient"], k=3, cfg=cfg)
    names = ["gradient", "direct_effect"]
    found = compare_methods(
        model, prompts, methods=names, k=3, cfg=cfg, texts=Texts(neutral=neutral)
    )
    scores = with_cost(model, found.scores["gradient"], neutral, cfg=cfg)
    means = scores.mean_activation
    expected = measure_ablations(model, prompts, found.neurons, mean_activation=means)
    assert torch.allclose(found.measured, expected, atol=EXACT)
    zeroed = measure_ablations(model, prompts, found.neurons)
    assert (found.measured - zeroed).abs().max() > 1e-3
    assert repr(found).startswith("Agreement(gradient, direct_effect; k = 3,")
    assert "set to mean on 3 prompts" in repr(found)
    with pytest.raises(ToxmemError, match="no methods to compare: choose from gradient"):
        compare_methods(model, prompts, methods=[])


def test_a_card_says_what_is_true_of_its_neuron(load, prompts, host):
    from tl_toxmem import Deletion, NeuronCard, NeuronSet, attribute_neurons, neuron_cards
    from tl_toxmem.attribute import measure_ablations
    from tl_toxmem.config import AttributeConfig

    model = load(host)
    scores = attribute_neurons(model, prompts, cfg=AttributeConfig(**UNCHECKED))
    neuron = scores.top(1).neurons[0]
    (card,) = neuron_cards(model, prompts, [neuron], scores=scores, n_examples=2, max_new_tokens=5)
    assert (card.layer, card.neuron) == neuron
    effect = measure_ablations(model, prompts, [neuron]).mean()
    assert card.effect.value == pytest.approx(float(effect), abs=1e-6)
    assert card.cost is None
    twice = neuron_cards(model, prompts, [neuron, neuron], n_examples=1, max_new_tokens=1)
    assert twice[0].effect == twice[1].effect == card.effect
    best = card.excited[0]
    tokens, mask = model.pad([model.encode(best.prompt)])
    _, found = model.capture(tokens, mask, sites=[("mlp_post", neuron[0])])
    activation = found["mlp_post", neuron[0]][0, :, neuron[1]]
    assert int(activation.abs().argmax()) == best.pos
    assert float(activation[best.pos]) == pytest.approx(best.activation, abs=1e-5)
    peaks = []
    for prompt in prompts:
        tokens, mask = model.pad([model.encode(prompt.prompt)])
        _, found = model.capture(tokens, mask, sites=[("mlp_post", neuron[0])])
        peaks.append(float(found["mlp_post", neuron[0]][0, :, neuron[1]].abs().max()))
    assert abs(best.activation) == pytest.approx(max(peaks), abs=1e-5)
    change = card.changes[0]
    tokens, mask = model.pad([model.encode(change.prompt)])
    with Deletion.zero(NeuronSet((neuron,), 4, 128)).applied(model):
        after = model.generate(tokens, mask, max_new_tokens=5)[0, tokens.shape[1] :]
    assert change.after == model.tokenizer.decode(after, skip_special_tokens=True)
    assert card.raised[0][1] > 0 > card.lowered[0][1]
    assert NeuronCard.from_json(card.to_json()) == card
    assert f"neuron {neuron[1]}" in str(card)
    assert "<table>" in card._repr_html_()


def test_cards_mask_slurs_and_escape():
    from tl_toxmem import NeuronCard
    from tl_toxmem.cards import Change, Excited
    from tl_toxmem.stats import Estimate

    card = NeuronCard(
        layer=1,
        neuron=2,
        effect=Estimate(1.0, 0.5, 1.5, 9),
        score=1.0,
        cost=0.1,
        raised=((" idiot", 3.0),),
        lowered=(("<b>", -2.0),),
        excited=(Excited("he is a moron", " moron", 3, 2.0),),
        changes=(Change("he is", " an idiot", " a man"),),
    )
    shown = str(card) + card._repr_html_()
    assert "idiot" not in shown
    assert "moron" not in shown
    assert "<b>'" not in card._repr_html_()
    assert "&lt;b&gt;" in card._repr_html_()
