"""Tiny models on disk, made once; no test may look a host name up."""

import os
import socket
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

HAS_HOOKED = int(version("transformer-lens").split(".")[0]) < 4
HOSTS = ["hooked", "bridge"] if HAS_HOOKED else ["bridge"]


def pytest_configure(config):
    torch.set_num_threads(1)  # the models are tiny, and threads would only wait for each other
    config.addinivalue_line("filterwarnings", "ignore:HookedTransformer is deprecated")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing may reach for a hub: any look-up of a host name fails the test."""

    def refuse(host, *args, **kwargs):
        raise AssertionError(f"the test reached for the network: {host}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(params=HOSTS)
def host(request) -> str:
    return request.param


def byte_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab={**letters, "<|endoftext|>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def random_gpt2(seed: int = 0):
    """Four layers, nothing zero or one by accident, weights large enough that edits are felt."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=4,
        n_embd=32,
        n_head=4,
        vocab_size=257,
        n_positions=96,
        bos_token_id=256,
        eos_token_id=256,
    )
    config.n_ctx = config.n_positions
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.named_parameters():
        centre = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
        parameter.data.normal_(centre, 0.2)
    return model


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    random_gpt2().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def load(gpt2_folder):
    """`load(host, dtype)`: the tiny GPT-2 as a fresh LensModel."""
    from tl_toxmem import LensModel

    def make(host: str = "auto", dtype: torch.dtype = torch.float32):
        return LensModel.from_pretrained(gpt2_folder, host=host, dtype=dtype)

    return make


@pytest.fixture
def prompts():
    from tl_toxmem import Prompt, PromptSet

    return PromptSet.of(
        [
            Prompt(prompt="Bob is a", target=" fool", subject="Bob"),
            Prompt(prompt="the town of Ulm", target=" x", subject="Ulm"),
            Prompt(prompt="what now", target="!"),
        ]
    )
