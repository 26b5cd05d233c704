"""Hooks, generators, wrapping, and what is refused (for the numbers themselves see test_contract.py)."""

import pytest
import torch

pytestmark = pytest.mark.host
TEXTS = ["Bob is a", "the town", "x", "a longer text than those"]


@pytest.fixture
def model(load, host):
    return load(host, torch.float64)


@pytest.fixture
def batch(model):
    return model.pad([model.encode(text) for text in TEXTS])


def test_sampling_is_reproducible_and_leaves_the_global_generator_alone(model, batch):
    from tl_toxmem.model import Sampling

    state = torch.get_rng_state()

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        options = {"sampling": Sampling(), "generator": generator}
        return model.generate(*batch, max_new_tokens=6, **options)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_unknown_layers_and_sites_are_refused_and_nothing_is_attached(model, batch):
    from tl_toxmem import ToxmemError

    good = ("mlp_post", 0, lambda a: a * 0)
    wrong = model.hooks([good, ("mlp_post", 4, lambda a: a)])
    with pytest.raises(ToxmemError, match="no layer 4: the model has layers 0 to 3"), wrong:
        pass
    assert all(not point.fwd_hooks for point in model.host.points.values())


def test_wrapping_what_a_notebook_already_has(load, host, prompts, tmp_path, gpt2_folder):
    from tl_toxmem import Deletion, LensModel, NeuronSet, causal_trace, export_checkpoint

    ours = load(host)
    theirs = load(host).host.raw  # a plain HookedTransformer or TransformerBridge
    wrapped = LensModel.wrap(theirs, tokenizer=ours.tokenizer, checkpoint=gpt2_folder)
    tokens, mask = ours.pad([ours.encode(text) for text in TEXTS])
    assert torch.equal(wrapped.forward(tokens, mask), ours.forward(tokens, mask))
    assert torch.equal(
        causal_trace(wrapped, prompts).effect.nan_to_num(7),
        causal_trace(ours, prompts).effect.nan_to_num(7),
    )
    deletion = Deletion.zero(NeuronSet(((1, 2), (3, 4)), 4, 128))
    done = export_checkpoint(wrapped, deletion, tmp_path / "out", prompts=TEXTS)
    assert done.certificate.passed


def test_a_checkpoint_that_is_another_model_is_refused(load, gpt2_folder, tmp_path):
    """Or a certificate would compare that checkpoint with itself."""
    from conftest import HAS_HOOKED, byte_tokenizer
    from tiny import random_model

    from tl_toxmem import Deletion, LensModel, NeuronSet, ToxmemError, export_checkpoint

    if not HAS_HOOKED:
        pytest.skip("the Bridge bakes its own weights")
    other = tmp_path / "other"
    random_model("gpt2", seed=1).save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    raw = load("hooked")
    wrapped = LensModel.wrap(raw.host.raw, tokenizer=raw.tokenizer, checkpoint=other)
    deletion = Deletion.zero(NeuronSet(((1, 2),), 4, 128))
    with pytest.raises(ToxmemError, match="is not what the wrapped model was made from"):
        export_checkpoint(wrapped, deletion, tmp_path / "out", prompts=TEXTS)
    assert not (tmp_path / "out").exists()


def processed(host: str, gpt2_folder):
    """The model as TransformerLens itself would load it: folded and centred."""
    from transformers import GPT2LMHeadModel

    from tl_toxmem.model.bridge import BridgeHost
    from tl_toxmem.model.hooked import HookedHost

    hf = GPT2LMHeadModel.from_pretrained(gpt2_folder).eval()
    if host == "hooked":
        raw = HookedHost.from_hf(hf).raw
        for parameter in raw.parameters():  # of its own, as a user's would be
            parameter.data = parameter.data.clone()
        raw.load_and_process_state_dict(
            {k: v.clone() for k, v in raw.state_dict().items()},
            fold_ln=False,
            center_writing_weights=True,
        )
        return raw
    raw = BridgeHost.from_hf(hf).raw
    raw.enable_compatibility_mode()
    return raw


