"""Find, delete and bake out the MLP neurons that mediate a language model's toxic continuations.

The public names, in the order the data flows; each is imported when first used, so that the command line
answers before torch is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PLACES = {
    "ToxmemError": "errors",
    "RunConfig": "config",
    "AttributeConfig": "config",
    "SelectConfig": "config",
    "LensModel": "model",
    "Prompt": "prompts",
    "PromptSet": "prompts",
    "Mined": "mining",
    "mine": "mining",
    "Trace": "trace",
    "causal_trace": "trace",
    "NeuronScores": "attribute",
    "Texts": "attribute",
    "Labelled": "attribute",
    "read_labelled": "attribute",
    "attribute_neurons": "attribute",
    "compare_methods": "attribute",
    "verify": "attribute",
    "NeuronSet": "neurons",
    "choose_k": "select",
    "control_sets": "select",
    "joint_effect": "select",
    "select_greedily": "select",
    "select_neurons": "select",
    "search_deletion": "select",
    "learn_gates": "gates",
    "Deletion": "deletion",
    "NeuronCard": "cards",
    "neuron_cards": "cards",
    "load_scorer": "scorers",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "Comparison": "comparison",
    "compare": "comparison",
    "make_material": "comparison",
    "bake": "baking",
    "bake_checkpoint": "filebake",
    "revert_checkpoint": "filebake",
    "export_checkpoint": "export",
    "verify_checkpoint": "export",
    "run": "pipeline",
}

__all__ = [  # noqa: PLE0604 - literal for type checkers
    "ToxmemError",
    "RunConfig",
    "AttributeConfig",
    "SelectConfig",
    "LensModel",
    "Prompt",
    "PromptSet",
    "Mined",
    "mine",
    "Trace",
    "causal_trace",
    "NeuronScores",
    "Texts",
    "Labelled",
    "read_labelled",
    "attribute_neurons",
    "compare_methods",
    "verify",
    "NeuronSet",
    "choose_k",
    "control_sets",
    "joint_effect",
    "select_greedily",
    "select_neurons",
    "search_deletion",
    "learn_gates",
    "Deletion",
    "NeuronCard",
    "neuron_cards",
    "load_scorer",
    "Evaluation",
    "evaluate",
    "Comparison",
    "compare",
    "make_material",
    "bake",
    "bake_checkpoint",
    "revert_checkpoint",
    "export_checkpoint",
    "verify_checkpoint",
    "run",
]

if TYPE_CHECKING:
    from tl_toxmem.attribute import (
        Labelled,
        NeuronScores,
        Texts,
        attribute_neurons,
        compare_methods,
        read_labelled,
        verify,
    )
    from tl_toxmem.baking import bake
    from tl_toxmem.cards import NeuronCard, neuron_cards
    from tl_toxmem.comparison import Comparison, compare, make_material
    from tl_toxmem.config import AttributeConfig, RunConfig, SelectConfig
    from tl_toxmem.deletion import Deletion
    from tl_toxmem.errors import ToxmemError
    from tl_toxmem.evaluation import Evaluation, evaluate
    from tl_toxmem.export import export_checkpoint, verify_checkpoint
    from tl_toxmem.filebake import bake_checkpoint, revert_checkpoint
    from tl_toxmem.gates import learn_gates
    from tl_toxmem.mining import Mined, mine
    from tl_toxmem.model import LensModel
    from tl_toxmem.neurons import NeuronSet
    from tl_toxmem.pipeline import run
    from tl_toxmem.prompts import Prompt, PromptSet
    from tl_toxmem.scorers import load_scorer
    from tl_toxmem.select import (
        choose_k,
        control_sets,
        joint_effect,
        search_deletion,
        select_greedily,
        select_neurons,
    )
    from tl_toxmem.trace import Trace, causal_trace


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(
            f"module 'tl_toxmem' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(import_module(f"tl_toxmem.{_PLACES[name]}"), name)
