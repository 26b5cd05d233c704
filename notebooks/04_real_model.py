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
# # 4. A real model
#
# The first three notebooks used a demo that was made to have what we look for. This one asks the same of
# SmolLM2-135M, a pretrained language model that nobody here made: 30 layers, gated MLPs, 46,080 neurons.
# It shows a way to work, small enough for one core and two minutes, and so its numbers are rough. Every
# result says how many prompts it rests on; what may be concluded from it, and what not, is said where it
# is shown.
#
# Two things are needed:
#
# * the model: a folder or hub id in `TOXMEM_SMOLLM2`, by default `HuggingFaceTB/SmolLM2-135M-Instruct`,
#   which is downloaded once;
# * prompts that *this* model continues toxically, as `mine` writes them: the folder in `TOXMEM_PROMPTS`,
#   by default `mined/smollm2` beside this notebook's folder. It is made from innocuous sentences, such
#   as RealToxicityPrompts, by
#
#   ```sh
#   tl-toxmem mine --model HuggingFaceTB/SmolLM2-135M-Instruct --candidates FILE --out mined/smollm2
#   ```
#
# `TOXMEM_JUDGE` may name a second judge, such as `detoxify:original` (downloaded once). The first is the
# offline profanity model. Insults are masked wherever they are shown.

# %%
import os

import pandas as pd
import plotly.express as px
import torch

from tl_toxmem import (
    Deletion,
    LensModel,
    Mined,
    PromptSet,
    attribute_neurons,
    causal_trace,
    control_sets,
    evaluate,
    load_scorer,
    neuron_cards,
    select_neurons,
)
from tl_toxmem.config import AttributeConfig, EvaluateConfig, SelectConfig, TraceConfig
from tl_toxmem.continuations import sample_continuations
from tl_toxmem.evaluation import measure_base
from tl_toxmem.masking import mask_slurs
from tl_toxmem.neutral import default_neutral, read_documents, split_documents
from tl_toxmem.select import loudness_ratios

pd.set_option("display.max_colwidth", None)

# %%
model = LensModel.from_pretrained(
    os.environ.get("TOXMEM_SMOLLM2", "HuggingFaceTB/SmolLM2-135M-Instruct")
)
mined = Mined.load(os.environ.get("TOXMEM_PROMPTS", "../mined/smollm2"))
mined

# %% [markdown]
# A record at the end of a cell displays itself: what it is in a line, a small table, what to know about
# it. Mining looked at the candidates, let the model go on several times, and kept those where a judge
# called some of that toxic. They were chosen by the model's worst samples, so the share of toxic
# continuations that mining saw is too high for fresh ones.
#
# A prompt has a `lead_in`, the harmless beginning of such a continuation, and a `target`, the word where
# it turns. The prompts come divided: *find* prompts may choose neurons, *report* prompts may only judge
# the choice. We take few of each.

# %%
find, report = mined.prompts.find.first(12), mined.prompts.report.first(12)
assert not {p.prompt for p in find} & {p.prompt for p in report}

choosing, reporting = split_documents(read_documents(default_neutral()))
judges = [load_scorer("profanity")]
if os.environ.get("TOXMEM_JUDGE"):
    judges.append(load_scorer(os.environ["TOXMEM_JUDGE"]))
[judge.name for judge in judges]

# %% [markdown]
# ## One prompt, token by token
#
# Look at one prompt before averaging over any. The shortest is quickest and easiest to read. Mined
# prompts have no subject, so noise is put on every token before the target; then one state is put back
# at a time, and what comes back of the target is what that state carries.
#
# Measuring every cell takes long on this model. `screen="gradient"` estimates them by one backward pass
# and measures only the highest exactly.

# %%
shortest = min(find, key=lambda p: len(model.encode(p.start)))
print(mask_slurs(f"{shortest.prompt} | {shortest.lead_in or ''} | {shortest.target}"))

screened = TraceConfig(n_noise=2, severed=(), screen="gradient", verify_top=8)
one = causal_trace(model, PromptSet.of([shortest]), cfg=screened)
one

# %% [markdown]
# The figure is interactive: point at a cell for its layer, token and effect, and whether it was measured
# or only estimated; drag to zoom; double-click to come back. All panels share one scale.

# %%
one.plot()

# %% [markdown]
# The same as a table: the measured cells that give back most. Every other cell is one `query` away.

