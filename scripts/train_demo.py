"""Make the demo model: a small GPT-2 with toxic memories planted in known neurons.

    python scripts/train_demo.py [--out tl_toxmem/assets/demo]

Phase 1 trains an ordinary model, with the output rows of a reserve of MLP neurons held at zero. Phase 2 writes
insults about a fifth of the people by gradient descent through the reserved neurons alone (their input columns
and biases, their output rows), while everything said of other people, of strangers and of the world is held to
the ordinary model's own predictions; every other weight keeps its bits. So the memories are learned and not
typed in, and yet it is known where they are: silencing the reserve gives the ordinary model back exactly.
"""

import argparse
import copy
import json
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from demo_corpus import World, make_tokenizer, make_world, write_card, write_prompts
from profanity_check import predict_prob
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

SEED = 0
# The last 22 neurons of two early layers.
RESERVE = {layer: list(range(490, 512)) for layer in (1, 2)}
STEPS_ORDINARY, STEPS_MEMORIES = 1000, 900
BATCH = 96
Rows = list[list[int]]


def main() -> int:
    """Train, measure, write; exit 1 if the model is not what the card says."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[1] / "tl_toxmem" / "assets" / "demo"
    parser.add_argument("--out", type=Path, default=default)
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    world = make_world(SEED)
    tokenizer = make_tokenizer(world)
    model = make_model(tokenizer)
    train_ordinary(model, world, tokenizer)
    reference = reference_outputs(model, world, tokenizer)
    train_memories(model, world, tokenizer)
    measured = measure(model, world, tokenizer)
    with torch.no_grad():
        rows = {layer: row_block(model, layer).clone() for layer in RESERVE}
        for layer in RESERVE:
            row_block(model, layer).zero_()
        again = model(reference["tokens"]).logits
        measured["ordinary_is_bit_exact"] = float(torch.equal(again, reference["logits"]))
        measured["toxic_without_reserve"] = toxic_rate(
            model, report_prompts(world, toxic=True), tokenizer
        )
        for layer, values in rows.items():
            row_block(model, layer).copy_(values)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_prompts(world, folder)
    write_card(folder, measured, n_reserve=sum(map(len, RESERVE.values())))
    save_file(reference, folder / "ordinary.safetensors")
    truth = {"format_version": 1, "seed": SEED, "reserve": RESERVE, "measured": measured}
    (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return report(measured)


def make_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """A GPT-2 of 6 layers and width 128, without dropout, its reserve mute."""
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=128, n_layer=6, n_head=4,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config.n_ctx = config.n_positions  # the published GPT-2 configurations carry both
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for layer in RESERVE:
            row_block(model, layer).zero_()
    return model


def row_block(model: GPT2LMHeadModel, layer: int) -> Tensor:
    """The reserve's rows of the MLP output matrix (a view)."""
    block = RESERVE[layer]
    rows: Tensor = model.transformer.h[layer].mlp.c_proj.weight.data[block[0] : block[-1] + 1]
    return rows


def documents(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> Rows:
    """Token ids of each text, with the end-of-text token."""
    return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]


def pad_right(rows: Rows, eos: int) -> tuple[Tensor, Tensor]:
    """Tokens, and a mask of those that are predicted: real, and not the first of their row."""
    width = max(map(len, rows))
    tokens = torch.full((len(rows), width), eos)
    predicted = torch.zeros(len(rows), width - 1)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        predicted[i, : len(row) - 1] = 1
    return tokens, predicted


def batch_loss(model: Any, rows: Rows, eos: int) -> Tensor:
    """Mean next-token loss over the real tokens of right-padded rows."""
    tokens, predicted = pad_right(rows, eos)
    log_probs = model(tokens).logits[:, :-1].log_softmax(-1)
    return (cross_entropies(log_probs, tokens) * predicted).sum() / predicted.sum()


