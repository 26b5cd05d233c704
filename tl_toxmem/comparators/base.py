"""What every method of the comparison is: a name, strengths, and laws made from the find split."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from tl_toxmem.attribute import Labelled, NeuronScores, Texts
from tl_toxmem.attribute.texts import labelled_of
from tl_toxmem.baking import touched
from tl_toxmem.config.comparators import ComparatorConfig
from tl_toxmem.deletion import Deletion
from tl_toxmem.delta import stored_tensors
from tl_toxmem.errors import ToxmemError
from tl_toxmem.model import LensModel
from tl_toxmem.prompts import Prompt, PromptSet


@dataclass(frozen=True)
class Material:
    """What methods are made from; nothing of it is of the report split.

    Attributes:
        prompts: find prompts with their toxic targets.
        neutral: documents kept for choosing (costs, means, ROME's covariance).
        scores: of our attribution, with costs, mean activations and loudness.
        alternatives: by prompt id, what an edit should say instead of the target.
        labelled: toxic and other texts.
        traced_layer: where the trace finds most, for editing.
        seed: of whatever a method draws.
    """

    prompts: PromptSet
    neutral: Sequence[str]
    scores: NeuronScores
    alternatives: Mapping[str, str] = field(default_factory=dict)
    labelled: Sequence[Labelled] | None = None
    traced_layer: int | None = None
    seed: int = 0

    def alternative(self, prompt: Prompt) -> str:
        """What an edit should say after `prompt`: its `neutral_target`, or what was found for it.

        Raises:
            ToxmemError: neither is there.
        """
        found = prompt.neutral_target or self.alternatives.get(prompt.id)
        if not found:
            raise ToxmemError(
                f"prompt {prompt.id!r} has no benign continuation to edit towards: give it a neutral_target"
            )
        return found

    def aimed(self, prompts: Iterable[Prompt]) -> PromptSet:
        """Prompts with what an edit should say in place of their targets.

        Raises:
            ToxmemError: one that has no alternative.
        """
        return PromptSet.of(p.model_copy(update={"target": self.alternative(p)}) for p in prompts)

    def labelled_for(self, method: str) -> Sequence[Labelled]:
        """The labelled texts.

        Raises:
            ToxmemError: none, or too few of one class.
        """
        return labelled_of(Texts(labelled=self.labelled), method=method)


@runtime_checkable
class Maker(Protocol):
    """From the material to a law for each strength."""

    def __call__(
        self,
        model: LensModel,
        material: Material,
        *,
        strengths: Sequence[float],
        cfg: ComparatorConfig,
    ) -> dict[float, Deletion]:
        """By strength, in the order given; by what there is, where that is less (fewer prompts to edit, say)."""
        ...


def no_detail(material: Material, cfg: ComparatorConfig) -> str:  # noqa: ARG001 - of every method
    """The label says all."""
    return ""


@dataclass(frozen=True)
class Comparator:
    """A method of the comparison.

    Attributes:
        label: for people.
        family: `deletion`, `editing`, `learned` or `control`.
        strength: what its strength is ("neurons", "components", "clamp of the norm").
        strengths: those tried by default on a model, the weakest first.
        make: see `Maker`.
        takes: what a strength may be: `count` from 1 on, `share` from 0 to 1, or `positive`.
        needs: what it cannot be without: of `Material` `alternatives`, `labelled`, `traced_layer`; of a model
            `output_bias`.
        detail: what is to be added to the label on some material, such as the layer.
    """

    label: str
    family: str
    strength: str
    strengths: Callable[[LensModel], tuple[float, ...]]
    make: Maker
    needs: tuple[str, ...] = ()
    takes: Literal["count", "share", "positive"] = "count"
    detail: Callable[[Material, ComparatorConfig], str] = no_detail


def check_bakeable(model: LensModel, law: Deletion) -> None:
    """Refuse a law that the model's weights cannot hold: what cannot be baked is not compared.

    Raises:
        ToxmemError: a shift or a constant where the MLP has no output bias; or see `LensModel.clean_hf`.
    """
    touched(law, model.arch, stored_tensors(model))


def labelled_from(prompts: PromptSet, benign: PromptSet) -> list[Labelled]:
    """Labelled texts where the user gives none: toxic prompts with their targets, benign ones with theirs."""
    return [
        Labelled(p.start + p.target, toxic)
        for some, toxic in ((prompts, True), (benign, False))
        for p in some
    ]