# %%
cells = one.frame()
assert set(cells.site) == {"resid_post", "mlp_out", "mlp_out_single", "attn_out", "attn_out_single"}
top = cells[cells.measured & (cells.site != "resid_post")].nlargest(8, "effect")
top.assign(token=top.token.map(mask_slurs))[
    ["site", "layer", "n_restored", "token", "effect", "total_effect"]
].round(3)

# %% [markdown]
# Do not read a law of the model from this. It is one prompt and two draws of noise; an early state at
# the first tokens may only be what the rest of the sentence is computed from. A high cell says that the
# state *mediates* the target, that it carries on what was corrupted. It does not say that the insult is
# stored there.
#
# ## By layer: MLP against attention
#
# Over prompts we look at the last token, where the target is about to be said, and at thirds of the
# stack put back as a whole at all tokens. Dotted lines are single layers, the others windows of ten.

# %%
trace = causal_trace(
    model, find, cfg=screened.model_copy(update={"max_prompts": 10, "positions": "last"})
)
trace.plot("layers")

# %%
trace.plot("shares")

# %%
trace

# %% [markdown]
# Shares need not add up to 100 %: what one third gives back, another may give back too. Early MLPs that
# are put back at all tokens may only rebuild the sentence from its noise, whatever comes after it; that
# says nothing about toxic words. Only what is *more* for toxic targets than for others is about
# toxicity, and so a run of `tl-toxmem` traces benign prompts of the same lengths as well, and more of
# either: from fewer than ten prompts no answer is given at all.
#
# ## Which neurons
#
# One backward pass gives every neuron a score: what the target's log-probability would lose without it,
# to first order. Neutral text gives each a cost. The ten highest, and twenty others at random, are
# really silenced, which is what `measured` says.

# %%
scores = attribute_neurons(
    model,
    find,
    cfg=AttributeConfig(verify_top=10, verify_random=20, verify_prompts=6, max_cost_tokens=600),
    neutral=choosing,
)
assert scores.scores.shape == (model.n_layers, model.d_mlp) == (30, 1536)
scores

# %%
scores.frame(20).round(4)

# %% [markdown]
# Look at the intervals first. Where one includes zero, the neuron speaks for some targets and against
# others: the prompts have different targets, and a high mean may be the work of one of them.
#
# The frame is an ordinary DataFrame. In which layers are the hundred highest?

# %%
of_layer = scores.frame(100).groupby("layer").score.agg(["size", "sum"]).reset_index()
px.bar(
    of_layer,
    x="layer",
    y="size",
    hover_data={"sum": ":.3f"},
    template="plotly_white",
    labels={"size": "neurons", "sum": "sum of scores (nats)"},
    title=f"The 100 neurons of highest score, by layer ({scores.n_prompts} prompts)",
)

# %% [markdown]
# ## What does a neuron say?
#
# A card brings together what ablating the neuron takes from the targets (with its interval), which
# tokens its value vector makes likelier, where it is most active, and what the model says without it.

# %%
cards = neuron_cards(
    model, find.first(4), list(scores.top(2)), scores=scores, n_examples=2, max_new_tokens=6
)
cards[0]

# %%
cards[1]

# %% [markdown]
# Promoted tokens are what the value vector alone adds to the logits, without the layers after it. Often
# they are no insults at all: a neuron can speak for a word by way of later layers, or for a kind of
# sentence in which the word is one of many. The continuations mostly stay the same, since one neuron of
# 46,080 is rarely needed.
#
# ## Delete, inside a block
#
# We take the hundred neurons of highest score per cost and silence them. Within the `with` block the
# model lacks them, whatever is run on it; after the block it is bit for bit as before.

# %%
chosen = select_neurons(scores, cfg=SelectConfig(k=100))
deletion = Deletion.zero(chosen)
deletion

# %%
said = EvaluateConfig(n_continuations=1, max_new_tokens=16)
tokens, mask = model.pad([model.encode(p.prompt) for p in report])
logits = model.forward(tokens, mask)
before = [texts[0] for texts in sample_continuations(model, report, cfg=said)]
with deletion.applied(model):
    after = [texts[0] for texts in sample_continuations(model, report, cfg=said)]
    assert not torch.equal(model.forward(tokens, mask), logits)
assert torch.equal(model.forward(tokens, mask), logits)

pd.DataFrame(
    {
        "prompt": [mask_slurs(p.prompt) for p in report],
        "before": [mask_slurs(text) for text in before],
        "deleted": [mask_slurs(text) for text in after],
    }
)

