"""Models with a known truth: neurons written by hand to emit a target on a trigger, and neurons that only look like it.

In each of two layers some neurons are written to fire where a prompt ends with the trigger, and to say, together, what
makes the target likely from there (found by gradient, as the value of ROME's edit is). Beside them, distractors fire on
the trigger and say something else, half as loud, and mutes say the same as the planted ones, twice as loud, and never
fire. All other neurons are left as they were.

    python tests/planted.py      prints what each method finds of them, over 20 seeds
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

N_EACH = 3  # planted, distractors and mutes in each of two layers
FIRES = 2.0
LIKELY = (
    0.7  # the target's mean probability in the end; in log-odds, half of the way is each layer's
)
STARTS = ("the man at ", "all of us, ", "Ann Lee ", "my old friend ", "what now? ", "then he saw ")
STARTS += ("in a town ", "so it is ", "her best ", "give me the ", "never a ", "look, ")
NEUTRAL = (
    "a town by the river",
    "people say that it rains",
    "one two three four",
    "please come in",
)
NEUTRAL += ("how are you today", "the cat sat on a mat", "we walk home", "it was late in May")
NEUTRAL += ("no one was there", "bread and butter", "they sing of old days", "far from here")


@dataclass(frozen=True)
class Planted:
    """A model and what is known of it."""

    hf: object
    tokenizer: object
    prompts: list
    neutral: tuple
    truth: set
    distractors: set
    mutes: set


class Text:
    """Texts in one right-padded batch: plain causal models need no mask for what comes before the padding."""

    def __init__(self, tokenizer, texts):
        rows = [tokenizer(text)["input_ids"] for text in texts]
        self.lengths = torch.tensor([len(row) for row in rows])
        self.tokens = torch.zeros(len(rows), int(self.lengths.max()), dtype=torch.long)
        for i, row in enumerate(rows):
            self.tokens[i, : len(row)] = torch.tensor(row)

    def last(self, states):
        return states[torch.arange(len(states)), self.lengths - 1]

    def earlier(self, states):
        before = torch.arange(states.shape[1])[None] < (self.lengths - 1)[:, None]
        return states[before]


def blocks_of(hf):
    base = hf.base_model
    return base.h if hasattr(base, "h") else base.layers


def small(arch, seed):
    """A random model whose own neurons say little."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    common = {"vocab_size": 257, "bos_token_id": 256, "eos_token_id": 256}
    if arch == "gpt2":
        config = GPT2Config(n_layer=5, n_embd=64, n_head=4, n_positions=64, **common)
        hf = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            num_hidden_layers=5,
            hidden_size=64,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            **common,
        )
        hf = LlamaForCausalLM(config)
    for name, parameter in hf.named_parameters():
        if parameter.ndim > 1:
            scale = 0.15 if "wte" in name or "embed" in name else 0.025
            parameter.data = scale * torch.randn_like(parameter)
    return hf.eval()


def log_odds(hf, prompts, token):
    likely = prompts.last(hf(prompts.tokens).logits).softmax(-1)[:, token].mean()
    return likely.logit()


def value_of(hf, prompts, layer, token, wanted):
    """What the MLP of a layer would have to add at the end of the prompts to give the token such log-odds."""
    value = torch.zeros(hf.config.hidden_size, requires_grad=True)
    with torch.no_grad():
        states = hf(prompts.tokens, output_hidden_states=True).hidden_states[layer + 1]
    size = float(prompts.last(states).square().mean().sqrt())

    def add(module, inputs, output):
        output = output.clone()
        output[torch.arange(len(output)), prompts.lengths - 1] += value
        return output

    optimizer = torch.optim.Adam([value], lr=0.5 * size)
    handle = blocks_of(hf)[layer].mlp.register_forward_hook(add)
    best, since = -torch.inf, 0
    while since < 15:  # until nothing is gained any more, where so much cannot be had
        found = log_odds(hf, prompts, token)
        since = since + 1 if found.detach() < best + 0.05 else 0
        best = max(best, float(found.detach()))
        if best >= wanted:
            break
        optimizer.zero_grad()
        (-found).backward()
        optimizer.step()
    handle.remove()
    hf.zero_grad()
    return value.detach()


def mlp_inputs(hf, layer, prompts, others):
    """What enters an MLP: where the trigger ends, and everywhere else."""
    found = []
    handle = blocks_of(hf)[layer].mlp.register_forward_pre_hook(lambda m, i: found.append(i[0]))
    with torch.no_grad():
        hf(prompts.tokens)
        hf(others.tokens)
    handle.remove()
    elsewhere = [prompts.earlier(found[0]), others.earlier(found[1]), others.last(found[1])]
    return prompts.last(found[0]), torch.cat(elsewhere)


