"""Does tracing say where to edit: the regression against plain least squares, and on a planted truth."""

import numpy as np
import pytest
import torch

SAME = 1e-9  # float64 both


def plain(x, y):
    """R squared on x, on a constant for each layer, and on both, by least squares with all columns written out."""
    n, layers = x.shape
    dummies = np.tile(np.eye(layers), (n, 1))
    ones = np.ones((n * layers, 1))
    flat = x.reshape(-1, 1)

    def fit(columns):
        solution, *_ = np.linalg.lstsq(columns, y.reshape(-1), rcond=None)
        residual = y.reshape(-1) - columns @ solution
        centred = y.reshape(-1) - y.mean()
        return 1 - (residual @ residual) / (centred @ centred), solution

    both, solution = fit(np.hstack([dummies, flat]))
    return fit(np.hstack([ones, flat]))[0], fit(dummies)[0], both, solution[-1]


def test_the_three_fits_are_least_squares():
    from tl_toxmem.comparison import regress

    draw = np.random.default_rng(0)
    x = draw.normal(size=(12, 5)) + np.arange(5)
    y = 0.3 * x + draw.normal(size=(12, 5)) + np.array([0, 2, 1, 0, -1])
    found = regress(torch.tensor(x), torch.tensor(y), metric="logprob", k=3, seed=0)
    alone, layer, both, slope = plain(x, y)
    assert found.r2_trace == pytest.approx(alone, abs=SAME)
    assert found.r2_layer == pytest.approx(layer, abs=SAME)
    assert found.r2_both == pytest.approx(both, abs=SAME)
    assert found.slope.value == pytest.approx(slope, abs=SAME)
    assert found.added == pytest.approx(both - layer, abs=SAME)
    assert found.slope.low < 0.3 < found.slope.high


def test_resampled_fits_are_those_of_the_resampled_prompts():
    """Weights for prompts drawn twice say the same as their rows written twice."""
    from tl_toxmem.comparison.regression import _fit

    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(2, 6, 4))
    counts = np.array([2, 0, 1, 3, 0, 0])
    rows = np.repeat(np.arange(6), counts)
    np.testing.assert_allclose(_fit(x, y, counts), plain(x[rows], y[rows]), atol=SAME)


@pytest.mark.parametrize(("layer_alone", "trace_adds"), [(True, False), (False, True)])
def test_what_predicts_is_told_apart(layer_alone, trace_adds):
    from tl_toxmem.comparison import TraceRegression, regress

    draw = np.random.default_rng(2)
    x = draw.normal(size=(40, 6))
    y = np.tile(np.arange(6.0), (40, 1)) if layer_alone else 2 * x
    found = regress(
        torch.tensor(x), torch.tensor(y + 0.1 * draw.normal(size=y.shape)), metric="p", k=1, seed=0
    )
    assert (found.r2_layer > 0.9) == layer_alone
    assert (found.added > 0.5) == trace_adds
    assert (found.slope.low > 0) == trace_adds
    assert ("more, more than by chance" in found.text()) == trace_adds
    assert ("no more than by chance" in found.text()) != trace_adds
    assert TraceRegression.from_json(found.to_json()) == found
    assert "40 prompts x 6 layers" in found.text()


def test_a_constant_effect_explains_nothing():
    from tl_toxmem.comparison import regress

    y = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
    found = regress(torch.ones(4, 3, dtype=torch.float64), y, metric="p", k=1, seed=0)
    assert found.r2_trace == 0
    assert found.added == pytest.approx(0, abs=SAME)
    assert found.added_by_chance == 0


def test_what_is_added_by_chance_is_that_of_dealt_out_effects():
    """All deals of four prompts, each fitted by plain least squares: their mean is what the permutations go to."""
    from itertools import permutations

    from tl_toxmem.comparison import regress

    draw = np.random.default_rng(3)
    x, y = draw.normal(size=(2, 4, 3))
    fits = [plain(x[list(deal)], y) for deal in permutations(range(4))]
    added = [both - layer for _, layer, both, _ in fits]
    found = regress(torch.tensor(x), torch.tensor(y), metric="p", k=1, seed=0)
    assert found.added_by_chance == pytest.approx(np.mean(added), rel=0.1)  # 1000 draws of 24 deals
    assert min(abs(found.added_by_chance_95 - one) for one in added) < SAME


def test_of_noise_the_effect_exceeds_chance_as_often_as_it_should():
    from tl_toxmem.comparison.regression import _by_chance, _fit

    draw = np.random.default_rng(4)
    exceeds = 0
    for _ in range(40):
        # Prompts differ as wholes: their layers are not independent.
        x, y = draw.normal(size=(2, 12, 5)) + 2 * draw.normal(size=(2, 12, 1))
        _, layer, both, _ = _fit(x, y, np.ones(12))
        exceeds += both - layer > np.quantile(_by_chance(x, y, draw), 0.95)
    assert exceeds <= 6  # 2 of 40 by design; 7 or more in one of two hundred
