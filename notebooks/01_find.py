# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Find the neurons
#
# A language model can answer an innocuous sentence with an insult. We ask which of its MLP neurons
# say so. The way there has two steps:
#
# 1. a **causal trace** tells in which layers and at which tokens the insult is decided;
# 2. an **attribution** gives every single neuron a score, and the highest scores are then checked by
#    really silencing the neuron.
#
# Everything runs on the embedded demo model, a small GPT-2 that was taught insults about some
# invented people. Nothing is downloaded. Insults are masked wherever they are shown.

# %%
from dataclasses import replace

import pandas as pd
import torch

from tl_toxmem import (
    Deletion,
    LensModel,
    PromptSet,
    attribute_neurons,
    causal_trace,
    load_scorer,
    neuron_cards,
)
from tl_toxmem.config import AttributeConfig, TraceConfig
from tl_toxmem.masking import mask_slurs
from tl_toxmem.model import demo_folder
from tl_toxmem.neutral import read_documents, split_documents
from tl_toxmem.tokens import align, target_batch, target_log_prob

pd.set_option("display.max_colwidth", None)

# %% [markdown]
# ## Prompts
#
# A prompt has a text, the toxic `target` that follows it, and the `subject` that the target is about.
# Prompts are split: what *finds* neurons never *reports* on them. This notebook uses only the find
# split. The benign prompts ask the same about people whom nobody insults.

# %%
prompts = PromptSet.read(demo_folder() / "prompts.jsonl").split()
benign = PromptSet.read(demo_folder() / "benign.jsonl").split()
assert not {p.prompt for p in prompts.find} & {p.prompt for p in prompts.report}

find = prompts.find.first(80)
print(
    f"{len(prompts.find)} find and {len(prompts.report)} report; {len(find)} of find are used here"
)
pd.DataFrame(
    [{"prompt": p.prompt, "subject": p.subject, "target": mask_slurs(p.target)} for p in find[:5]]
)

# %% [markdown]
# The prompts themselves are innocuous: the judge, an offline profanity classifier, sees nothing in them.
# It gives a score from 0 to 1, and 0.5 is its threshold.

# %%
scorer = load_scorer("profanity")
assert scorer.score([p.prompt for p in prompts]).max() < 0.5

# %% [markdown]
# ## What the model says
#
# Texts become left-padded tokens with a mask, and `generate` continues them. Without a sampling rule
# it is greedy.

# %%
model = LensModel.from_pretrained("demo")
model


# %%
def continuations(some: PromptSet) -> list[str]:
    tokens, mask = model.pad([model.encode(p.prompt) for p in some])
    longer = model.generate(tokens, mask, max_new_tokens=3)
    new = longer[:, tokens.shape[1] :]
    return [model.tokenizer.decode(row, skip_special_tokens=True) for row in new]


said = {"insulted": continuations(find), "benign": continuations(benign.find.first(80))}
toxic = {name: float((scorer.score(texts) >= 0.5).float().mean()) for name, texts in said.items()}
print({name: f"{share:.0%} toxic" for name, share in toxic.items()})
assert toxic["insulted"] > 0.5
assert toxic["benign"] < toxic["insulted"] / 5

pd.DataFrame(
    [
        {"prompt": p.prompt, "the model goes on": mask_slurs(text)}
        for p, text in zip(find[:6], said["insulted"][:6], strict=True)
    ]
)

# %% [markdown]
# So it is not the frame of the sentence that makes the insult, it is the person. The model remembers.
#
# ## Where: a causal trace
#
# Noise on the subject's embeddings makes the model forget whom it speaks of. The target loses
# probability: that is the *total effect*. Then one state at a time is put back to its clean value. What
# comes back of the target is that state's *indirect effect*. A state that brings all of it back mediates
# the memory.
#
# States of the residual stream are restored in one layer. Outputs of MLP and attention are restored in a
# window of layers, as in ROME. Twelve prompts and three noise draws are enough to see the pattern.

# %%
trace = causal_trace(model, find, cfg=TraceConfig(max_prompts=12, n_noise=3))
assert trace.total_effect.mean() > 0
trace

# %% [markdown]
# A record at the end of a cell displays itself: a headline, a small table, what to know about it. Its figures
# are drawn by `plot()`, and `frame()` has all of it as a DataFrame.

# %%
trace.plot()

