"""The model card: what the hub reads in it, what people read in it, and bases whose own card is odd or hostile."""

import math
from dataclasses import replace

import pytest

COMMIT = "a" * 40


@pytest.fixture(scope="module")
def loaded(gpt2_folder):
    from tl_toxmem import LensModel

    return LensModel.from_pretrained(gpt2_folder)


@pytest.fixture
def model(loaded, monkeypatch):
    monkeypatch.setattr(loaded, "source", loaded.source)  # whatever a test makes of it
    return loaded


@pytest.fixture
def based_on(model, tmp_path):
    """`based_on(readme, ...)`: the model as if it came from a base with this card."""
    from tl_toxmem.model import Source

    def make(readme: str | bytes | None, name="owner/base", revision=COMMIT):
        if readme is not None:
            content = readme if isinstance(readme, bytes) else readme.encode()
            (tmp_path / "README.md").write_bytes(content)
        model.source = Source(name, tmp_path, revision)
        return model

    return make


@pytest.fixture
def deletion():
    from tl_toxmem import Deletion, NeuronSet

    return Deletion.zero(NeuronSet(((0, 1), (0, 2), (2, 5)), 4, 128))


def row(edit, rate, perplexity, *, scorer="profanity", benign=True):
    from tl_toxmem.evaluation import EditResult
    from tl_toxmem.stats import Estimate

    def e(value, n):
        return Estimate(value, value - 0.01, value + 0.01, n)

    return EditResult(
        edit=edit,
        n_neurons=0 if edit == "none" else 3,
        layers=(),
        toxicity_rate=e(rate, 120),
        expected_max_toxicity=e(0.5, 120),
        prompt_perplexity=e(7.0, 120),
        neutral_perplexity=Estimate(perplexity, None, None, 1),
        neutral_perplexity_ratio=Estimate(perplexity / 2.768, None, None, 1),
        kl_neutral=e(0.02, 40),
        benign_kept=e(0.99, 88) if benign else None,
        scorer=scorer,
        seed=3,
    )


PROTOCOL = {
    "n_prompts": 120,
    "n_continuations": 5,
    "max_new_tokens": 20,
    "temperature": 1.0,
    "top_p": 0.9,
    "top_k": 0,
    "seed": 3,
    "threshold": 0.5,
    "neutral_documents": 40,
    "neutral_tokens": 2000,
    "scored_text": "continuation only",
    "neutral_windows": "windows of 1024 tokens every 512, detokenised: none",
    "headline": "toxicity_rate",
    "description": "protocol ours: 5 sampled continuations of at most 20 tokens "
    "(temperature 1, top-p 0.9, top-k off), seed 3",
    "intervals": "95 % percentile bootstrap",
}


@pytest.fixture
def evaluation():
    from tl_toxmem.evaluation import Evaluation

    rows = (
        row("none", 0.84, 2.768),
        row("deletion", 0.03, 2.771),
        row("random_neurons", 0.83, 2.754),
        row("random_early_layers", 0.82, 2.771),
    )
    return Evaluation(rows, PROTOCOL, ())


@pytest.fixture
def card(deletion, evaluation, tmp_path):
    """`card(model)`: front matter, as it is read back from a file, and text."""
    from huggingface_hub import metadata_load

    from tl_toxmem.card import model_card

    def make(model, *, evaluation=evaluation, **options):
        name = model.source.name if model.source else "unknown"
        content = model_card(model, deletion, base_model=name, evaluation=evaluation, **options)
        file = tmp_path / "card.md"
        file.write_text(content)
        return metadata_load(file), content.split("\n---\n", 1)[1]

    return make


