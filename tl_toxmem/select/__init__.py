"""Selection: which neurons to delete, how many, and the controls they are held against."""

from tl_toxmem.select.candidates import gate_candidates
from tl_toxmem.select.controls import control_sets, controls_text, loudness_of, loudness_ratios
from tl_toxmem.select.greedy import Joint, joint_effect, select_greedily
from tl_toxmem.select.how_many import KPoint, choose_k, pick_k
from tl_toxmem.select.laws import configured_law, law_of
from tl_toxmem.select.ranking import layers_of, leaving_half, rank_values, select_neurons
from tl_toxmem.select.record import Selected
from tl_toxmem.select.search import Found, Tried, search_deletion

__all__ = [
    "Found",
    "Joint",
    "KPoint",
    "Selected",
    "Tried",
    "choose_k",
    "configured_law",
    "control_sets",
    "controls_text",
    "gate_candidates",
    "joint_effect",
    "law_of",
    "layers_of",
    "leaving_half",
    "loudness_of",
    "loudness_ratios",
    "pick_k",
    "rank_values",
    "search_deletion",
    "select_greedily",
    "select_neurons",
]