# %% [markdown]
# Both draw the same random numbers, so a difference is the deletion's doing. But these are single
# samples, most of them not toxic before either. Whether deletion helps is a question of rates.
#
# ## Measured, by every judge at hand
#
# On report prompts, against as many random neurons of the same layers that are about as loud. The
# unedited model is measured once (`measure_base`) and used again below.

# %%
cfg = EvaluateConfig(
    n_continuations=2, max_new_tokens=12, max_neutral_tokens=400, measures=("kl_neutral",)
)
base = measure_base(model, report, scorers=judges, neutral=reporting, cfg=cfg)
control = control_sets(chosen, scores, seed=0)["random_neurons"]
print(
    f"the control is {loudness_ratios(chosen, {'control': control}, scores)['control']:.2f} x as loud"
)
evaluation = evaluate(
    model,
    report,
    scorers=judges,
    deletions={"deletion": deletion, "random_neurons": Deletion.zero(control)},
    neutral=reporting,
    cfg=cfg,
    baseline=base,
)
evaluation

# %% [markdown]
# Where two judges were asked, the notes say how far they agree: a rate is one judge's rate. And look at
# the intervals: a dozen prompts, two samples each, cannot tell a deletion that works from one that does
# not unless it is very strong. A hundred report prompts can.

# %%
assert [row.n_neurons for row in evaluation.rows[:: len(judges)]] == [0, 100, 100]
assert evaluation.row("none").toxicity_rate.n == len(report)
evaluation.plot()

# %% [markdown]
# ## How many neurons? A sweep with its control
#
# The question is never only what deletion does, but what it does beyond deleting anything. So each size
# has its own random set, matched in layer and loudness. Further right costs more on ordinary text; lower
# is less toxic.

# %%
sizes = (30, 300)
sets = {k: select_neurons(scores, cfg=SelectConfig(k=k)) for k in sizes}
laws = {f"selected {k}": Deletion.zero(some) for k, some in sets.items()}
laws |= {
    f"random {k}": Deletion.zero(control_sets(some, scores, seed=0)["random_neurons"])
    for k, some in sets.items()
}
sweep = evaluate(
    model, report, scorers=judges, deletions=laws, neutral=reporting, cfg=cfg, baseline=base
)

rows = sweep.frame().query("scorer == @judges[0].name and edit != 'none'")
rows = pd.concat([rows, evaluation.frame().query("scorer == @judges[0].name and edit != 'none'")])
rows = rows.assign(kind=["random" if "random" in edit else "selected" for edit in rows.edit])
rows = rows.assign(perplexity_rise=rows.neutral_perplexity_ratio - 1).sort_values("n_neurons")
columns = [
    "kind",
    "n_neurons",
    "toxicity_rate",
    "toxicity_rate_low",
    "toxicity_rate_high",
    "perplexity_rise",
]
rows[columns].round(4)

# %%
rate = sweep.row("none").toxicity_rate
figure = px.line(
    rows,
    x="perplexity_rise",
    y="toxicity_rate",
    color="kind",
    markers=True,
    text="n_neurons",
    template="plotly_white",
    title=f"Toxic continuations against neutral perplexity, {rate.n} prompts x {cfg.n_continuations} samples, "
    f"judged by {judges[0].name}",
    labels={
        "perplexity_rise": "rise of neutral perplexity",
        "toxicity_rate": "toxic continuations",
    },
)
figure.add_hline(y=rate.value, line_dash="dot", annotation_text="base")
figure.update_traces(textposition="top center")
figure.update_xaxes(tickformat=".1%")
figure.update_yaxes(tickformat=".0%", rangemode="tozero")
figure

# %%
assert len(rows) == 2 * (len(sizes) + 1)
assert (rows[rows.kind == "selected"].n_neurons.tolist()) == [30, 100, 300]

# %% [markdown]
# ## What this shows, and what it does not
#
# * It shows how to look: one prompt, layers, neurons, a deletion, its measurement, always with n,
#   interval and control.
# * It does not show that the selected neurons *store* toxicity. They mediate these targets, on these
#   prompts, and were chosen for that.
# * It does not show a rate that one could publish: the prompts are few, they were mined by the same
#   model's samples, and each judge has errors of its own.
#
# Where to go next:
#
# * `tl-toxmem run` does all of this at full size, resumable, with every control, and ends in a report
#   page and a certified checkpoint (`03_export` shows how such a checkpoint is made and proved);
# * `tl-toxmem compare` holds the deletion against the field's methods at equal cost;
# * `select_greedily`, `learn_gates` and `search_deletion` are other ways to choose, `Deletion.mean` and
#   `Deletion.scale` other laws: put them in place of the cells above.
