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
# # 2. Delete them, and measure
#
# The first notebook scored every neuron by what it adds to an insult. Now we choose how many to delete,
# delete them by hooks, and measure what that bought and cost on prompts that nothing was chosen on.
#
# A *deletion* is a law on a neuron's activation, `a -> s a + t`, the same at every position and for every
# prompt. Zero is s = t = 0. While it is in force the weights are not touched.

# %%
import json
from contextlib import suppress

import pandas as pd
import plotly.express as px
import torch

from tl_toxmem import (
    Deletion,
    LensModel,
    PromptSet,
    attribute_neurons,
    choose_k,
    control_sets,
    evaluate,
    load_scorer,
    select_neurons,
)
from tl_toxmem.config import AttributeConfig, EvaluateConfig, SelectConfig
from tl_toxmem.continuations import sample_continuations
from tl_toxmem.masking import mask_slurs
from tl_toxmem.model import demo_folder
from tl_toxmem.neutral import read_documents, split_documents
from tl_toxmem.plots import plot_k_curve
from tl_toxmem.select import pick_k

pd.set_option("display.max_colwidth", None)

# %%
model = LensModel.from_pretrained("demo")
prompts = PromptSet.read(demo_folder() / "prompts.jsonl").split()
benign = PromptSet.read(demo_folder() / "benign.jsonl").split()
choosing, reporting = split_documents(read_documents(demo_folder() / "neutral.txt"))
find, report = prompts.find.first(80), prompts.report.first(40)
assert not set(choosing) & set(reporting)

scores = attribute_neurons(
    model,
    find,
    cfg=AttributeConfig(verify_top=0, verify_random=0, max_cost_tokens=3000),
    neutral=choosing,
)
scores

# %% [markdown]
# ## How many
#
# Neurons are ranked by their estimated effect per cost, so that one which ordinary text needs is left alone.
# `choose_k` deletes the top 1, 2, 3, 5, ... of them and measures, on the neutral text kept for choosing, how much
# perplexity rises and, on the find prompts, how much of what the model says the judge still calls toxic. `pick_k`
# takes the smallest k that does nearly all that can be done within the budget.

# %%
scorer = load_scorer("profanity")
cfg = SelectConfig(max_k=100)
curve = choose_k(model, find, scores, neutral=choosing, scorer=scorer, cfg=cfg)
k = pick_k(curve, cfg=cfg)
neurons = select_neurons(scores, cfg=cfg.model_copy(update={"k": k}))
pd.DataFrame(curve)

# %%
neurons

# %%
base_point, chosen = curve[0], next(point for point in curve if point.k == k)
budget = cfg.max_perplexity_increase
assert len(neurons) == k
assert chosen.toxicity_rate < 0.2 * base_point.toxicity_rate
assert chosen.perplexity_increase <= budget
plot_k_curve(curve, chosen=k, budget=budget)

# %% [markdown]
# The demo is a model organism: its memories were written through a known reserve of neurons. The library
# never reads which. We may look afterwards. Some selected neurons may lie outside and still matter, for
# instance because they feed the reserve. But chance would hit it far less often.

# %%
truth = json.loads((demo_folder() / "truth.json").read_text())["reserve"]
reserve = {(int(layer), neuron) for layer, members in truth.items() for neuron in members}
hit = sum(neuron in reserve for neuron in neurons) / len(neurons)
chance = len(reserve) / (model.n_layers * model.d_mlp)
print(f"{hit:.0%} of the selected neurons are of the reserve; chance would give {chance:.1%}")
assert hit > 10 * chance

# %% [markdown]
# ## Before, during, after
#
# Inside the `with` block the neurons are silent. When it ends, or fails, the model is as before, to the
# last bit.


# %%
def continuations(some: PromptSet) -> list[str]:
    return [texts[0] for texts in sample_continuations(model, some, cfg=one_sample)]


one_sample = EvaluateConfig(n_continuations=1, max_new_tokens=6)
deletion = Deletion.zero(neurons)
tokens, mask = model.pad([model.encode(p.prompt) for p in report])
logits = model.forward(tokens, mask)
before = continuations(report)
with deletion.applied(model):
    during = continuations(report)
    assert not torch.equal(model.forward(tokens, mask), logits)
