"""Mining: from candidate texts to innocuous prompts that a model continues toxically."""

from tl_toxmem.mining.candidates import Candidate, Candidates, read_candidates
from tl_toxmem.mining.chain import mine
from tl_toxmem.mining.record import Mined

__all__ = ["Candidate", "Candidates", "Mined", "mine", "read_candidates"]
