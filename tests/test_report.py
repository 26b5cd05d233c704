"""The report page: every section by its data, text inert and masked, nothing but its own scripts, small enough."""

import json
import re
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from report_pages import HOSTILE, JUDGES, Page, full, page_of, read

MOST_BYTES = 10e6
"""What a page may weigh, so that it can be sent by mail."""


@pytest.fixture(scope="module")
def results(finished):
    return read(finished)


@pytest.fixture(scope="module")
def whole(results):
    """The page that has everything, with hostile text in it."""
    return page_of(full(results, text=HOSTILE))


def without_plotly(page: str) -> str:
    from plotly.offline import get_plotlyjs

    return page.replace(get_plotlyjs(), "")


def test_the_page_leads_with_the_answer_and_has_what_there_is(results):
    page = Page(page_of(results))
    assert page.sections == [
        "answer", "where", "neurons", "examples", "controls", "robustness", "certificate", "provenance",
    ]  # fmt: skip
    links = [a["href"] for a in page.all("a")]
    assert links == ["#main", *(f"#{name}" for name in page.sections)]
    assert "Planted truth" in page.text
    base = results.evaluation.row("none").toxicity_rate.value
    assert f"{100 * base:.1f}\u00a0%" in page.text


def test_a_comparison_and_a_second_judge_have_sections(results, whole):
    page = Page(whole)
    assert page.sections == [
        "answer", "where", "neurons", "examples", "front", "controls", "judges", "robustness", "certificate",
        "provenance",
    ]  # fmt: skip
    assert "The search: 2 deletions tried, 1 affordable" in page.text
    assert f"The same by {JUDGES[1]}" in page.text
    assert "Not compared: one method" in page.text


def test_lm_evals_results_and_neutral_text_of_another_kind_have_a_place(results):
    from test_card import TASKS

    evaluation = results.evaluation
    assert "of another kind than" not in Page(page_of(results)).text
    rows = tuple(
        replace(r, neutral_perplexity=replace(r.neutral_perplexity, value=400.0))
        for r in evaluation.rows
    )
    page = Page(page_of(replace(results, evaluation=replace(evaluation, tasks=TASKS, rows=rows))))
    assert page.sections.index("tasks") == page.sections.index("controls") + 1
    assert "exact_match (strict)" in page.text and "standard error 0.021" in page.text
    assert "Base's perplexity on the neutral text is 400.0 per token" in page.text


def test_what_is_not_there_has_no_place(results):
    import torch

    trace = results.trace
    bare = replace(
        results,
        cfg=results.cfg.model_copy(update={"model": "/some/where/other"}),
        trace=replace(
            trace, parts=torch.full_like(trace.parts, torch.nan), benign=None, robustness=None,
            **_without_severed(trace),
        ),
        scores=replace(results.scores, verification=None, cost=torch.full_like(results.scores.cost, torch.nan)),
        selection=replace(results.selection, curve=(), cards=(), joint_effect=None, no_decoy="of a reason"),
        evaluation=replace(
            results.evaluation,
            rows=tuple(replace(row, benign_kept=None) for row in results.evaluation.rows),
            examples=(),
        ),
    )  # fmt: skip
    page, before = Page(page_of(bare)), Page(page_of(results))
    assert page.sections == ["answer", "where", "neurons", "controls", "certificate", "provenance"]
    # Gone are: shares, severed, the curve, robustness.
    assert len(page.all("figure")) == len(before.all("figure")) - 4
    assert "Planted truth" not in page.text and "Cards" not in page.text
    assert "benign answers kept" not in page.text and "benign answers kept" in before.text
    assert "There is no decoy: of a reason." in page.text
    assert "Toxic memories of other" in page.text, "a folder's place is nobody's business"


def _without_severed(trace):
    keep = [i for i, site in enumerate(trace.sites) if "_without_" not in site]
    return {
        "sites": tuple(trace.sites[i] for i in keep),
        "restored": trace.restored[:, :, keep],
        "exact": trace.exact[:, keep],
        "n_restored": trace.n_restored[keep],
    }