def test_front_matter_of_a_base_on_the_hub(based_on, card):
    model = based_on("---\nlicense: apache-2.0\nlanguage: [en, de]\n---\n# Base\n")
    data, text = card(model, datasets=["allenai/real-toxicity-prompts", "./mine.jsonl", "a b"])
    assert data.pop("model-index")
    assert data == {
        "base_model": "owner/base",
        "base_model_relation": "finetune",
        "datasets": ["allenai/real-toxicity-prompts"],
        "language": ["en", "de"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "metrics": ["perplexity", "toxicity"],
        "pipeline_tag": "text-generation",
        "tags": ["tl-toxmem", "model-editing", "detoxification", "interpretability"],
    }
    assert f"`owner/base` (commit `{COMMIT}`)" in text
    assert "that of the base: `apache-2.0`" in text
    assert "on no hub" not in text


def test_results_are_read_back_by_the_hubs_own_classes(based_on, card, evaluation, deletion):
    from huggingface_hub import ModelCard

    from tl_toxmem.card import model_card

    second = tuple(replace(r, scorer="detoxify:original") for r in evaluation.rows)
    both = replace(evaluation, rows=evaluation.rows + second)
    content = model_card(based_on(None), deletion, base_model="owner/base", evaluation=both)
    results = ModelCard(content).data.eval_results
    assert [(r.metric_type, r.metric_name, r.metric_value) for r in results] == [
        ("toxicity", "toxic continuations after deletion, by profanity", 0.03),
        ("toxicity", "toxic continuations after deletion, by detoxify:original", 0.03),
        ("toxicity", "toxic continuations before deletion (base model), by profanity", 0.84),
        (
            "toxicity",
            "toxic continuations before deletion (base model), by detoxify:original",
            0.84,
        ),
        ("perplexity", "neutral perplexity after deletion", 2.771),
        ("perplexity", "neutral perplexity before deletion (base model)", 2.768),
    ]
    assert {r.task_type for r in results} == {"text-generation"}


def test_a_local_base_is_no_value_for_the_hub(based_on, card):
    model = based_on("---\nlicense: mit\n---\n", name="./private/place/mine", revision=None)
    data, text = card(model)
    assert "base_model" not in data
    assert "base_model_relation" not in data
    assert data["license"] == "mit"
    assert "the local checkpoint `mine`" in text
    assert "private/place" not in text
    assert "The base is on no hub" in text


def test_demo_and_wrapped_models(based_on, card, model):
    data, text = card(based_on(None, name="demo", revision=None))
    assert "embedded model `demo`" in text
    assert "on no hub" not in text
    model.source = None
    data, text = card(model)
    assert "`unknown`" in text
    assert "license" not in data


@pytest.mark.parametrize(
    ("link", "revision", "expected"),
    [
        ("https://example.org/terms", None, "https://example.org/terms"),
        ("LICENSE", COMMIT, f"https://huggingface.co/owner/base/resolve/{COMMIT}/LICENSE"),
        ("LICENSE", None, None),
        ("javascript:alert(1)", COMMIT, None),
        ("http://example.org", None, None),
        ("3", COMMIT, None),
    ],
)
def test_a_licence_of_the_bases_own(based_on, card, link, revision, expected, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    model = based_on(
        f"---\nlicense: other\nlicense_name: my-license-1.0\nlicense_link: {link}\n---\n",
        revision=revision,
    )
    data, text = card(model)
    assert (data["license"], data["license_name"]) == ("other", "my-license-1.0")
    assert data.get("license_link") == expected
    assert "`my-license-1.0`" in text


@pytest.mark.parametrize(
    "readme",
    [
        None,
        "",
        "# A base without front matter\n",
        "---\n---\n",
        "---\nlicense: [\n---\n",
        "---\n- a list\n---\n",
        "---\n1: 2\nlicense: {a: b}\n---\n",
        "---\nlicense: ' '\nlanguage: no\n---\n",
        '---\nlicense: !!int ""\n---\n',
        "---\nlicense: !!bool x\n---\n",
        "---\nlicense: !!timestamp x\n---\n",
        f"---\nlicense: {'[' * 5000}\n---\n",
        b"---\nlicense: \xff\n---\n",
    ],
)
def test_a_base_whose_card_is_missing_or_odd_has_no_known_licence(based_on, card, readme):
    data, text = card(based_on(readme))
    assert not {"license", "license_name", "license_link", "language"} & set(data)
    assert "**Licence:** none is known" in text


def test_a_licence_file_that_travels_with_the_weights(based_on, card, tmp_path):
    (tmp_path / "LICENSE").write_text("Do no harm.")
    model = based_on("---\nlicense: other\nlicense_link: LICENSE\n---\n", revision=None)
    assert card(model)[0]["license_link"] == "LICENSE"


def test_a_licence_in_the_configuration_of_a_base_without_a_card(based_on, card, tmp_path):
    (tmp_path / "config.json").write_text('{"license": "mit"}')
    assert card(based_on(None))[0]["license"] == "mit"
    (tmp_path / "config.json").write_text("{")
    assert "license" not in card(based_on(None))[0]


def _laughs(first, again):
    """Each level nine times the one before: 9 to the 40th in all, in 4 KB."""
    levels = [f"a0: &a0 {first}"]
    for i in range(1, 40):
        levels.append(f"a{i}: &a{i} {again.format(', '.join([f'*a{i - 1}'] * 9))}")
    return "\n".join(levels)


@pytest.mark.parametrize(
    "front", [_laughs("[mit]", "[{}]") + "\nlicense: *a39", _laughs("{k: v}", "{{<<: [{}]}}")]
)
def test_a_front_matter_that_explodes_is_none(based_on, card, front):
    data, text = card(based_on(f"---\nlanguage: en\n{front}\n---\n"))
    assert not {"license", "language"} & set(data)
    assert "none is known" in text


def test_of_a_list_of_licences_ten_names_are_told(based_on, card):
    names = [f"licence-{i}" for i in range(12)]
    _, text = card(based_on(f"---\nlicense: [[x], 7, {', '.join(names)}]\n---\n"))
    assert ", ".join(names[:10])[:100] in text
    assert "[x]" not in text and "licence-10" not in text


@pytest.mark.parametrize("licence", ["MIT License", "[mit, apache-2.0]", "'<b>|x|</b>'"])
def test_a_licence_that_is_no_identifier_is_told_and_not_guessed(based_on, card, licence):
    data, text = card(based_on(f"---\nlicense: {licence}\nlanguage: [en, no, 7, x x]\n---\n"))
    assert "license" not in data
    assert data["language"] == ["en"]
    assert "which is no single identifier" in text
    assert "<b>" not in text


def test_the_table_has_all_measures_with_intervals_and_n(based_on, card):
    _, text = card(based_on(None))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    head, _, base, edited, same, early = lines
    for words in (
        "toxic continuations, n = 120",
        "expected max. toxicity, n = 120",
        "neutral perplexity, n = 1 ",
        "KL on neutral text (nats), n = 40",
        "prompt perplexity, n = 120",
        "benign answers kept, n = 88",
    ):
        assert words in head
    assert base.startswith("| base | 0 | 84.0 % (83.0 to 85.0) |")
    assert "| 2.768 |" in base
    assert edited.startswith("| **deletion** | 3 | 3.0 % (2.0 to 4.0) |")
    assert same.startswith("| random neurons, same layers |")
    assert early.startswith("| random neurons, early layers |")
    assert "none" not in "".join(lines)
    assert "seed 3" in text
    assert "95 % percentile bootstrap" in text


TASKS = (
    {"edit": "none", "task": "arc_easy", "values": {"acc,none": 0.5, "acc_stderr,none": 0.02, "sample_len": 9.0}},
    {"edit": "none", "task": "gsm8k", "values": {"exact_match,strict": 0.25}},
    {"edit": "deletion", "task": "arc_easy", "values": {"acc,none": 0.4375, "acc_stderr,none": 0.021}},
)  # fmt: skip


def test_lm_evals_results_have_a_table_if_there_are_any(based_on, card, evaluation):
    _, text = card(based_on(None), evaluation=replace(evaluation, tasks=TASKS))
    table = text.split("### Tasks of lm-eval\n\n")[1].split("\n\n")[0].splitlines()
    assert table == [
        "| task | metric | base | deletion |",
        "| --- | --- | --- | --- |",
        "| arc_easy | acc | 0.5 ± 0.02 | 0.4375 ± 0.021 |",
        "| gsm8k | exact_match (strict) | 0.25 |  |",
    ]
    assert "lm-eval" not in card(based_on(None))[1]


@pytest.mark.parametrize(
    ("perplexity", "vocabulary", "warned"),
    [(2.8, 1000, False), (99.0, 50257, False), (101.0, 50257, True), (101.0, None, True), (60.0, 100, True)],
)  # fmt: skip
def test_neutral_text_of_another_kind_is_told(
    based_on, card, evaluation, perplexity, vocabulary, warned
):
    """By base's perplexity, whatever the edit's is; files of earlier versions do not say the vocabulary's size."""
    rows = (row("none", 0.8, perplexity), row("deletion", 0.1, 5000.0))
    size = {} if vocabulary is None else {"vocabulary": vocabulary}
    told = replace(evaluation, rows=rows, protocol={**PROTOCOL, **size})
    _, text = card(based_on(None), evaluation=told)
    assert ("of another kind than" in text) == warned
    assert ("guessing among its" in text) == (warned and bool(size))


def test_measures_that_are_not_there_are_not_shown(based_on, card, evaluation):
    rows = tuple(replace(r, benign_kept=None) for r in evaluation.rows)
    _, text = card(based_on(None), evaluation=replace(evaluation, rows=rows))
    assert "benign answers kept" not in text
    data, text = card(based_on(None), evaluation=None)
    assert "## Measured" not in text
    assert not {"model-index", "model_name", "metrics"} & set(data)


def test_an_edit_that_was_not_measured_or_not_finite_is_no_result(based_on, card, evaluation):
    data, _ = card(based_on(None), evaluation=replace(evaluation, rows=(row("mine", 0.1, 2.0),)))
    assert "model-index" not in data
    rows = (evaluation.rows[0], row("deletion", 0.1, math.inf))
    data, text = card(based_on(None), evaluation=replace(evaluation, rows=rows))
    (index,) = data["model-index"]
    names = [m["name"] for result in index["results"] for m in result["metrics"]]
    assert "neutral perplexity after deletion" not in names
    assert "toxic continuations after deletion, by profanity" in names
    assert "| inf |" in text


def test_it_says_how_to_load_check_and_revert_it_and_whose_idea_it_was(based_on, card):
    _, text = card(based_on(None))
    for words in (
        "AutoModelForCausalLM.from_pretrained(",
        "tl-toxmem verify FOLDER",
        "tl-toxmem revert FOLDER/deletion.safetensors FOLDER OUT",
        "bit for bit",
        "2 in layer 0, 1 in layer 2",
        "3 of 512 MLP neurons",
        "Findings of the Association for Computational Linguistics: NAACL 2025",
        "Only the abstract",
        "independent",
    ):
        assert words in " ".join(text.split()), words


def test_slurs_and_markup_from_elsewhere_are_inert(based_on, card, evaluation):
    rows = (*evaluation.rows, row("my_idiot_edit|<i>", 0.1, 2.0))
    model = based_on(None, name="./x/stupid `base` <script>", revision=None)
    data, text = card(model, evaluation=replace(evaluation, rows=rows))
    for words in ("stupid", "idiot", "<script>", "<i>"):
        assert words not in text
        assert words not in str(data)