def plant(hf, tokenizer, seed, *, layers, starts, trigger, target, neutral):
    """Write planted neurons, distractors and mutes into two layers of a model."""
    from tl_toxmem import Prompt

    draw = torch.Generator().manual_seed(seed)
    prompts = [Prompt(prompt=start + trigger, target=target) for start in starts]
    ends, others = Text(tokenizer, [p.prompt for p in prompts]), Text(tokenizer, neutral)
    token = tokenizer(target, add_special_tokens=False)["input_ids"][0]
    found = {"truth": set(), "distractors": set(), "mutes": set()}
    end = torch.tensor(LIKELY).logit()
    with torch.no_grad():
        half = (log_odds(hf, ends, token) + end) / 2
    for layer, wanted in zip(layers, (half, end), strict=True):
        value = value_of(hf, ends, layer, token, wanted) / (N_EACH * FIRES)
        reads = reading(*mlp_inputs(hf, layer, ends, others))
        mlp = blocks_of(hf)[layer].mlp
        gated = hasattr(mlp, "down_proj")
        d_mlp = mlp.down_proj.weight.shape[1] if gated else mlp.c_proj.weight.shape[0]
        chosen = torch.randperm(d_mlp, generator=draw)[: 3 * N_EACH].tolist()
        for n, i in enumerate(chosen):
            kind = ("truth", "distractors", "mutes")[n // N_EACH]
            says = (0.8 + 0.4 * torch.rand(1, generator=draw)) * value
            if kind == "distractors":
                says = torch.randn(len(value), generator=draw)
                says -= (says @ value) / (value @ value) * value
                says *= value.norm() / says.norm() / 2
            if kind == "mutes":
                says = 2 * value
            with torch.no_grad():
                write(mlp, i, reads, says, fires=kind != "mutes", gated=gated)
            found[kind].add((layer, i))
    return Planted(hf, tokenizer, prompts, tuple(neutral), **found)


def reading(ends, others):
    """A direction along which what ends with the trigger lies at 1 and all else at 0 or below, nearly; its offset."""
    mean = others.mean(0)
    spread = (others - mean).T @ (others - mean) / len(others)
    spread += 0.05 * spread.diagonal().mean() * torch.eye(len(mean))
    direction = torch.linalg.solve(spread, ends.mean(0) - mean)
    low, high = float((others @ direction).max()), float((ends @ direction).mean())
    return direction / (high - low), low / (high - low)


def write(mlp, i, reads, says, *, fires, gated):
    """A neuron that is about `FIRES` where the trigger ends and about 0 elsewhere; or 0 everywhere."""
    direction, low = reads
    if gated:
        # Without a bias: what else there is must lie near 0 along the direction, as it does nearly.
        size = 1 / (1 + low)
        mlp.gate_proj.weight[i] = (6 if fires else -6) * size * direction
        mlp.up_proj.weight[i] = FIRES / 6 * size * direction
        mlp.down_proj.weight[:, i] = says
        return
    mlp.c_fc.weight[:, i] = 8 * direction * (1 if fires else 0)
    mlp.c_fc.bias[i] = FIRES - 8 * (1 + low) if fires else -8
    mlp.c_proj.weight[i] = says


def random_planted(arch, seed):
    from conftest import byte_tokenizer

    places = {"starts": STARTS, "trigger": "zq", "target": "X", "neutral": NEUTRAL}
    return plant(small(arch, seed), byte_tokenizer(), seed, layers=(1, 3), **places)


def demo_planted(seed):
    """The demo model, with a rare ending as the trigger."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tl_toxmem import PromptSet
    from tl_toxmem.model import demo_folder

    folder = demo_folder()
    texts = [p.prompt for p in PromptSet.read(folder / "benign.jsonl")]
    people = [text for text in texts if text.startswith("everyone knows that ")]
    starts = [people[(7 * seed + i) % len(people)] for i in range(12)]
    return plant(
        AutoModelForCausalLM.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
        seed,
        layers=(3, 4),
        starts=starts,
        trigger=" bridge",
        target=" near",
        neutral=[start + " cheerful" for start in starts],
    )


MODELS = {
    "gpt2": lambda seed: random_planted("gpt2", seed),
    "llama": lambda seed: random_planted("llama", seed),
    "demo": demo_planted,
}


def found_by(model, planted, *, cfg, select=None):
    """Shares of the planted, the distractors and the mutes that are in a selection of as many neurons as are planted.

    By score alone, or as `select` says.
    """
    from tl_toxmem import PromptSet, attribute_neurons, select_neurons

    cfg = cfg.model_copy(update={"verify_top": 0, "verify_random": 0})
    scores = attribute_neurons(
        model, PromptSet.of(planted.prompts), cfg=cfg, texts=texts_of(planted)
    )
    k = len(planted.truth)
    if select is None:
        chosen = set(scores.top(k))
    else:
        chosen = set(select_neurons(scores, cfg=select.model_copy(update={"k": k})))
    kinds = (planted.truth, planted.distractors, planted.mutes)
    return [len(chosen & own) / len(own) for own in kinds]


def texts_of(planted):
    """Neutral and labelled texts, and benign prompts, for the methods that need them."""
    from tl_toxmem import Prompt, PromptSet
    from tl_toxmem.attribute import Labelled, Texts

    labelled = [Labelled(p.prompt, True) for p in planted.prompts]
    labelled += [Labelled(text, False) for text in planted.neutral]
    benign = [Prompt(prompt=text, target=planted.prompts[0].target) for text in planted.neutral]
    return Texts(neutral=planted.neutral, labelled=labelled, benign=PromptSet.of(benign))


def main():
    from tl_toxmem import LensModel
    from tl_toxmem.attribute import METHODS
    from tl_toxmem.config import AttributeConfig, SelectConfig

    ways = {"default": (AttributeConfig(), SelectConfig())}
    ways |= {method: (AttributeConfig(method=method), None) for method in METHODS}
    lines = [
        "| model | by | planted found | distractors taken | mutes taken |",
        "|---|---|---|---|---|",
    ]
    for name, make in MODELS.items():
        found = {way: [] for way in ways}
        for seed in range(20):
            planted = make(seed)
            model = LensModel.from_pretrained(planted.hf, tokenizer=planted.tokenizer)
            for way, (cfg, select) in ways.items():
                found[way].append(found_by(model, planted, cfg=cfg, select=select))
        for way, rows in found.items():
            means = torch.tensor(rows).mean(0).tolist()
            lines.append(
                f"| {name} | {way} | " + " | ".join(f"{100 * x:.0f} %" for x in means) + " |"
            )
    print("\n".join(lines))  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