def test_text_from_elsewhere_is_text(whole):
    page = Page(whole)
    assert [a.get("type") for a in page.all("script") if a.get("type") is None] == [None, None]
    assert not page.all("img") and not page.all("b")
    names = {name for _, attrs in page.elements for name in attrs}
    assert not [name for name in names if name.startswith("on")], "no handlers of events"
    assert "<script>alert(1)</script><img src=x onerror=alert(2)> you" in page.text


def test_a_page_names_no_folder(results):
    from tl_toxmem.store import RunFolder

    place = "/home/somebody/secret-project"
    elsewhere = replace(
        results,
        folder=RunFolder(Path(place) / "run"),
        cfg=results.cfg.model_copy(update={"model": f"{place}/model", "out": Path(place) / "run"}),
        certificate=replace(
            results.certificate, base_model=f"{place}/model"
        ),  # of an earlier tl-toxmem
    )
    page = page_of(elsewhere)
    assert "somebody" not in page and "secret-project" not in page
    assert "tl-toxmem verify 7_checkpoint" in Page(page).text


def test_hostile_text_is_inert_wherever_it_may_stand(results):
    """Names of judges, edits, rules, sources and settings too, not prompts and continuations alone."""
    alarm = "<script>alert(9)</script><img src=x onerror=alert(9)>&quot;'`${9}"
    evaluation = results.evaluation
    rows = tuple(replace(row, scorer=alarm) for row in evaluation.rows)
    protocol = {
        **evaluation.protocol,
        "description": alarm,
        "intervals": alarm,
        "scored_text": alarm,
    }
    hostile = replace(
        results,
        cfg=results.cfg.model_copy(
            update={"model": f"./{alarm}", "device": alarm, "scorer": alarm}
        ),
        selection=replace(results.selection, rule=alarm, no_decoy=alarm),
        evaluation=replace(evaluation, rows=rows, protocol=protocol),
        certificate=replace(results.certificate, host=alarm, base_model=alarm, precision=alarm),
        provenance={**results.provenance, "config_hash": alarm, "revision": alarm},
        scores=replace(results.scores, model_name=alarm),
    )
    page = Page(page_of(hostile))
    assert len(page.scripts) == 2 and not page.all("img")
    assert page.policy["default-src"] == ["'none'"] and page.policy["base-uri"] == ["'none'"]
    assert page.policy["form-action"] == ["'none'"]
    names = {name for _, attrs in page.elements for name in attrs}
    assert not [name for name in names if name.startswith("on")]


def test_slurs_are_masked_and_their_plain_text_is_in_base64(whole):
    page = Page(without_plotly(whole))
    assert not re.search("stupid|idiot", without_plotly(whole), re.IGNORECASE)
    assert "you s***** i****" in page.text
    plain = [b64decode(a["data-plain"]).decode() for a in page.classed("masked")]
    assert HOSTILE in plain
    # Prompt and both continuations of each example, at least.
    assert plain.count(HOSTILE) >= 3


def test_what_needs_no_mask_is_not_kept_twice():
    from tl_toxmem.report.masked import masked

    assert masked("a good man").plain == ""
    assert str(masked("an idiöt, an idiot")) == "an idiöt, an i****"
    assert b64decode(masked("an idiöt, an idiot").plain).decode() == "an idiöt, an idiot"


def test_a_card_tells_apart_what_looks_the_same_masked(results):
    from tl_toxmem.cards import Change

    card = results.selection.cards[0]
    card = replace(card, changes=(Change("a", "dumb", "damn"), Change("b", "dumb", "dumb")))
    assert [value for _, value in card.facts()][-2:] == [
        "'d***', without it 'd***'",
        "'d***', without it the same",
    ]
    assert [value for _, value in card.facts(mask=str)][-2:] == [
        "'dumb', without it 'damn'",
        "'dumb', without it the same",
    ]


