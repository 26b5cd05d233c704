"""Neuron attribution: which MLP neurons carry a target, by several methods, each checked by ablation."""

from tl_toxmem.attribute.ablation import Law, measure_ablations
from tl_toxmem.attribute.agreement import Agreement, compare_methods, compare_scores
from tl_toxmem.attribute.attribution import METHODS, attribute_neurons, verify
from tl_toxmem.attribute.direct import Promoted, promoted_tokens
from tl_toxmem.attribute.scores import NeuronScores, highest, top_neurons
from tl_toxmem.attribute.texts import Labelled, Texts, read_labelled
from tl_toxmem.attribute.verification import Verification

__all__ = [
    "METHODS",
    "Agreement",
    "Labelled",
    "Law",
    "NeuronScores",
    "Promoted",
    "Texts",
    "Verification",
    "attribute_neurons",
    "compare_methods",
    "compare_scores",
    "highest",
    "measure_ablations",
    "promoted_tokens",
    "read_labelled",
    "top_neurons",
    "verify",
]
