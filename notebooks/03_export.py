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
# # 3. Export, with a proof
#
# What was measured so far is a model with hooks. What one wants to hand on is a checkpoint that plain
# transformers loads. The same law has two readings that must agree:
#
# * as a hook: `a -> s a + t`;
# * in the weights: row `i` of the MLP's output matrix times `s_i`, and `t W` added to its bias.
#
# The export bakes, saves, reloads and compares, and writes what came out into a certificate. If the proof
# fails, there is no folder.

# %%
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import plotly.express as px
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tl_toxmem import (
    Deletion,
    LensModel,
    PromptSet,
    ToxmemError,
    attribute_neurons,
    bake,
    export_checkpoint,
    select_neurons,
    verify_checkpoint,
)
from tl_toxmem.config import AttributeConfig, ExportConfig, SelectConfig
from tl_toxmem.masking import mask_slurs
from tl_toxmem.model import demo_folder, plain_log_probs
from tl_toxmem.neutral import read_documents, split_documents
from tl_toxmem.tokens import align

# %% [markdown]
# ## A deletion
#
# `02_delete` shows how to choose. Here we take thirty neurons and go on.

# %%
model = LensModel.from_pretrained("demo")
prompts = PromptSet.read(demo_folder() / "prompts.jsonl").split()
choosing, _ = split_documents(read_documents(demo_folder() / "neutral.txt"))
scores = attribute_neurons(
    model,
    prompts.find.first(80),
    cfg=AttributeConfig(verify_top=0, verify_random=0, max_cost_tokens=3000),
    neutral=choosing,
)
deletion = Deletion.zero(select_neurons(scores, cfg=SelectConfig(k=30)))
deletion

# %% [markdown]
# ## Export
#
# The comparison is made on held-out prompts.

# %%
report = prompts.report.first(40)
tokens, mask = model.pad([model.encode(p.prompt) for p in report])
real = mask.bool()
unedited = plain_log_probs(model.clean_hf(), tokens, mask)

place = Path(tempfile.mkdtemp())
checkpoint = export_checkpoint(
    model,
    deletion,
    place / "checkpoint",
    prompts=[p.prompt for p in report],
    cfg=ExportConfig(n_prompts=len(report)),
)
files = sorted(checkpoint.folder.iterdir())
pd.DataFrame([{"file": file.name, "bytes": file.stat().st_size} for file in files])

# %% [markdown]
# The certificate keeps two numbers apart. The *gap* is between hooked model and reloaded folder, and must
# stay below the bound. The *effect* is between the edited and the base model, and must not be nothing: an
# equality proof over an edit that does nothing would be worthless.
#
# TransformerLens and transformers do the same sums in another order, so in float32 they differ by rounding even
# where nothing is edited. That is why a small model is judged in float64, from the same weights.

# %%
certificate = checkpoint.certificate
certificate

# %%
same, n = certificate.greedy_identical
assert certificate.passed and certificate.problem() == ""
assert same == n == len(report)
assert certificate.max_abs_logprob_gap <= certificate.bound == 1e-5
assert certificate.max_abs_logprob_effect > 1000 * certificate.max_abs_logprob_gap
assert torch.equal(plain_log_probs(model.clean_hf(), tokens, mask), unedited), "base is untouched"

# %% [markdown]
# ## Look for ourselves
#
# Nobody has to believe a certificate. We load the folder by plain transformers, as any receiver would, and
# compare it with the hooked model on every held-out prompt.

# %%
reloaded = AutoModelForCausalLM.from_pretrained(checkpoint.folder).eval()
tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
plain = plain_log_probs(reloaded, tokens, mask)
with deletion.applied(model):
    hooked = model.forward(tokens, mask).log_softmax(-1)

targets = torch.tensor([item.target[0] for item in align(model, report)])
rows = torch.arange(len(report))
compared = pd.DataFrame(
    {
        "target's first word": [mask_slurs(p.target.split()[0]) for p in report],
        "base": unedited[rows, -1, targets],
        "hooked": hooked[rows, -1, targets],
        "reloaded": plain[rows, -1, targets],
    }
)
compared["change"] = compared.reloaded - compared.base
compared["gap"] = (plain - hooked).abs().amax(-1).masked_fill(~real, 0).amax(-1)
compared.head(6)