def test_only_the_pages_own_scripts_run_and_nothing_is_fetched(whole):
    page = Page(whole)
    hashes = [b64encode(sha256(code.encode()).digest()).decode() for code in page.scripts]
    assert page.policy["script-src"] == [f"'sha256-{digest}'" for digest in hashes]
    assert page.policy["default-src"] == ["'none'"]
    assert set(page.policy["img-src"]) == {"data:", "blob:"}
    for _, attrs in page.elements:
        assert not {"src", "srcset", "action", "formaction", "style"} & set(attrs)
        assert attrs.get("href", "#")[0] == "#" or attrs["href"] == "data:,"
    assert len(page.styles) == 1
    assert "url(" not in page.styles[0] and "@import" not in page.styles[0]
    assert "innerHTML" not in page.scripts[1]


def test_a_page_is_small_enough(whole):
    assert len(whole.encode()) < MOST_BYTES
    assert whole.count("plotly.js v") == 1, "the library travels once"


def test_figures_have_titles_units_and_n(results):
    from tl_toxmem.report.page import make_sections

    figures = [b for s in make_sections(full(results)) for b in s.blocks if b.kind == "figure"]
    assert len(figures) == 10
    for figure in figures:
        assert figure.title and "<" not in figure.title
        assert "title" not in figure.wide and "template" not in figure.wide
        assert "&lt;" not in " ".join((figure.title, *figure.notes)), "the template escapes"
        told = " ".join((figure.title, *figure.notes, *(t.get("name", "") for t in figure.data)))
        assert re.search(r"\d+ (held-out |find )?prompts|n = \d|\d draws", told), told
        axes = [v for k, v in figure.wide.items() if k[:5] in ("xaxis", "yaxis")]
        bar = figure.wide.get("coloraxis", {}).get("colorbar", {})
        panels = [a["text"] for a in figure.wide.get("annotations", [])]
        assert any(a.get("title", {}).get("text") for a in [*axes, bar]) or panels, figure.title
    texts = [line for figure in figures for line in figure.notes]
    assert any(line.startswith("n = 16 find prompts") for line in texts), texts


def test_on_a_phone_panels_stand_one_above_the_other():
    from plotly.subplots import make_subplots

    from tl_toxmem.report.figures import page_figure

    long = "what is measured at each of the layers of the model, and of what"
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, subplot_titles=["a", long, "c"])
    for column in (1, 2, 3):
        figure.add_bar(x=["base", "a longer name"], y=[1.0, float("nan")], row=1, col=column)
    figure.update_yaxes(title_text="share", row=1, col=1)
    figure.update_xaxes(title_text=long)
    figure.update_layout(
        title="A &amp; b<br><sup>one<br>two</sup>", height=400, margin={"t": 80, "b": 60}
    )
    made = page_figure(figure, "three")
    assert (made.title, made.notes) == ("A & b", ("one", "two", "three"))
    assert made.data[0]["y"] == [1.0, None], "NaN is no JSON"
    domains = [made.narrow[f"yaxis{n}"]["domain"] for n in ("", 2, 3)]
    assert all(made.narrow[f"xaxis{n}"]["domain"] == [0, 1] for n in ("", 2, 3))
    assert all(made.narrow[f"yaxis{n}"]["showticklabels"] for n in ("", 2, 3))
    assert all(made.narrow[f"yaxis{n}"]["title"]["text"] == "share" for n in ("", 2, 3))
    assert [top for _, top in domains] == sorted((top for _, top in domains), reverse=True)
    for (low, _), (_, high) in zip(domains, domains[1:], strict=False):
        assert low > high, "they do not overlap"
    assert made.narrow["annotations"][1]["y"] == domains[1][1]
    assert [a["y"] for a in made.wide["annotations"]] == [1, 1, 1], "the wide layout is left alone"
    wrapped = made.narrow["xaxis2"]["title"]["text"].split("<br>")
    assert " ".join(wrapped) == long and max(map(len, wrapped)) <= 40
    assert made.narrow["height"] > made.wide["height"]
    json.dumps(made.spec, allow_nan=False)


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ({"law": "zero"}, "activations are set to zero"),
        ({"law": "mean"}, "activations are set to their mean on neutral text"),
        ({"law": "scale", "factor": 0.25}, "activations are multiplied by 0.25"),
        ({"law": "input_gain", "factor": -1.0}, "what goes into the nonlinearity is multiplied by -1"),
        ({"law": "gates", "scales": [0.5, 0.125]}, "learned on the find prompts, from 0.12 to 0.50"),
    ],
)  # fmt: skip
def test_the_law_is_told_as_the_selection_keeps_it(law, words):
    from tl_toxmem.report.neurons import law_text

    assert law_text(law).endswith(words)


