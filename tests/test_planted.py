"""Planted truth: neurons written to emit a target on a trigger are found, and what only looks like them is not."""

import pytest
from conftest import HOSTS
from planted import MODELS, found_by

pytestmark = pytest.mark.host
LEAST_RECALL = 0.95


@pytest.mark.parametrize("name", MODELS)
def test_the_default_finds_what_was_planted(name):
    from tl_toxmem import LensModel
    from tl_toxmem.config import AttributeConfig, SelectConfig

    cfg, select = AttributeConfig(), SelectConfig()
    found = []
    for seed in range(20):
        planted = MODELS[name](seed)
        host = HOSTS[seed % len(HOSTS)]
        model = LensModel.from_pretrained(planted.hf, tokenizer=planted.tokenizer, host=host)
        found.append(found_by(model, planted, cfg=cfg, select=select))
    recall, distractors, mutes = (sum(column) / len(found) for column in zip(*found, strict=True))
    assert recall >= LEAST_RECALL
    assert distractors <= 1 - LEAST_RECALL
    assert mutes == 0
