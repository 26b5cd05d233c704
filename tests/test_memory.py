"""Batches are bounded by what they need in memory, and results do not depend on how they are divided."""

import pytest
import torch


def test_batches_keep_within_the_bound_and_lose_nothing():
    from tl_toxmem.progress import in_batches

    rows = [[0] * n for n in (3, 3, 4, 9, 1, 1, 1, 30, 2)]
    batches = list(in_batches(rows, 3, "x", length=len, most=10))
    assert [row for batch in batches for row in batch] == rows
    assert [[len(row) for row in batch] for batch in batches] == [
        [3, 3],
        [4],
        [9],
        [1, 1, 1],
        [30],
        [2],
    ]
    assert list(in_batches(rows, 4, "x")) == [rows[:4], rows[4:8], rows[8:]]
    assert list(in_batches([], 4, "x")) == []


def test_gpt2_xl_has_room_for_a_prompt_but_not_for_many():
    from tl_toxmem import LensModel
    from tl_toxmem.memory import tokens_for_gradients, tokens_for_logits

    xl = object.__new__(LensModel)  # its shape is all that is asked for
    xl.n_layers, xl.d_model, xl.d_mlp, xl.d_vocab = 48, 1600, 6400, 50257
    xl.dtype = torch.float32
    assert 100 < tokens_for_gradients(xl) < 200
    assert 2000 < tokens_for_logits(xl) < 4000


def test_scores_do_not_depend_on_the_batches(load, prompts, monkeypatch):
    from tl_toxmem import attribute_neurons
    from tl_toxmem.attribute import cost, gradient

    neutral = ["the town is old and the river runs through it", "Ulm is a town"]
    model = load("auto", torch.float64)
    whole = attribute_neurons(model, prompts, neutral=neutral)
    for module in (cost, gradient):
        monkeypatch.setattr(module, "tokens_for_gradients", lambda model: 1)
    parts = attribute_neurons(model, prompts, neutral=neutral)
    for name in ("scores", "per_prompt", "cost", "mean_activation", "loudness"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), rtol=1e-5, atol=1e-9)


def test_long_documents_are_divided(load):
    from tl_toxmem.neutral import encode_documents

    model = load()
    text = "a" * 50
    rows = encode_documents(model, [text, "bc"], max_tokens=1000, piece=20)
    assert [len(row) for row in rows] == [20, 20, 10, 2]
    assert sum(rows[:3], []) == model.encode(text)
    assert [len(row) for row in encode_documents(model, ["a" * 200], max_tokens=1000)] == [96]


@pytest.mark.parametrize("piece", [1, 7])
def test_pieces_of_one_token_have_nothing_to_predict(load, piece):
    from tl_toxmem import ToxmemError
    from tl_toxmem.neutral import encode_documents

    if piece == 1:
        with pytest.raises(ToxmemError, match="no document of two tokens"):
            encode_documents(load(), ["abc"], max_tokens=10, piece=piece)
    else:
        assert len(encode_documents(load(), ["abc"], max_tokens=10, piece=piece)) == 1
