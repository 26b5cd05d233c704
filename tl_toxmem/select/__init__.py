"""Selection: which neurons to delete, how many, and the controls they are held against."""

from tl_toxmem.select.controls import control_sets
from tl_toxmem.select.greedy import Joint, joint_effect, select_greedily
from tl_toxmem.select.how_many import KPoint, Law, choose_k, pick_k
from tl_toxmem.select.ranking import BY_SIZE, layers_of, rank_values, select_neurons

__all__ = [
    "BY_SIZE",
    "Joint",
    "KPoint",
    "Law",
    "choose_k",
    "control_sets",
    "joint_effect",
    "layers_of",
    "pick_k",
    "rank_values",
    "select_greedily",
    "select_neurons",
]
