"""Tiny models on disk, made once; no test may look a host name up."""

import os
import socket
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from small import config
from tiny import TINY, random_model

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


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """`tiny_folder(arch, stored)`: a checkpoint of an architecture in a precision, made once."""

    def make(arch: str, stored: torch.dtype = torch.float32) -> Path:
        if (arch, stored) not in made:
            folder = tmp_path_factory.mktemp(arch)
            random_model(arch).to(stored).save_pretrained(folder)
            byte_tokenizer().save_pretrained(folder)
            made[arch, stored] = folder
        return made[arch, stored]

    made: dict[tuple[str, torch.dtype], Path] = {}
    return make


@pytest.fixture(params=TINY)
def arch(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def gpt2_folder(tiny_folder) -> Path:
    return tiny_folder("gpt2")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a small run on the demo model, made once; tests copy it before they change it."""
    from tl_toxmem import run

    out = tmp_path_factory.mktemp("runs") / "whole"
    run(config(out))
    return out


@pytest.fixture
def load(tiny_folder):
    """`load(host, dtype, arch=...)`: a tiny model as a fresh LensModel."""
    from tl_toxmem import LensModel

    def make(host: str = "auto", dtype: torch.dtype = torch.float32, *, arch: str = "gpt2"):
        return LensModel.from_pretrained(tiny_folder(arch), host=host, dtype=dtype)

    return make


@pytest.fixture(scope="session")
def shared(tiny_folder):
    """`shared(host, dtype, arch)`: a tiny model, loaded once; for tests that leave it as it was."""
    from tl_toxmem import LensModel

    def make(host: str, dtype: torch.dtype, arch: str):
        if (host, dtype, arch) not in made:
            folder = tiny_folder(arch)
            made[host, dtype, arch] = LensModel.from_pretrained(folder, host=host, dtype=dtype)
        return made[host, dtype, arch]

    made: dict[tuple, LensModel] = {}
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
