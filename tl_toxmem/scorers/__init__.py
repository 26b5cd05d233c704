"""Judges of toxicity: one protocol, `score(texts) -> [text]` in [0, 1], higher is more toxic.

`load_scorer` gives Detoxify's models, any Hugging Face sequence classifier and an offline profanity model by name;
`CachedScorer` keeps what they say, and `judge_agreement` says how far two of them agree.
"""

from tl_toxmem.scorers.agreement import Agreement, Disagreement
from tl_toxmem.scorers.cached import CachedScorer
from tl_toxmem.scorers.checkpoint import check_checkpoint
from tl_toxmem.scorers.detoxify import DetoxifyScorer
from tl_toxmem.scorers.huggingface import HuggingFaceScorer
from tl_toxmem.scorers.kappa import judge_agreement, scorer_agreement
from tl_toxmem.scorers.load import SCORER_NAMES, load_scorer, scorer_needs_network
from tl_toxmem.scorers.profanity import ProfanityScorer
from tl_toxmem.scorers.protocol import ToxicityScorer, judged
from tl_toxmem.scorers.published import PUBLISHED

__all__ = [
    "PUBLISHED",
    "SCORER_NAMES",
    "Agreement",
    "CachedScorer",
    "DetoxifyScorer",
    "Disagreement",
    "HuggingFaceScorer",
    "ProfanityScorer",
    "ToxicityScorer",
    "check_checkpoint",
    "judge_agreement",
    "judged",
    "load_scorer",
    "scorer_agreement",
    "scorer_needs_network",
]