@pytest.mark.parametrize(
    ("layers", "words"),
    [((), ""), ((3,), "3"), ((0, 1), "0, 1"), ((0, 1, 2, 5, 7, 8, 9), "0 to 2, 5, 7 to 9")],
)
def test_layers_in_a_row_are_told_as_such(layers, words):
    from tl_toxmem.report.cells import layers_text

    assert layers_text(layers) == words


def test_brings_is_only_said_of_a_change_that_is_sure(results):
    from tl_toxmem.report.answer import sentence
    from tl_toxmem.stats import Estimate

    before = Estimate(0.5, 0.4, 0.6, 8)

    def told(change, after, base=before):
        rows = {row.edit: row for row in results.evaluation.rows}
        rows["none"] = replace(rows["none"], toxicity_rate=base)
        rows["deletion"] = replace(rows["deletion"], toxicity_rate=after, toxicity_change=change)
        evaluation = replace(results.evaluation, rows=tuple(rows.values()))
        return sentence(replace(results, evaluation=evaluation))

    after = Estimate(0.4, 0.3, 0.5, 8)
    # Paired by prompt the change may be sure though the two intervals overlap.
    assert "brings the toxic" in told(Estimate(-0.1, -0.15, -0.01, 8), after)
    assert "from 50.0 % to 40.0 %" in told(Estimate(-0.1, -0.15, -0.01, 8), after)
    assert "does not clearly change" in told(Estimate(-0.1, -0.25, 0.01, 8), after)
    assert "does not clearly change" in told(None, after)
    assert "brings" in told(None, Estimate(0.1, 0.0, 0.2, 8))


def test_a_rate_of_nought_and_a_judge_that_sees_nothing_are_told(results):
    from tl_toxmem.report.answer import answer_section
    from tl_toxmem.stats import Estimate

    nothing = Estimate(0.0, 0.0, 0.0, 8)
    rows = tuple(replace(row, toxicity_rate=nothing) for row in results.evaluation.rows)
    section = answer_section(replace(results, evaluation=replace(results.evaluation, rows=rows)))
    texts = [block.text for block in section.blocks if block.kind == "paragraph"]
    assert any("calls none of base's continuations toxic" in text for text in texts)
    assert any("up to about 37.5 % would still give 0 in 8 prompts" in text for text in texts)


def test_a_comparison_of_other_settings_or_a_changed_one_is_not_shown(finished, results, tmp_path):
    import shutil

    from tl_toxmem import ToxmemError
    from tl_toxmem.report import write_report
    from tl_toxmem.store import RunFolder

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    folder = RunFolder(copy)
    full(results).comparison.save(folder.artefact("compare"))
    assert "front" not in Page(write_report(copy).read_text()).sections, "nothing says what made it"
    with folder.making("compare") as aside:
        full(results).comparison.save(aside.artefact("compare"))
        folder.commit("compare", folder.config(), folder.provenance()["inputs"], ["compare"])
    assert "front" in Page(write_report(copy).read_text()).sections
    folder.artefact("compare").write_text("{}")
    with pytest.raises(ToxmemError, match=r"9_comparison.json was changed"):
        write_report(copy)


def test_a_missing_artefact_is_named(finished, tmp_path):
    import shutil

    from tl_toxmem import ToxmemError
    from tl_toxmem.report import write_report

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "6_evaluation.json").unlink()
    with pytest.raises(ToxmemError, match=r"6_evaluation.json: run the stage 'evaluate' first"):
        write_report(copy)


def test_a_report_is_the_same_each_time(finished):
    from tl_toxmem.report import write_report

    first = write_report(finished).read_bytes()
    assert write_report(finished).read_bytes() == first
