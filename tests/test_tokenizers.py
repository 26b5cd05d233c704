"""Which tokenizers are taken, and that beginning-of-text is put only where it is asked for."""

import shutil

import pytest

pytestmark = pytest.mark.host


@pytest.fixture
def without(gpt2_folder, tmp_path):
    """A checkpoint without a tokenizer."""
    folder = shutil.copytree(gpt2_folder, tmp_path / "without")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    return folder


def llama_like():
    """A tokenizer that puts BOS before every text by itself, as Llama's does."""
    from conftest import byte_tokenizer
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A",
        pair="<|endoftext|> $A <|endoftext|> $B",
        special_tokens=[("<|endoftext|>", 256)],
    )
    assert tokenizer("x")["input_ids"][0] == 256
    return tokenizer


def refused(message, folder, **options):
    from tl_toxmem import LensModel, ToxmemError

    with pytest.raises(ToxmemError, match=message) as caught:
        LensModel.from_pretrained(folder, **options)
    assert "\n" not in str(caught.value)


def test_no_tokenizer(without):
    refused("has no tokenizer files .*or give tokenizer=", without)


def test_a_damaged_tokenizer(without):
    (without / "tokenizer.json").write_text("{")
    refused("the tokenizer cannot be read", without)


def test_a_slow_tokenizer(without):
    from transformers import CanineTokenizer

    slow = CanineTokenizer()
    refused(
        "is a slow tokenizer without character offsets: give a fast one", without, tokenizer=slow
    )


def test_more_tokens_than_the_model_has(without):
    from conftest import byte_tokenizer

    larger = byte_tokenizer()
    larger.add_tokens(["one", "two"])
    message = "has 259 tokens but the model has rows for 257: not its tokenizer"
    refused(message, without, tokenizer=larger)
    larger.save_pretrained(without)
    refused(message, without)


def test_a_token_beyond_the_model_counts_although_there_are_few(host, gpt2_folder):
    """Ids may have gaps."""
    from conftest import byte_tokenizer
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 300, "?": 1}, unk_token="?"))
    )
    refused("has 301 tokens but", gpt2_folder, tokenizer=words)
    assert len(byte_tokenizer()) == 257


# Tokens and embedding rows as published.
PUBLISHED = {
    "gpt2": (50257, 50257),
    "gpt-neo": (50257, 50257),
    "pythia-70m": (50277, 50304),
    "pythia-6.9b": (50277, 50432),
    "pythia-12b": (50277, 50688),
    "llama-2": (32000, 32000),
    "llama-3": (128256, 128256),
    "smollm": (49152, 49152),
    "qwen2-0.5b": (151646, 151936),
    "qwen2-72b": (151646, 152064),
    "qwen2.5": (151665, 151936),
    "mistral-0.1": (32000, 32000),
    "mistral-0.3": (32768, 32768),
    "deepseek-llm": (100015, 102400),
    "a small vocabulary, padded to 128": (257, 384),
}
OTHERS = {
    "bytes on gpt2": (257, 50257),
    "llama-2 on gpt2": (32000, 50257),
    "gpt2 on llama-3": (50257, 128256),
    "llama-3 on qwen2": (128256, 151936),
    "smollm on mistral-nemo": (49152, 131072),
}


def counted(n):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = models.WordLevel({str(i): i for i in range(n)}, unk_token="0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))


@pytest.mark.parametrize("sizes", PUBLISHED.values(), ids=PUBLISHED)
def test_padded_embeddings_are_accepted(sizes):
    from tl_toxmem.model.load import check_tokenizer

    n, d_vocab = sizes
    tokenizer = counted(n)
    assert check_tokenizer(tokenizer, d_vocab=d_vocab, where="it") is tokenizer


@pytest.mark.parametrize("sizes", OTHERS.values(), ids=OTHERS)
def test_another_models_smaller_vocabulary_is_refused(sizes):
    from tl_toxmem import ToxmemError
    from tl_toxmem.model.load import check_tokenizer

    n, d_vocab = sizes
    message = f"has {n} tokens but the model has rows for {d_vocab}: not its tokenizer"
    with pytest.raises(ToxmemError, match=message):
        check_tokenizer(counted(n), d_vocab=d_vocab, where="it")


def test_a_smaller_vocabulary_is_refused_on_every_path(host, load, tmp_path):
    from conftest import byte_tokenizer
    from tiny import TINY
    from transformers import GPT2LMHeadModel

    from tl_toxmem import LensModel, ToxmemError

    config = TINY["gpt2"]()
    config.vocab_size = 2000
    hf = GPT2LMHeadModel(config)
    hf.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    message = "has 257 tokens but the model has rows for 2000"
    refused(message, tmp_path, host=host)
    refused(message, hf, tokenizer=byte_tokenizer(), host=host)
    larger = byte_tokenizer()
    larger.add_tokens(["one"])
    with pytest.raises(ToxmemError, match="has 258 tokens but"):
        LensModel.wrap(load(host).host.raw, tokenizer=larger)


@pytest.mark.parametrize("way", ["folder", "tokenizer=", "object", "wrap"])
@pytest.mark.parametrize("prepend_bos", [False, True])
def test_bos_is_explicit_and_the_same_everywhere(
    load, host, without, prompts, way, prepend_bos, monkeypatch
):
    from tiny import random_model

    from tl_toxmem import LensModel, causal_trace
    from tl_toxmem.tokens import align

    tokenizer, options = llama_like(), {"prepend_bos": prepend_bos, "host": host}
    if way == "folder":
        tokenizer.save_pretrained(without)
        model = LensModel.from_pretrained(without, **options)
    elif way == "tokenizer=":
        model = LensModel.from_pretrained(without, tokenizer=tokenizer, **options)
    elif way == "object":
        model = LensModel.from_pretrained(random_model("gpt2"), tokenizer=tokenizer, **options)
    else:
        raw = load(host).host.raw
        model = LensModel.wrap(raw, tokenizer=tokenizer, prepend_bos=prepend_bos)
    assert model.tokenizer("x")["input_ids"][0] == 256, "its own way is to put BOS"
    bos = [256] if prepend_bos else []
    assert model.encode("x y") == bos + load(host).encode("x y")
    for prompt in align(model, prompts):
        assert list(prompt.tokens[: len(bos)]) == bos
        assert 256 not in prompt.tokens[len(bos) :] + prompt.target
    seen = []
    forward = type(model.host).forward
    monkeypatch.setattr(
        type(model.host),
        "forward",
        lambda self, tokens, mask, keep: (
            seen.append(tokens[mask.bool()]) or forward(self, tokens, mask, keep)
        ),
    )
    causal_trace(model, prompts)
    assert seen and all((256 in tokens) == prepend_bos for tokens in seen)


def test_bos_without_such_a_token(without):
    from conftest import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.bos_token = None
    message = "prepend_bos: the tokenizer has no beginning-of-text token"
    refused(message, without, tokenizer=tokenizer, prepend_bos=True)


def test_the_chat_template_belongs_to_the_tokenizer():
    from fnmatch import fnmatch

    from tl_toxmem.model.load import HUB_FILES, TOKENIZER_FILES

    assert "chat_template.jinja" in TOKENIZER_FILES
    for name in ("chat_template.jinja", "additional_chat_templates/rag.jinja"):
        assert any(fnmatch(name, pattern) for pattern in HUB_FILES)