def test_processed_weights_are_analysed_but_not_baked(load, host, prompts, gpt2_folder, tmp_path):
    from tl_toxmem import (
        Deletion,
        LensModel,
        NeuronSet,
        ToxmemError,
        attribute_neurons,
        export_checkpoint,
    )
    from tl_toxmem.config import AttributeConfig

    raw = load(host)
    assert not raw.processed
    theirs = processed(host, gpt2_folder)
    model = LensModel.wrap(theirs, tokenizer=raw.tokenizer, checkpoint=gpt2_folder)
    assert model.processed
    cfg = AttributeConfig(verify_top=5, verify_random=5, batch_size=1)
    found, expected = (attribute_neurons(m, prompts, cfg=cfg) for m in (model, raw))
    assert torch.allclose(found.scores, expected.scores, atol=1e-4)
    deletion = Deletion.zero(NeuronSet(((1, 2),), 4, 128))
    with pytest.raises(ToxmemError, match="processed weights"):
        export_checkpoint(model, deletion, tmp_path / "out", prompts=TEXTS)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_wrapped(load, host, gpt2_folder):
    from transformers import GPT2LMHeadModel

    from tl_toxmem import LensModel, ToxmemError

    model = load(host)
    with pytest.raises(ToxmemError, match="cannot wrap a GPT2LMHeadModel"):
        LensModel.wrap(GPT2LMHeadModel.from_pretrained(gpt2_folder), tokenizer=model.tokenizer)


def test_a_host_that_differs_from_transformers_is_refused(host, gpt2_folder, monkeypatch):
    from tl_toxmem import LensModel, ToxmemError
    from tl_toxmem.model import lens

    true = lens.plain_log_probs
    monkeypatch.setattr(lens, "plain_log_probs", lambda *a: true(*a) + 0.5)
    with pytest.raises(ToxmemError, match="differs from transformers by 0.5 nats"):
        LensModel.from_pretrained(gpt2_folder, host=host)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0}, {"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": -1}],
    ids=str,
)
def test_sampling_that_makes_no_sense(wrong):
    from tl_toxmem import ToxmemError
    from tl_toxmem.model import Sampling

    with pytest.raises(ToxmemError, match="sampling needs temperature > 0"):
        Sampling(**wrong)


def test_a_gated_mlp_with_biases(host, tmp_path):
    """A mean shift is baked into its output bias on the Bridge; HookedTransformer has no such MLP."""
    from conftest import byte_tokenizer
    from laws import make
    from tiny import TINY
    from transformers import LlamaForCausalLM

    from tl_toxmem import LensModel, ToxmemError, export_checkpoint

    config = TINY["llama"]()
    config.mlp_bias = True
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(config)
    for parameter in theirs.parameters():
        parameter.data.normal_(0.3, 0.2)
    options = {"tokenizer": byte_tokenizer(), "host": host}
    if host == "hooked":
        with pytest.raises(
            ToxmemError, match="has no biases, and this model's has: use the host 'bridge'"
        ):
            LensModel.from_pretrained(theirs, **options)
        return
    model = LensModel.from_pretrained(theirs, **options)
    done = export_checkpoint(model, make(("mean", "input gain")), tmp_path / "out", prompts=TEXTS)
    assert done.certificate.passed


def test_the_hooked_model_shares_the_hugging_face_tensors(load):
    from conftest import HAS_HOOKED

    if not HAS_HOOKED:
        pytest.skip("this TransformerLens has no HookedTransformer")
    model = load("hooked")
    hf = model.clean_hf()
    ours = {p.untyped_storage().data_ptr() for p in model.host.raw.parameters() if p.numel() > 257}
    theirs = {p.untyped_storage().data_ptr() for p in hf.parameters()}
    assert ours <= theirs, "a weight was copied"


def test_no_hooked_transformer_on_newer_lines(gpt2_folder):
    from conftest import HAS_HOOKED

    from tl_toxmem import LensModel, ToxmemError

    if HAS_HOOKED:
        pytest.skip("this TransformerLens has HookedTransformer")
    with pytest.raises(ToxmemError, match="no HookedTransformer"):
        LensModel.from_pretrained(gpt2_folder, host="hooked")