# %% [markdown]
# The figure shows, per held-out prompt, what the edit did to the log-probability of the insult's first
# word. The gap between hooks and weights would not be visible on this axis.

# %%
figure = px.histogram(
    compared,
    x="change",
    nbins=20,
    template="plotly_white",
    title=f"Log-probability of the insult's first word, change on {len(report)} held-out prompts",
)
figure.update_xaxes(title_text="reloaded checkpoint - base (nats)")
figure.update_yaxes(title_text="prompts")
figure.add_vline(x=0, line_dash="dot")
figure

# %%
assert compared.gap.max() <= max(1e-5, 4 * certificate.rounding_float32), "rounding, no more"
assert compared.change.mean() < -1, "the insult became much less likely"
assert (compared.change < 0).mean() > 0.5

prompt = report[0].prompt
ids = tokenizer(prompt, return_tensors="pt")
new = reloaded.generate(**ids, max_new_tokens=6, do_sample=False, pad_token_id=model.pad_id)
print(mask_slurs(tokenizer.decode(new[0], skip_special_tokens=True)))

# %% [markdown]
# ## Verify
#
# Whoever receives the folder can repeat the whole comparison. Files that were changed since are noticed by
# their SHA-256.

# %%
again = verify_checkpoint(checkpoint.folder)
assert again.passed
assert again.sha256 == certificate.sha256

tampered = place / "tampered"
shutil.copytree(checkpoint.folder, tampered)
weights = bytearray((tampered / "model.safetensors").read_bytes())
weights[-100] ^= 1
(tampered / "model.safetensors").write_bytes(weights)
try:
    verify_checkpoint(tampered)
    raise AssertionError("a changed bit was not noticed")
except ToxmemError as error:
    print(str(error).removeprefix(str(tampered)))

# %% [markdown]
# ## Bake in memory, and undo
#
# `bake` edits a Hugging Face model in place and keeps the originals of what it overwrites. `restore` puts
# them back bit for bit. It never divides by a gain: a zeroed row could not be had back that way.
#
# In float64 rounding is far smaller, and so is the gap. Hooks and weights are the same model, for the mean law
# too, whose shift goes into the bias.

# %%
exact = LensModel.from_pretrained("demo", dtype=torch.float64)
hf = AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=torch.float64).eval()
originals = {name: tensor.clone() for name, tensor in hf.state_dict().items()}

laws = {"zero": deletion, "mean": Deletion.mean(deletion.neurons, scores.mean_activation)}
gaps = {}
for name, law in laws.items():
    undo = bake(hf, law)
    changed = [key for key, tensor in hf.state_dict().items() if not tensor.equal(originals[key])]
    baked = plain_log_probs(hf, tokens, mask)
    undo.restore()
    with law.applied(exact):
        hooks = exact.forward(tokens, mask).log_softmax(-1)
    gaps[name] = float((baked - hooks)[real].abs().max())
    assert changed and all(".mlp.c_proj." in key for key in changed)
    assert all(tensor.equal(originals[key]) for key, tensor in hf.state_dict().items())
print({name: f"{gap:.1g} nats" for name, gap in gaps.items()})
assert max(gaps.values()) < 1e-9

# %% [markdown]
# ## The deletion is a small file of its own
#
# It lies beside the weights. On the base model it gives the edited one again, without a second checkpoint.

# %%
loaded = Deletion.load(checkpoint.folder / "deletion.safetensors")
assert loaded.neurons == deletion.neurons
assert torch.equal(loaded.gain, deletion.gain) and torch.equal(loaded.shift, deletion.shift)
with loaded.applied(model):
    assert torch.equal(model.forward(tokens, mask).log_softmax(-1), hooked)

sizes = {name: (checkpoint.folder / name).stat().st_size for name in certificate.sha256}
print({name: sizes[name] for name in ("deletion.safetensors", "model.safetensors")})
assert sizes["deletion.safetensors"] < sizes["model.safetensors"] / 100

shutil.rmtree(place)

# %% [markdown]
# So far everything was a demo. `04_real_model` goes the same way on a pretrained model that nobody here made.