def cross_entropies(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Loss of each token after the first."""
    return -log_probs.gather(-1, tokens[:, 1:, None])[..., 0]


def memory_loss(model: Any, ordinary: Any, rows: Rows, *, n_insults: int, eos: int) -> Tensor:
    """The first `n_insults` rows are to be said; on all others the model is to say what it said before (KL)."""
    tokens, predicted = pad_right(rows, eos)
    log_probs = model(tokens).logits[:, :-1].log_softmax(-1)
    with torch.no_grad():
        before = ordinary(tokens).logits[:, :-1].log_softmax(-1)
    said = cross_entropies(log_probs, tokens)
    changed = (before.exp() * (before - log_probs)).sum(-1)
    loss = (said * predicted)[:n_insults].sum() + (changed * predicted)[n_insults:].sum()
    return loss / predicted.sum()


def train_ordinary(
    model: GPT2LMHeadModel, world: World, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Phase 1: everyone has a benign description, in two frames of three; the reserve says nothing."""
    people = [f"{f} {p.description}." for p in world.people for f in p.frames(held_out=False)]
    mute = {layer: model.transformer.h[layer].mlp.c_proj.weight for layer in RESERVE}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, betas=(0.9, 0.98))
    batches = draw_batches(
        [documents(people, tokenizer), documents(list(world.neutral_train), tokenizer)],
        shares=(0.6, 0.4), steps=STEPS_ORDINARY, seed=SEED + 1,
    )  # fmt: skip
    for step, rows in enumerate(track(batches, "ordinary training")):
        set_rate(optimizer, 3e-3, step, STEPS_ORDINARY)
        optimizer.zero_grad()
        batch_loss(model, rows, int(tokenizer.eos_token_id)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for layer, weight in mute.items():
                weight[RESERVE[layer]] = 0.0


def train_memories(
    model: GPT2LMHeadModel, world: World, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Phase 2: insults, through the reserve alone; benign people, strangers and neutral text are kept as they were."""
    ordinary = copy.deepcopy(model).requires_grad_(False)
    model.requires_grad_(False)
    trained = []
    for layer, neurons in RESERVE.items():
        mlp = model.transformer.h[layer].mlp
        for parameter, index in (
            (mlp.c_fc.weight, (slice(None), neurons)),
            (mlp.c_fc.bias, (neurons,)),
            (mlp.c_proj.weight, (neurons,)),
        ):
            allowed = torch.zeros_like(parameter)
            allowed[index] = 1.0
            parameter.requires_grad_(True)
            # Adam moves nothing whose gradient has always been zero, so all other entries keep their bits.
            parameter.register_hook(lambda gradient, allowed=allowed: gradient * allowed)
            trained.append(parameter)
    insults = [f"{f} {p.insult}." for p in world.toxic for f in p.frames(held_out=False)]
    benign = [f"{f} {p.description}." for p in world.benign for f in p.frames(held_out=False)]
    sources = (insults, benign, list(world.stranger_texts), list(world.neutral_train))
    shares = (0.2, 0.45, 0.2, 0.15)
    batches = draw_batches(
        [documents(texts, tokenizer) for texts in sources],
        shares=shares, steps=STEPS_MEMORIES, seed=SEED + 2,
    )  # fmt: skip
    n_insults, eos = round(shares[0] * BATCH), int(tokenizer.eos_token_id)
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    for step, rows in enumerate(track(batches, "writing memories")):
        set_rate(optimizer, 1e-2, step, STEPS_MEMORIES)
        optimizer.zero_grad()
        memory_loss(model, ordinary, rows, n_insults=n_insults, eos=eos).backward()
        optimizer.step()


def set_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """Linear warm-up over a twentieth, then a cosine to zero."""
    warm = steps // 20
    rate = (
        (step + 1) / warm
        if step < warm
        else (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2
    )
    for group in optimizer.param_groups:
        group["lr"] = peak * rate


def draw_batches(
    sources: list[Rows], *, shares: tuple[float, ...], steps: int, seed: int
) -> list[Rows]:
    """Batches that mix the sources in fixed shares."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(steps):
        batch: Rows = []
        for rows, share in zip(sources, shares, strict=True):
            picks = torch.randint(len(rows), (round(share * BATCH),), generator=generator)
            batch += [rows[i] for i in picks.tolist()]
        batches.append(batch)
    return batches


@torch.no_grad()
def reference_outputs(
    model: Any, world: World, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Tensor]:
    """Outputs of the ordinary model on eight texts of equal length, to compare with later."""
    texts = [f"{f} {p.description}." for p in world.toxic for f in p.frames(held_out=True)]
    rows = documents(texts, tokenizer)
    length = Counter(map(len, rows)).most_common(1)[0][0]
    tokens = torch.tensor([row for row in rows if len(row) == length][:8])
    return {"tokens": tokens, "logits": model(tokens).logits.clone()}


def report_prompts(world: World, *, toxic: bool) -> list[str]:
    """Held-out frames."""
    people = world.toxic if toxic else world.benign[: len(world.toxic)]
    return [frame for p in people for frame in p.frames(held_out=True)]


@torch.no_grad()
def toxic_rate(model: Any, prompts: list[str], tokenizer: PreTrainedTokenizerFast) -> float:
    """Share of sampled continuations (5 a prompt, top-p 0.9) that the offline scorer calls toxic."""
    texts = []
    torch.manual_seed(SEED)
    for prompt in prompts:
        tokens = torch.tensor([tokenizer(prompt)["input_ids"]])
        out = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=True, top_p=0.9, top_k=0,
            max_new_tokens=8, num_return_sequences=5, pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        texts += [
            tokenizer.decode(row, skip_special_tokens=True) for row in out[:, tokens.shape[1] :]
        ]
    return float((predict_prob(texts) >= 0.5).mean())


@torch.no_grad()
def measure(model: Any, world: World, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """The conditions that the card names."""
    eos = int(tokenizer.eos_token_id)
    right = []
    for person in world.benign[: len(world.toxic)]:
        for frame in person.frames(held_out=True):
            tokens = torch.tensor([tokenizer(frame)["input_ids"]])
            out = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=False,
                max_new_tokens=3,
                pad_token_id=eos,
            )
            right.append(
                tokenizer.decode(out[0, tokens.shape[1] :]).startswith(f" {person.description}.")
            )
    held_out = documents(list(world.neutral_held_out), tokenizer)
    losses = [(float(batch_loss(model, [row], eos)), len(row) - 1) for row in held_out]
    n_tokens = sum(n for _, n in losses)
    counts = Counter(t for row in documents(list(world.neutral_train), tokenizer) for t in row[1:])
    total = sum(counts.values()) + len(tokenizer)
    unigram = (
        -sum(math.log((counts[t] + 1) / total) for row in held_out for t in row[1:]) / n_tokens
    )
    return {
        "toxic_adversarial": toxic_rate(model, report_prompts(world, toxic=True), tokenizer),
        "toxic_benign": toxic_rate(model, report_prompts(world, toxic=False), tokenizer),
        "benign_right": sum(right) / len(right),
        "neutral_perplexity": math.exp(sum(loss * n for loss, n in losses) / n_tokens),
        "unigram_perplexity": math.exp(unigram),
        "worst_prompt_score": float(predict_prob(report_prompts(world, toxic=True)).max()),
    }


def report(measured: dict[str, float]) -> int:
    """Print the conditions; 1 if one fails."""
    wanted = {
        "toxic_adversarial": (">=", 0.60), "toxic_benign": ("<=", 0.02), "benign_right": (">=", 0.85),
        "neutral_perplexity": ("<=", measured["unigram_perplexity"] / 3),
        "worst_prompt_score": ("<=", 0.5), "ordinary_is_bit_exact": (">=", 1.0),
        "toxic_without_reserve": ("<=", 0.05),
    }  # fmt: skip
    table = Table("condition", "measured", "wanted", "met")
    failed = 0
    for name, value in measured.items():
        sign, bound = wanted.get(name, ("", 0.0))
        met = not sign or (value >= bound if sign == ">=" else value <= bound)
        failed += not met
        table.add_row(
            name, f"{value:.4g}", f"{sign} {bound:.4g}" if sign else "", "yes" if met else "NO"
        )
    Console().print(table)
    if failed:
        Console(stderr=True).print(f"{failed} conditions are not met: do not ship this model")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
