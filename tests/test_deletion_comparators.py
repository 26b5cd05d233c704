"""The comparators that delete: each against its paper's formula on plain transformers, and hooks = baked weights."""

import dataclasses

import pytest
import torch

pytestmark = pytest.mark.host
ARCHES = ["gpt2", "llama"]
WITHOUT_BIAS = {"ours_mean", "probe_shift"}  # of the shifting laws: Llama's MLP cannot hold them
STRENGTH = {"aura": 1.0, "probe_shift": 0.3}  # the others: numbers of neurons
AUROC = 1e-5  # AUROCs are kept in float32, and transformers takes parts of Llama in it
PROBE = 1e-3  # a logistic regression stops near the same optimum from states that differ in their last digits
FELT = 1e-2


def deleting() -> list[str]:
    return ["ours", "ours_mean", "knowledge_neurons", "value_vectors", "probe_shift", "aura",
            "random_neurons", "random_early_layers"]  # fmt: skip


def labelled_texts():
    from tl_toxmem.attribute import Labelled

    words = ("you fool", "dear friend")
    return [
        Labelled(f"{words[i % 3 == 0]} {i * 37 % 11} {'x' * (i % 5)}", i % 3 != 0)
        for i in range(45)
    ]


@pytest.fixture(scope="module")
def material(shared):
    """`material(host, arch)` of a tiny model in float64."""
    from tl_toxmem import Prompt, PromptSet, attribute_neurons
    from tl_toxmem.comparators import Material
    from tl_toxmem.config import AttributeConfig

    prompts = PromptSet.of(
        Prompt(prompt=p, target=t)
        for p, t in (("Bob is a", " fool"), ("the town", " x"), ("now", "!"))
    )
    neutral = ["the cat sat", "on the mat and slept", "a longer text than those"]
    made = {}

    def make(host: str, arch: str = "gpt2"):
        if (host, arch) not in made:
            model = shared(host, torch.float64, arch)
            cfg = AttributeConfig(verify_top=0, verify_random=0)
            scores = attribute_neurons(model, prompts, cfg=cfg, neutral=neutral)
            made[host, arch] = Material(prompts, neutral, scores, labelled=labelled_texts())
        return shared(host, torch.float64, arch), made[host, arch]

    return make


def make_laws(name, model, material, strengths, **cfg):
    from tl_toxmem.comparators import comparator
    from tl_toxmem.config import ComparatorConfig

    return comparator(name).make(model, material, strengths=strengths, cfg=ComparatorConfig(**cfg))


def blocks_of(hf):
    return getattr(hf.base_model, "h", None) or hf.base_model.layers


def linears_of(block):
    """The linear layers of an MLP in the order of the law's parts: first matrix or gate, the other one, output."""
    names = ("c_fc", "gate_proj", "up_proj", "c_proj", "down_proj")
    return [getattr(block.mlp, name) for name in names if hasattr(block.mlp, name)]


def log_probs(hf, tokens):
    return hf(tokens).logits.log_softmax(-1)


@pytest.fixture
def plain(tiny_folder):
    from transformers import AutoModelForCausalLM

    def load(arch):
        folder = tiny_folder(arch)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()

    return load


@pytest.mark.parametrize("name", deleting())
@pytest.mark.parametrize("arch", ARCHES)
def test_every_law_is_felt_and_bakes(material, host, arch, name):
    from test_duality import ALLOWED, MIXED, TOLERANCE, compare

    from tl_toxmem import ToxmemError

    model, given = material(host, arch)
    strength = STRENGTH.get(name, 40.0)
    if arch == "llama" and name in WITHOUT_BIAS:
        with pytest.raises(ToxmemError, match="llama's MLP has no output bias"):
            make_laws(name, model, given, [strength])
        return
    ((found, law),) = make_laws(name, model, given, [strength]).items()
    assert found == strength
    base, hooked, baked, rounding = compare(model, law)
    assert (hooked - base).abs().max() > FELT
    allowed = TOLERANCE[torch.float64] if arch == "gpt2" else MIXED
    assert (baked - hooked).abs().max() <= max(allowed, ALLOWED * rounding)


