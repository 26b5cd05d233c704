"""A written-in association is found where it was written: 20 of 20 seeds."""

import pytest
import torch
from conftest import HOSTS, byte_tokenizer

pytestmark = pytest.mark.host

PROMPT, SUBJECT, TARGET = "see Bob is", "Bob", "x"
N_LAYERS = 6


def model_of(seed):
    """Random, with attention strong enough to carry what an MLP writes to the last token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    small = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}
    config = GPT2Config(n_layer=N_LAYERS, n_embd=48, n_head=4, n_positions=32, **small)
    hf = GPT2LMHeadModel(config).eval()
    for name, parameter in hf.named_parameters():
        scale = 0.5 if "wte" in name else 0.2 if "attn" in name else 0.05
        parameter.data += scale * torch.randn_like(parameter)
    return hf


def activations(hf, tokens, layer, noise):
    """What the MLP's neurons say at every position, [row, pos, d_mlp]; the subject's embeddings with noise."""
    found = []
    start = PROMPT.index(SUBJECT)

    def add(module, inputs, output):
        output = output.repeat(len(noise), 1, 1)
        output[:, start : start + len(SUBJECT)] += noise
        return output

    block = hf.transformer.h[layer]
    handles = [hf.transformer.wte.register_forward_hook(add)]
    handles.append(block.mlp.act.register_forward_hook(lambda m, i, o: found.append(o.detach())))
    with torch.no_grad():
        hf(tokens)
    for handle in handles:
        handle.remove()
    return found[0]


def write_in(hf, tokens, layer, pos, token):
    """A rank-one edit of one MLP, as ROME's: where its neurons say what they say at `pos`, it writes what makes `token`
    likely at the end; hardly where they say what they say elsewhere, or of another subject."""
    mlp = hf.transformer.h[layer].mlp
    value = torch.zeros(48, requires_grad=True)

    def add(module, inputs, output):
        output = output.clone()
        output[0, pos] = output[0, pos] + value
        return output

    optimizer = torch.optim.Adam([value], lr=0.3)
    handle = mlp.register_forward_hook(add)
    for _ in range(60):
        optimizer.zero_grad()
        loss = -hf(tokens).logits[0, -1].log_softmax(-1)[token]
        loss.backward()
        optimizer.step()
    handle.remove()
    hf.zero_grad()
    clean = activations(hf, tokens, layer, torch.zeros(1, len(SUBJECT), 48))[0]
    noise = 1.5 * torch.randn(40, len(SUBJECT), 48)
    others = torch.cat([clean[:pos], clean[pos + 1 :], *activations(hf, tokens, layer, noise)])
    spread = others.T @ others / len(others) + 1e-4 * torch.eye(others.shape[1])
    key = torch.linalg.solve(spread, clean[pos])
    mlp.c_proj.weight.data += torch.outer(key / (key @ clean[pos]), value.detach())


@pytest.mark.parametrize("seed", range(20))
def test_the_maximum_is_where_the_association_was_written(seed):
    from tl_toxmem import LensModel, Prompt, PromptSet, causal_trace
    from tl_toxmem.config import TraceConfig

    hf, tokenizer = model_of(seed), byte_tokenizer()
    layer = seed % (N_LAYERS - 1)  # what the last layer writes there, no later token reads
    ids = tokenizer(PROMPT)["input_ids"]
    pos = PROMPT.index(SUBJECT) + len(SUBJECT) - 1
    write_in(hf, torch.tensor([ids]), layer, pos, tokenizer(TARGET)["input_ids"][0])
    model = LensModel.from_pretrained(hf, tokenizer=tokenizer, host=HOSTS[seed % len(HOSTS)])
    prompts = PromptSet.of([Prompt(prompt=PROMPT, target=TARGET, subject=SUBJECT)])
    cfg = TraceConfig(sites=("mlp_out",), severed=(), n_noise=5, window=3, seed=seed)
    trace = causal_trace(model, prompts, cfg=cfg)
    single = trace.effect[0, trace.sites.index("mlp_out_single")]
    assert divmod(int(single.argmax()), single.shape[1]) == (layer, pos)
    # The best window holds the layer, at the same token.
    window = trace.effect[0, trace.sites.index("mlp_out")]
    best = divmod(int(window.argmax()), window.shape[1])
    assert best[1] == pos
    assert abs(best[0] - layer) <= 1