after = continuations(report)

assert torch.equal(model.forward(tokens, mask), logits)
assert after == before != during

with suppress(RuntimeError), deletion.applied(model):
    raise RuntimeError("something goes wrong inside the block")
assert torch.equal(model.forward(tokens, mask), logits)

# %%
said = {"before": map(mask_slurs, before), "deleted": map(mask_slurs, during)}
pd.DataFrame({"prompt": [p.prompt for p in report], **said}).head(8)

# %% [markdown]
# ## Measured on held-out prompts, against controls
#
# A lower rate alone proves little: any damage to a model changes what it says. So the same law is put on
# as many random neurons: of the same layers and about as loud, of the early third of the stack, of anywhere. All edits
# draw the same random numbers. The price is read off three things: perplexity of neutral text that nothing
# was chosen on, how far the next-token law moves there (`kl_neutral`), and how many benign people are
# still described right.

# %%
small = EvaluateConfig(n_continuations=3, max_new_tokens=8, max_neutral_tokens=2000)
controls = control_sets(neurons, scores, seed=0)
evaluation = evaluate(
    model,
    report,
    scorers=[scorer],
    deletions={
        "deletion": deletion,
        **{name: Deletion.zero(control) for name, control in controls.items()},
    },
    neutral=reporting,
    benign=benign.report.first(40),
    cfg=small,
)
evaluation

# %%
evaluation.plot()

# %% [markdown]
# The deletion removes most of the toxic continuations. Each control of the same size removes less than a
# tenth of the rate.

# %%
base, edited = evaluation.row("none"), evaluation.row("deletion")
assert edited.toxicity_rate.value <= base.toxicity_rate.value / 2
assert edited.toxicity_rate.high < base.toxicity_rate.low, "the intervals do not even touch"
for name in controls:
    control = evaluation.row(name)
    assert control.n_neurons == edited.n_neurons == k
    removed = base.toxicity_rate.value - control.toxicity_rate.value
    assert removed < 0.1 * base.toxicity_rate.value

assert edited.neutral_perplexity.value < 1.05 * base.neutral_perplexity.value
assert edited.benign_kept.value > 0.8

# %% [markdown]
# ## Other laws: the mean, and less than all
#
# Zero is one law of several. `mean` sets each neuron to its mean on neutral text, which the rest of the
# model is used to. `scale` turns it down by a factor: 1 leaves the model exactly as it is, 0 is the zero
# law. The factors in between show the dose and its response. `frame()` has every measure, to choose from.

# %%
factors = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
laws = {f"scale {factor:g}": Deletion.scale(neurons, factor) for factor in factors}
laws["mean"] = Deletion.mean(neurons, scores.mean_activation)
beside = evaluate(model, report, scorers=[scorer], deletions=laws, neutral=reporting, cfg=small)
measures = ["toxicity_rate", "toxicity_rate_low", "toxicity_rate_high"]
beside.frame()[["edit", *measures, "neutral_perplexity", "kl_neutral"]].round(4)

# %%
dose = pd.DataFrame(
    {"factor": factor, "toxicity_rate": beside.row(f"scale {factor:g}").toxicity_rate.value}
    for factor in factors
)
figure = px.line(
    dose,
    x="factor",
    y="toxicity_rate",
    markers=True,
    template="plotly_white",
    title=f"Dose and response: {k} neurons, activation times a factor",
)
figure.add_hline(
    y=beside.row("mean").toxicity_rate.value, line_dash="dot", annotation_text="mean law"
)
figure.update_yaxes(tickformat=".0%", rangemode="tozero")
figure

# %% [markdown]
# Scale 0 and zero are one law, scale 1 is no edit at all, and the mean works as zero does.

# %%
rate = {row.edit: row.toxicity_rate.value for row in beside.rows}
assert rate["scale 1"] == rate["none"] == base.toxicity_rate.value
assert rate["scale 0"] == edited.toxicity_rate.value
assert beside.row("scale 1").kl_neutral.value == 0
assert rate["mean"] <= rate["none"] / 2

# %% [markdown]
# All of this lived in hooks. The next notebook, `03_export`, writes the deletion into the weights and
# proves that the two are the same model.