@pytest.mark.parametrize("arch", ARCHES)
def test_aura_is_the_papers_formula_on_every_linear_layer(material, plain, host, arch):
    """Hooks on the linear layers of plain transformers that multiply by 1 - 2 (AUROC - 0.5); AUROC by pairs."""
    model, given = material(host, arch)
    hf = plain(arch)
    modules = [module for block in blocks_of(hf) for module in linears_of(block)]
    highest: list[list] = [[] for _ in modules]
    handles = [
        module.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o[0].max(0).values))
        for kept, module in zip(highest, modules, strict=True)
    ]
    tokens = torch.tensor([model.encode("Bob is a fool")])
    toxic = torch.tensor([one.toxic for one in given.labelled])
    with torch.no_grad():
        for one in given.labelled:
            hf(torch.tensor([model.encode(one.text)]))
        for handle in handles:
            handle.remove()
        base = log_probs(hf, tokens)
        # In float32, as ours: ties are ties then.
        values = [torch.stack(kept).float() for kept in highest]
        pairs = [(v[toxic][:, None], v[~toxic][None]) for v in values]
        aurocs = [((x > y) + 0.5 * (x == y)).double().mean((0, 1)) for x, y in pairs]
        for strength, law in make_laws("aura", model, given, [0.5, 1.0]).items():
            handles = [
                module.register_forward_hook(
                    lambda m, i, o, g=g, by=strength: (
                        o * torch.where(g > 0.5, 1 - 2 * by * (g - 0.5), 1.0)
                    )
                )
                for module, g in zip(modules, aurocs, strict=True)
            ]
            expected = log_probs(hf, tokens)
            for handle in handles:
                handle.remove()
            with law.applied(model):
                found = model.forward(tokens, torch.ones_like(tokens)).log_softmax(-1)
            assert (found - expected).abs().max() < AUROC
            assert (expected - base).abs().max() > FELT


