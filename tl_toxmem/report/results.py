"""All that a page is made from, read from a finished run folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tl_toxmem.attribute import NeuronScores
from tl_toxmem.certificate import Certificate
from tl_toxmem.comparison import Comparison
from tl_toxmem.config import RunConfig, shown_name
from tl_toxmem.errors import ToxmemError
from tl_toxmem.evaluation import Evaluation
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.prompts import PromptSet
from tl_toxmem.reading import record
from tl_toxmem.select import Selected
from tl_toxmem.store import ARTEFACTS, RunFolder
from tl_toxmem.trace import Trace


@dataclass(frozen=True)
class Results:
    """The records of a run.

    Attributes:
        folder: where they lie.
        cfg: what was asked for.
        prompts: of both splits.
        trace: with that of the benign prompts and the robustness, where there are.
        scores: of every neuron.
        selection: what `4_neurons.json` says.
        evaluation: base, deletion and controls.
        certificate: of the exported folder.
        provenance: what `provenance.json` says.
        comparison: with the field's methods; None without one that was made under the folder's settings.
    """

    folder: RunFolder
    cfg: RunConfig
    prompts: PromptSet
    trace: Trace
    scores: NeuronScores
    selection: Selected
    evaluation: Evaluation
    certificate: Certificate
    provenance: dict[str, Any]
    comparison: Comparison | None

    @property
    def chosen(self) -> NeuronSet:
        """The selected neurons."""
        return self.selection.selected

    @property
    def scorers(self) -> tuple[str, ...]:
        """The judges, the one that decides first."""
        return tuple(dict.fromkeys(row.scorer for row in self.evaluation.rows))


@dataclass(frozen=True)
class _Told:
    """What a page tells of the evaluation's protocol."""

    description: str
    n_prompts: int
    scored_text: str
    neutral_documents: int
    neutral_tokens: int
    neutral_windows: str
    intervals: str


def read_results(folder: RunFolder) -> Results:
    """Read a folder.

    Raises:
        ToxmemError: an artefact is missing (naming it) or damaged.
    """
    for stage, name in ARTEFACTS.items():
        if stage != "compare" and not folder.artefact(stage).exists():
            raise ToxmemError(
                f"no report without {folder.path / name}: run the stage {stage!r} first"
            )
    compared = folder.is_done("compare")
    scores = NeuronScores.load(folder.artefact("attribute"))
    selection = Selected.load(folder.artefact("select"))
    evaluation = Evaluation.load(folder.artefact("evaluate"))
    record(_Told, evaluation.protocol, folder.artefact("evaluate"))
    shape = selection.selected.n_layers, selection.selected.d_mlp
    if shape != scores.scores.shape:
        raise ToxmemError(
            f"{folder.artefact('select')} is damaged: its neurons are of a model of {shape[0]} x {shape[1]}, and the "
            f"scores of {' x '.join(map(str, scores.scores.shape))}"
        )
    return Results(
        folder=folder,
        cfg=folder.config(),
        prompts=PromptSet.read(folder.artefact("prompts")),
        trace=Trace.load(folder.artefact("trace")),
        scores=scores,
        selection=selection,
        evaluation=evaluation,
        certificate=Certificate.read(folder.artefact("export")),
        provenance=folder.provenance(),
        comparison=Comparison.load(folder.artefact("compare")) if compared else None,
    )


def model_name(cfg: RunConfig) -> str:
    """A model's name without the folders that it lies in."""
    return Path(shown_name(cfg.model)).name
