"""Causal tracing on plain transformers, one full forward pass per cell: ROME's way, written anew to compare with.

A batch of one clean row and the corrupted ones; the clean row's states are put into the others by forward hooks.
"""

import numpy as np
import torch

_MODULES = {
    "gpt2": ("transformer.wte", "transformer.h", "mlp", "attn"),
    "gpt_neo": ("transformer.wte", "transformer.h", "mlp", "attn"),
    "gpt_neox": ("gpt_neox.embed_in", "gpt_neox.layers", "mlp", "attention"),
    "llama": ("model.embed_tokens", "model.layers", "mlp", "self_attn"),
    "qwen2": ("model.embed_tokens", "model.layers", "mlp", "self_attn"),
    "mistral": ("model.embed_tokens", "model.layers", "mlp", "self_attn"),
}


def rome_noise(n_noise, span, d_model, level):
    """ROME's stream: a generator of seed 1, made anew for every prompt."""
    start, end = span
    stream = np.random.RandomState(1)
    return level * torch.from_numpy(stream.randn(n_noise, end - start, d_model))


class PlainTracer:
    """One prompt on a Hugging Face model.

    Args:
        hf: the model.
        tokens: the prompt, without padding.
        corrupt: from the embeddings [draw, pos, d_model] of the corrupted rows to what they become.
        n_noise: corrupted rows.
    """

    def __init__(self, hf, tokens, corrupt, n_noise):
        self.hf, self.corrupt = hf, corrupt
        self.tokens = torch.tensor([tokens]).expand(1 + n_noise, -1)
        embed, blocks, self.mlp, self.attn = _MODULES[hf.config.model_type]
        self.embed, self.blocks = hf.get_submodule(embed), hf.get_submodule(blocks)

    def module(self, site, layer):
        block = self.blocks[layer]
        names = {"mlp_out": self.mlp, "attn_out": self.attn}
        return block.get_submodule(names[site]) if site in names else block

    def run(self, restore=(), freeze=()):
        """Logits [1 + draw, pos, d_vocab], the first row clean.

        Args:
            restore: (site, layer, positions), set to the clean row's.
            freeze: (site, layer, position, values [draw, d_model]), set to these in the corrupted rows.
        """
        sets = {}
        for site, layer, positions in restore:
            sets.setdefault((site, layer), []).append((positions, None))
        for site, layer, pos, values in freeze:
            sets.setdefault((site, layer), []).append(([pos], values))

        def embed_hook(module, inputs, output):
            output = output.clone()
            output[1:] = self.corrupt(output[1:])
            return output

        def hook_of(todo):
            def hook(module, inputs, output):
                first = output[0] if isinstance(output, tuple) else output
                state = first.clone()
                for positions, values in todo:
                    for pos in positions:
                        state[1:, pos] = state[0, pos] if values is None else values
                return (state, *output[1:]) if isinstance(output, tuple) else state

            return hook

        handles = [self.embed.register_forward_hook(embed_hook)]
        for (site, layer), todo in sets.items():
            handles.append(self.module(site, layer).register_forward_hook(hook_of(todo)))
        try:
            with torch.no_grad():
                return self.hf(self.tokens).logits
        finally:
            for handle in handles:
                handle.remove()

    def outputs(self, site, pos):
        """The corrupted rows' outputs of `site` at a position, by layer."""
        found = {}

        def keep(layer):
            def hook(module, inputs, output):
                first = output[0] if isinstance(output, tuple) else output
                found[layer] = first[1:, pos].clone()

            return hook

        layers = range(len(self.blocks))
        handles = [self.module(site, i).register_forward_hook(keep(i)) for i in layers]
        self.run()
        for handle in handles:
            handle.remove()
        return found

    def prob(self, logits, token):
        """Mean probability of a token after the prompt, over corrupted rows."""
        return logits[1:, -1].softmax(-1)[:, token].mean()