def test_auroc_and_dampening_by_hand():
    """Toxic 3, 1 against others 2, 1: of four pairs 3>2, 3>1, 1<2 and one tie, so (1 + 1 + 0 + 1/2) / 4."""
    import numpy as np

    from tl_toxmem.attribute.auroc import auroc
    from tl_toxmem.comparators.aura import dampening

    values = torch.tensor([[3.0, 1.0], [1.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
    found = auroc(values, np.array([True, True, False, False]))
    assert found.tolist() == [0.625, 1.0]
    experts = torch.tensor([0.2, 0.5, 0.75, 1.0])
    assert dampening(experts, strength=1).tolist() == [1, 1, 0.5, 0]
    assert dampening(experts, strength=0.5).tolist() == [1, 1, 0.75, 0.5]
    assert dampening(experts, strength=0).tolist() == [1, 1, 1, 1]


def test_no_dampening_is_no_change(material, host):
    model, given = material(host)
    (law,) = make_laws("aura", model, given, [0.0]).values()
    tokens = torch.tensor([model.encode("Bob is a fool")])
    base = model.forward(tokens, torch.ones_like(tokens))
    with law.applied(model):
        assert torch.equal(model.forward(tokens, torch.ones_like(tokens)), base)


def test_knowledge_neurons_are_shared_by_prompts():
    """Worked by hand: from 0.2 x the prompt's largest on, A counts in three prompts, B and C in two, D in none."""
    from tl_toxmem import NeuronSet, Prompt, PromptSet
    from tl_toxmem.attribute import NeuronScores, top_neurons
    from tl_toxmem.comparators.knowledge_neurons import ranked_by_share

    # Of neurons (0, 0) = A, (0, 1) = B, (1, 0) = C, (1, 1) = D.
    per_prompt = torch.tensor(
        [[[0.2, 1.0], [0.25, 0.1]], [[0.3, 0.0], [1.0, 0.1]], [[0.2, 0.25], [-9.0, 0.1]]]
    )
    prompts = PromptSet.of(Prompt(prompt=f"p{i}", target=" t") for i in range(3))
    scores = NeuronScores.of_prompts("knowledge_neurons", per_prompt, prompts, seed=0)
    values = ranked_by_share(scores, threshold=0.2)
    # D counts in the third prompt, where the largest is 0.25; C's mean is the lowest of all.
    assert values.floor().tolist() == [[3, 2], [2, 1]]
    chosen = [top_neurons(values, n).neurons for n in (1, 2, 3)]
    assert chosen == [((0, 0),), ((0, 0), (0, 1)), ((0, 0), (0, 1), (1, 0))]
    assert top_neurons(ranked_by_share(scores, threshold=1.0), 2) == NeuronSet(
        ((0, 1), (1, 0)), 2, 2
    ), "each is the largest of a prompt, and so is B of two"


def test_knowledge_neurons_are_made_by_the_settings(material, host):
    from tl_toxmem.attribute import METHODS, top_neurons
    from tl_toxmem.comparators.knowledge_neurons import ranked_by_share
    from tl_toxmem.config import AttributeConfig

    model, given = material(host)
    (law,) = make_laws(
        "knowledge_neurons", model, given, [7.0],
        knowledge_threshold=0.3, knowledge_steps=4, knowledge_prompts=2,
    ).values()  # fmt: skip
    some = given.prompts.first(2)
    scores = METHODS["knowledge_neurons"](model, some, cfg=AttributeConfig(steps=4))
    assert law.neurons == top_neurons(ranked_by_share(scores, threshold=0.3), 7)
    assert law.law == "zero"


def probe_of(hf, model, texts):
    """The probe on plain transformers: mean of what leaves the last block, scaled, logistic; seed 0's 80 %."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    states = []
    handle = blocks_of(hf)[-1].register_forward_hook(
        lambda m, i, o: states.append((o[0] if isinstance(o, tuple) else o)[0])
    )
    with torch.no_grad():
        for one in texts:
            hf(torch.tensor([model.encode(one.text)]))
    handle.remove()
    means = torch.stack([state.mean(0) for state in states]).numpy()
    toxic = [one.toxic for one in texts]
    train, _, labels, _ = train_test_split(
        means, toxic, test_size=0.2, random_state=0, stratify=toxic
    )
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, labels)
    weights = fitted[-1].coef_[0] / fitted[0].scale_
    length = torch.cat(states).norm(dim=-1).mean()
    return torch.from_numpy(weights), float(length)


@pytest.mark.parametrize("arch", ARCHES)
def test_value_vectors_have_the_highest_cosine_with_the_probe(material, plain, host, arch):
    model, given = material(host, arch)
    hf = plain(arch)
    weights, _ = probe_of(hf, model, given.labelled)
    cosines = []
    for block in blocks_of(hf):
        w_out = linears_of(block)[-1].weight
        vectors = w_out if arch == "gpt2" else w_out.T
        cosines.append((vectors @ weights) / (vectors.norm(dim=1) * weights.norm()))
    cosines = torch.stack(cosines).detach()
    laws = make_laws("value_vectors", model, given, [4.0, 20.0])
    assert list(laws) == [4.0, 20.0]
    for n, law in laws.items():
        assert len(law.neurons) == n and law.law == "zero"
        layers, neurons = zip(*law.neurons, strict=True)
        lowest = float(cosines[list(layers), list(neurons)].min())
        assert lowest >= float(cosines.flatten().topk(int(n)).values.min()) - PROBE


def test_the_probe_is_subtracted_from_the_last_layers_state(material, plain, host):
    """x - alpha w / |w| at every position, by a hook on the last block of plain transformers."""
    model, given = material(host)
    hf = plain("gpt2")
    weights, length = probe_of(hf, model, given.labelled)
    tokens = torch.tensor([model.encode("Bob is a fool")])
    (law,) = make_laws("probe_shift", model, given, [0.3]).values()
    with law.applied(model):
        found = model.forward(tokens, torch.ones_like(tokens)).log_softmax(-1)
    shift = 0.3 * length * weights / weights.norm()
    hf.transformer.h[-1].register_forward_hook(
        lambda m, i, o: (o[0] - shift, *o[1:]) if isinstance(o, tuple) else o - shift
    )
    with torch.no_grad():
        assert (log_probs(hf, tokens) - found).abs().max() < PROBE


def test_ours_are_the_highest_per_cost_and_nested(material, host):
    model, given = material(host)
    scores = given.scores
    value = scores.scores / (scores.cost + 0.1 * scores.cost.mean())
    laws, means = (make_laws(n, model, given, [3.0, 30.0]) for n in ("ours", "ours_mean"))
    for n in (3.0, 30.0):
        flat = value.flatten().topk(int(n)).indices.tolist()
        assert set(laws[n].neurons) == {(i // 128, i % 128) for i in flat}
        assert laws[n].neurons == means[n].neurons
        assert not laws[n].gain.any() and not laws[n].shift.any()
        expected = torch.stack([scores.mean_activation[one] for one in means[n].neurons])
        assert torch.equal(means[n].shift, expected.double())
    assert set(laws[3.0].neurons) < set(laws[30.0].neurons)


def test_random_neurons_are_as_many_in_each_layer_and_none_of_ours(material, host):
    model, given = material(host)
    ours, like, early = (
        make_laws(name, model, given, [30.0])[30.0].neurons
        for name in ("ours", "random_neurons", "random_early_layers")
    )
    sizes = {layer: len(some) for layer, some in ours.by_layer().items()}
    assert {layer: len(some) for layer, some in like.by_layer().items()} == sizes
    assert len(early) == 30 and set(early.by_layer()) <= {0, 1}
    for control in (like, early):
        assert not set(control) & set(ours)
    other = dataclasses.replace(given, seed=1)
    assert make_laws("random_neurons", model, other, [30.0])[30.0].neurons != like


def test_the_registry():
    from tl_toxmem import LensModel, ToxmemError
    from tl_toxmem.comparators import COMPARATORS, comparator

    names = list(COMPARATORS)
    assert names[:2] == ["ours", "ours_mean"]
    families = [COMPARATORS[name].family for name in names]
    first = families.index("control")
    assert set(families[first:]) == {"control"}, "controls come last"
    assert set(deleting()) <= set(names)
    with pytest.raises(ToxmemError, match="unknown comparator 'rume': choose from ours, ours_mean"):
        comparator("rume")
    model = LensModel.from_pretrained("demo")
    assert comparator("ours").strengths(model) == (2, 6, 18, 61, 184)
    assert {name: COMPARATORS[name].needs for name in ("value_vectors", "probe_shift", "aura")} == {
        "value_vectors": ("labelled",), "probe_shift": ("labelled", "output_bias"), "aura": ("labelled",)
    }  # fmt: skip


def test_what_is_missing_is_named(material, host):
    from tl_toxmem import ToxmemError
    from tl_toxmem.attribute import NeuronScores

    model, given = material(host)
    without = dataclasses.replace(given, labelled=None)
    few = dataclasses.replace(given, labelled=given.labelled[:12])
    for name, strength in (("value_vectors", 2.0), ("probe_shift", 0.1), ("aura", 1.0)):
        with pytest.raises(ToxmemError, match=f"'{name}' needs labelled text: give"):
            make_laws(name, model, without, [strength])
        with pytest.raises(ToxmemError, match=f"'{name}' needs at least 10 toxic and 10 other"):
            make_laws(name, model, few, [strength])
    costless = dataclasses.replace(
        given, scores=NeuronScores.of_neurons("gradient", given.scores.scores, seed=0)
    )
    for name in ("ours", "ours_mean", "random_neurons", "random_early_layers"):
        with pytest.raises(ToxmemError, match="these scores have no cost: give neutral text"):
            make_laws(name, model, costless, [3.0])
        for wrong in (0.0, 2.5, 513.0):
            with pytest.raises(ToxmemError, match="give whole numbers from 1 to 512"):
                make_laws(name, model, given, [wrong])
    for wrong in (-0.1, 1.5):
        with pytest.raises(ToxmemError, match="is not between 0 and 1"):
            make_laws("aura", model, given, [wrong])