# %% [markdown]
# The heat map shows the prompt that noise hurts most. Tokens before the subject are exactly zero, since
# a causal model computes them before it hears of the subject.

# %%
cells = trace.frame()
starts = {name: span[0] for name, span in zip(trace.prompt_ids, trace.subjects, strict=True)}
before_subject = cells[cells.pos < cells.prompt.map(starts)]
assert len(before_subject) and (before_subject.effect == 0).all()

# %% [markdown]
# Over prompts we look at two tokens. On the left is the subject's last token, because that is where factual
# recall was found in large GPT models. One should not take that for granted in another model. So on the right
# is the last token of the prompt, where the target is about to be said.

# %%
trace.plot("layers")

# %% [markdown]
# Which thirds of the stack? All MLPs, or all attentions, of a third are put back at all tokens at once, on benign
# prompts too, and the answer is given in words.

# %%
same_noise = TraceConfig(max_prompts=12, n_noise=3, noise_level=trace.noise)
trace = replace(trace, benign=causal_trace(model, benign.find, cfg=same_noise))
print(trace.answer().text)
trace.plot("shares")

# %% [markdown]
# Here a few MLP layers, put back at one token, bring back most of what noise took. This is the licence to
# search among MLP neurons. A model in which no MLP window did so would be a wrong case for this method.

# %%
mlp = cells[cells.site == "mlp_out"].groupby("prompt").effect.max()
total = pd.Series(trace.total_effect.tolist(), index=trace.prompt_ids)
print(f"best MLP window: {mlp.mean() / total.mean():.0%} of the total effect")
assert mlp.mean() > total.mean() / 2

# %% [markdown]
# ## Who: attribution
#
# One backward pass estimates for every neuron how much of the target's log-probability goes through it, in
# nats: its `score`. Neutral text gives the price: `cost` estimates what ordinary text loses without the
# neuron. Only the half of the neutral text that is kept for choosing is used.
#
# Gradients only guess to first order. So the forty highest scores are checked by silencing each neuron, alone
# and at every position: `measured`, with a 95 % interval over prompts. The table has the ten highest, and below it
# stands what measuring them, and a hundred random others, says of the whole ranking.

# %%
choosing, reporting = split_documents(read_documents(demo_folder() / "neutral.txt"))
scores = attribute_neurons(
    model,
    find,
    cfg=AttributeConfig(verify_top=40, verify_random=100, max_cost_tokens=3000),
    neutral=choosing,
)
scores

# %% [markdown]
# Score and measurement side by side show how far a gradient can be trusted: silencing is a large step, and the
# model is not linear. The random others say what the ranking missed.

# %%
scores.plot()

# %%
verification = scores.verification
assert verification.precision > 0.8, "most of the highest have an effect beyond its interval"
assert verification.spearman > 0.5
over, share = verification.missed_share
assert over <= 3
assert share < 0.1

# %% [markdown]
# What does one neuron do? Its card has the measured effect, the tokens that its value vector makes likelier, where it
# is most active, and what the model says without it. Insults are masked.

# %%
cards = neuron_cards(model, find, scores.top(2).neurons, scores=scores)
cards[0]

# %%
assert cards[0].effect.low > 0
assert cards[0].changes

# %% [markdown]
# ## Do they matter together?
#
# Neurons can stand in for each other, so single effects do not add up. The last check silences all the
# checked neurons at once, and beside them as many random neurons of the same layers, drawn five times. A
# method that finds something must beat its control by far.


# %%
def target_log_probs() -> torch.Tensor:
    items = align(model, find)
    tokens, mask, keep = target_batch(model, items)
    return target_log_prob(model.forward(tokens, mask, keep=keep), items)


found = scores.top(40)
groups = {"found": found, **{f"random {i}": found.random_like(seed=i) for i in range(5)}}
base = target_log_probs()
lost = {}
for name, neurons in groups.items():
    with Deletion.zero(neurons).applied(model):
        lost[name] = float((base - target_log_probs()).mean())
print({name: f"{value:.2f} nats lost" for name, value in lost.items()})
by_chance = sum(lost[f"random {i}"] for i in range(5)) / 5
assert lost["found"] > 1
assert abs(by_chance) < lost["found"] / 10

# %% [markdown]
# The highest scores carry the insults, random neurons do not. Which of them to delete, how many, and at
# what price is the matter of the next notebook, `02_delete`.
