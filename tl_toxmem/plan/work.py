"""What is put through a model, counted before it is: passes of one shape, and the operations in them.

A pass is a batch that goes up the layers once: a forward pass, one that is followed by a backward pass, a part of one
(the layers from some layer on, the positions from some position on), or a step of a generation. Operations are floating
point additions and multiplications: two for every weight that a token meets, four for every query and key that meet,
for every entry of a head, and two for every weight of the unembedding. A backward pass does the same again, since no
gradient of a weight is made, and its attention twice.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tl_toxmem.model import LensModel

Kind = Literal["forward", "backward", "sweep", "decode"]


@dataclass(frozen=True)
class Shape:
    """Of a model, as far as operations go."""

    n_layers: int
    d_model: int
    d_mlp: int
    d_vocab: int
    n_heads: int
    n_keys: int
    d_head: int
    gated: bool
    itemsize: int

    @classmethod
    def of(cls, model: LensModel) -> "Shape":
        """The shape of a model that is loaded."""
        cfg = model.host.raw.cfg
        return cls(
            n_layers=model.n_layers,
            d_model=model.d_model,
            d_mlp=model.d_mlp,
            d_vocab=model.d_vocab,
            n_heads=cfg.n_heads,
            n_keys=getattr(cfg, "n_key_value_heads", None) or cfg.n_heads,
            d_head=cfg.d_head,
            gated=model.gated,
            itemsize=model.dtype.itemsize,
        )

    @property
    def layer(self) -> int:
        """Weights of the matrices of one layer."""
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_keys)
        return attention + (3 if self.gated else 2) * self.d_model * self.d_mlp

    @property
    def parameters(self) -> int:
        """Of all layers and the embedding, about: biases, norms and an unembedding of its own are left out."""
        return self.n_layers * self.layer + self.d_vocab * self.d_model


@dataclass(frozen=True)
class Pass:
    """Batches of one shape.

    Attributes:
        kind: what is done with them.
        rows: of a batch, where it is widest.
        new: positions of a row that are run.
        past: positions before them, whose keys and values are known.
        kept: positions of a row that are unembedded.
        row_layers: rows x layers that are run, of one batch.
        times: how many such batches there are; a fraction where it is an expectation.
        backwards: backward passes after a forward one.
        share: of the time of such a batch in the model's own precision.
    """

    kind: Kind
    rows: int
    new: int
    past: int
    kept: int
    row_layers: float
    times: float = 1.0
    backwards: int = 0
    share: float = 1.0

    def tokens(self, shape: Shape) -> float:
        """Tokens that go up the layers, those that join later or are run in part counted as the part."""
        return self.times * self.row_layers * self.new / shape.n_layers

    def operations(self, shape: Shape) -> float:
        """Of all batches."""
        return self.times * (
            self.layer_operations(shape) + self.rows * self.kept * self.kept_operations(shape)
        )

    def layer_operations(self, shape: Shape) -> float:
        """In the layers of one batch."""
        tokens = self.row_layers * self.new
        products = 2.0 * shape.layer * tokens
        attention = 4.0 * shape.n_heads * shape.d_head * tokens * (self.past + self.new)
        return (1 + self.backwards) * products + (1 + 2 * self.backwards) * attention

    def kept_operations(self, shape: Shape) -> float:
        """In the unembedding of one position."""
        return 2.0 * (1 + self.backwards) * shape.d_model * shape.d_vocab


def whole(
    shape: Shape, kind: Kind, rows: int, new: int, *, kept: int, past: int = 0, times: float = 1.0
) -> Pass:
    """A pass through all layers; backward once if it is of that kind."""
    back = 1 if kind == "backward" else 0
    return Pass(kind, rows, new, past, kept, rows * shape.n_layers, times, back)


@dataclass(frozen=True)
class Work:
    """What a stage puts through the model, and what else it does.

    Attributes:
        stage: its name.
        passes: all of them.
        texts: continuations that each judge scores.
        expected: what of it is an expectation and why, in words; empty where all is determined.
        memory: bytes beside the model, at the peak.
        units: prompts that workers can divide among them; 1 where one process does all.
    """

    stage: str
    passes: tuple[Pass, ...] = ()
    texts: float = 0.0
    expected: tuple[str, ...] = ()
    memory: float = 0.0
    units: int = 1

    @property
    def exact(self) -> bool:
        """Whether forwards and tokens are determined before anything runs."""
        return not self.expected

    @property
    def forwards(self) -> float:
        """Passes, each batch counted as one."""
        return sum(one.times for one in self.passes)

    def tokens(self, shape: Shape) -> float:
        """See `Pass.tokens`."""
        return sum(one.tokens(shape) for one in self.passes)

    def operations(self, shape: Shape) -> float:
        """See `Pass.operations`."""
        return sum(one.operations(shape) for one in self.passes)


@dataclass
class Tally:
    """Work that is being counted."""

    shape: Shape
    passes: list[Pass] = field(default_factory=list)
    texts: float = 0.0
    expected: list[str] = field(default_factory=list)
    memory: float = 0.0

    def add(self, passes: Iterable[Pass], *, times: float = 1.0) -> None:
        """More passes, each so many times."""
        self.passes += [replace(one, times=one.times * times) for one in passes]

    def expect(self, words: str) -> None:
        """Say that something is an expectation."""
        if words not in self.expected:
            self.expected.append(words)

    def need(self, n_bytes: float) -> None:
        """Say how much a part takes beside the model; the largest counts."""
        self.memory = max(self.memory, n_bytes)

    def done(self, stage: str, *, units: int = 1) -> Work:
        """All that was counted."""
        return Work(
            stage,
            tuple(_merged(self.passes)),
            self.texts,
            tuple(self.expected),
            self.memory,
            units,
        )


def _merged(passes: Iterable[Pass]) -> Iterable[Pass]:
    """Equal shapes as one."""
    found: dict[Any, Pass] = {}
    for one in passes:
        key = replace(one, times=0.0)
        known = found.get(key)
        found[key] = replace(one, times=one.times + (known.times if known else 0.0))
    return found.values()
