"""Figures say what they show: the record's numbers, units, n, and one scale for panels that are compared."""

from dataclasses import replace

import pytest
import torch
from test_trace_statistics import N_LAYERS, made, parts_with

SITES = ("resid_post", "mlp_out", "mlp_out_single", "attn_out", "attn_out_single")
SEVERED = ("resid_post_without_mlp", "resid_post_without_attn")


@pytest.fixture
def trace():
    generator = torch.Generator().manual_seed(0)
    effects = torch.randn(20, 7, N_LAYERS, 8, generator=generator)
    effects[:, 1, 2, 3] += 4
    effects[:, 5:, :, :3] = effects[:, 5:, :, 4:] = torch.nan
    n_restored = torch.tensor([[1] * 6, [3] * 6, [1] * 6, [3] * 6, [1] * 6, [1] * 6, [1] * 6])
    base = made(
        effects, parts_with(20, 1.2, 0.4, 0.3), sites=SITES + SEVERED, n_restored=n_restored
    )
    return replace(base, exact=~effects.isnan())


def text_of(figure) -> str:
    annotations = " ".join(a.text for a in figure.layout.annotations)
    return f"{figure.layout.title.text} {annotations}"


def test_token_maps(trace):
    figure = trace.plot("tokens", prompt=3)
    assert len(figure.data) == 5
    for s, drawn in enumerate(figure.data):
        assert torch.allclose(torch.tensor(drawn.z), trace.effect[3, s].T)
        assert drawn.coloraxis == "coloraxis"
    axis = figure.layout.coloraxis
    assert axis.cmax == -axis.cmin == pytest.approx(float(trace.effect[3, :5].abs().max()))
    assert "nats" in axis.colorbar.title.text
    assert list(figure.data[0].y)[:2] == ["0: a", "1: b *"]
    assert "prompt p3 (total effect 2 nats of log-probability" in text_of(figure)
    assert "MLP output<br>(3 layers)" in text_of(figure)
    assert "MLP output<br>(1 layer)" in text_of(figure)


def test_estimated_cells_say_so(trace):
    exact = trace.exact.clone()
    exact[:, 1, 0] = False
    screened = replace(trace, exact=exact)
    drawn = screened.plot("tokens", prompt=0).data[1]
    assert list(drawn.text[0][:2]) == ["3 restored, estimated", "3 restored, measured"]
    assert "estimated only" not in text_of(trace.plot("layers"))
    assert "of cells estimated only" in text_of(screened.plot("layers"))
    frame = screened.by_layer().set_index(["site", "layer"])
    assert frame.measured["mlp_out", 0] == 0
    assert frame.measured["mlp_out", 1] == 1


def test_layers(trace):
    figure = trace.plot("layers")
    assert (
        len(figure.data) == 10
    )  # five sites at two tokens; severed ones have a figure of their own
    frame = trace.by_layer("last").set_index(["site", "layer"])
    drawn = figure.data[6]
    assert drawn.legendgroup == "mlp_out"
    assert list(drawn.y) == pytest.approx([frame.value["mlp_out", i] for i in range(6)])
    above = [frame.high["mlp_out", i] - frame.value["mlp_out", i] for i in range(6)]
    assert list(drawn.error_y.array) == pytest.approx(above)
    assert "20 prompts" in text_of(figure)
    assert "nats" in figure.layout.yaxis.title.text


def test_without_subjects_there_is_one_panel_and_the_prompt_is_corrupted(trace):
    assert trace.has_subjects and "on the subject" in str(trace)
    whole = replace(trace, subjects=tuple((0, len(words)) for words in trace.words))
    assert not whole.has_subjects
    figure = whole.plot("layers")
    assert "at the prompt's last token" in text_of(figure)
    assert "subject" not in text_of(figure)
    assert len(figure.data) * 2 == len(trace.plot("layers").data)
    assert "on the prompt" in str(whole) and "on the subject" not in str(whole)


def test_classes(trace):
    figure = trace.plot("classes")
    maps, dots = figure.data[::2], figure.data[1::2]
    frame = trace.by_class().set_index(["site", "token_class", "layer"])
    for site, drawn in zip(SITES, maps, strict=True):
        row = list(drawn.y).index("last subject token")
        wanted = [frame.value[site, "last_subject", i] for i in range(6)]
        assert list(drawn.z[row]) == pytest.approx(wanted)
    assert (2, "last subject token") in list(zip(dots[1].x, dots[1].y, strict=True))
    assert sum(len(d.x) for d in dots) < 8
    assert "n = 20, p = 0.00" in maps[1].text[row][2]


def test_severed(trace):
    figure = trace.plot("severed")
    frame = trace.by_layer().set_index(["site", "layer"])
    names = ("resid_post", *SEVERED)
    assert len(figure.data) == 3
    for name, drawn in zip(names, figure.data, strict=True):
        assert list(drawn.y) == pytest.approx([frame.value[name, i] for i in range(6)])


def test_shares_beside_benign_prompts(trace):
    benign = replace(trace, parts=parts_with(20, 0.3, 0.3, 0.3)[None] - 3)
    figure = replace(trace, benign=benign).plot("shares")
    assert [d.name for d in figure.data] == [
        "MLPs (n = 20)",
        "attentions (n = 20)",
        "MLPs, benign prompts (n = 20)",
        "attentions, benign prompts (n = 20)",
    ]
    shares = trace.shares().set_index(["site", "part"]).value
    assert list(figure.data[0].y) == pytest.approx(list(shares["mlp_out"]))
    assert figure.data[0].x[0] == "early<br>0 to 1"


def test_robustness(trace):
    from tl_toxmem.stats import Estimate
    from tl_toxmem.trace import Profile, Robustness

    same, other = Estimate(1.0, 1.0, 1.0, 20), Estimate(0.4, -0.1, 0.7, 20)
    card = Robustness(
        "last",
        (
            Profile(
                "as configured", "3 sigma, 3 layers, log_prob", "mlp_out", (1.0, 4.0, 2.0), same
            ),
            Profile("metric", "prob", "mlp_out", (0.1, -0.2, 0.05), other),
        ),
    )
    figure = replace(trace, robustness=card).plot("robustness")
    assert [list(row) for row in figure.data[0].z] == [[0.25, 1.0, 0.5], [0.5, -1.0, 0.25]]
    assert figure.data[0].y[1] == "metric: prob<br>Spearman 0.40 (-0.10 to 0.70)"
    assert "at the prompt's last token over 20 prompts" in text_of(figure)
    frame = card.frame()
    assert frame.peak_layer.tolist() == [1, 0]


def test_words_are_masked_and_inert(trace):
    words = (("<b>", " fuck", *"cdefgh"),) * 20
    drawn = replace(trace, words=words).plot("tokens").to_json()
    assert "fuck" not in drawn
    assert "<b>:" not in drawn
