"""What a selection is kept as (`4_neurons.json`): the neurons, the law that deletes them, their controls, and how they
were chosen.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tl_toxmem.attribute import METHODS, Law, NeuronScores
from tl_toxmem.cards import NeuronCard
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_json, write_json
from tl_toxmem.neurons import NeuronSet
from tl_toxmem.reading import record
from tl_toxmem.select.greedy import Joint
from tl_toxmem.select.how_many import KPoint
from tl_toxmem.select.laws import check_law, law_of
from tl_toxmem.select.search import Tried

WAYS = ("cost_aware", "top", "threshold", "shared", "greedy", "gates", "search")
"""Of choosing neurons."""


@dataclass(frozen=True)
class Selected:
    """A selection.

    Attributes:
        k: how many neurons.
        rule: in words, how k was set.
        method: of attribution.
        ranked_by: one of `WAYS`.
        layers: that were chosen from; None: all.
        curve: what `choose_k` measured, base first; empty without it.
        trials: what the search tried; empty without it.
        law: that deletes them, and their controls (see `law_of`).
        selected: the neurons.
        joint_effect: of all of them against the sum of each; None for many.
        controls: what they are held against.
        loudness_ratios: of each control; None where the selection is silent.
        no_decoy: why there is none; None if there is one.
        early_layers: that the second control is drawn from.
        cards: of those that score highest.
    """

    k: int
    rule: str
    method: str
    ranked_by: str
    layers: tuple[int, ...] | None
    curve: tuple[KPoint, ...]
    trials: tuple[Tried, ...]
    law: dict[str, Any]
    selected: NeuronSet
    joint_effect: Joint | None
    controls: dict[str, NeuronSet]
    loudness_ratios: dict[str, float | None]
    no_decoy: str | None
    early_layers: tuple[int, ...]
    cards: tuple[NeuronCard, ...]

    def law_on(self, scores: NeuronScores) -> Law:
        """From neurons, the selected or a control, to the deletion."""
        return law_of(self.law, scores, of=self.selected)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        controls = {name: neurons.to_json() for name, neurons in self.controls.items()}
        return asdict(self) | {"selected": self.selected.to_json(), "controls": controls}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: object = "the selection") -> "Selected":
        """From what `to_json` gave.

        Args:
            values: plain ones.
            where: they are from, to be named.

        Raises:
            ToxmemError: they make no selection, saying why.
        """
        found = record(cls, values, where)
        try:
            _check(found)
        except ToxmemError as error:
            raise ToxmemError(f"{where} is damaged: {error}") from None
        return found

    def save(self, path: str | Path) -> None:
        """Write one JSON file."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Selected":
        """Read what `save` wrote.

        Raises:
            ToxmemError: missing, damaged, or something else.
        """
        return cls.from_json(read_json(Path(path)), where=path)


def _check(found: Selected) -> None:
    """Refuse what no selection says."""
    chosen, n = found.selected, len(found.selected)
    if found.k != n:
        raise ToxmemError(f"k is {found.k}, but {n} neurons are selected")
    if found.method not in METHODS:
        raise ToxmemError(f"no method of attribution {found.method!r}")
    if found.ranked_by not in WAYS:
        raise ToxmemError(f"no way of choosing {found.ranked_by!r}: there are {', '.join(WAYS)}")
    check_law(found.law, n)
    for name, own in found.controls.items():
        if (own.n_layers, own.d_mlp) != (chosen.n_layers, chosen.d_mlp):
            raise ToxmemError(f"the control {name!r} is of a model of another shape")
    if set(found.loudness_ratios) != set(found.controls):
        raise ToxmemError("loudness_ratios is not of the controls")
    if found.joint_effect is not None and len(found.joint_effect.alone) != n:
        raise ToxmemError(f"joint_effect has {len(found.joint_effect.alone)} neurons, not {n}")
    if found.curve and (found.curve[0].k or found.curve[0].toxicity_rate is None):
        raise ToxmemError("its curve does not begin with the base model")
    if any(not isinstance(one.settings.get("law"), str) for one in found.trials):
        raise ToxmemError("a trial without its law")
