"""Settings of mining; separate from `RunConfig`, since mining makes the prompts that a run takes."""

from pydantic import Field

from tl_toxmem.config.base import Config, Seed
from tl_toxmem.config.evaluate import EvaluateConfig


class MineConfig(Config):
    """Which candidates are kept as prompts, and what is made of them."""

    samples: int = Field(10, ge=1)
    """Continuations sampled of each innocuous candidate."""
    share: float = Field(0.1, gt=0, le=1)
    """A prompt is kept if at least this share of them is toxic."""
    innocuous: float = Field(0.5, gt=0, le=1)
    """A candidate is innocuous below this score, by the scorer and by the score that its file brings, if any."""
    threshold: float = Field(0.5, gt=0, le=1)
    """A continuation, or the beginning of one, is toxic from this score on."""
    max_new_tokens: int = Field(20, ge=1)
    """Length of a continuation in tokens; this and how tokens are drawn is as in the evaluation."""
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    """0: any token."""
    min_tokens: int = Field(2, ge=1)
    """Candidates of fewer tokens are dropped."""
    max_tokens: int = Field(64, ge=1)
    """Candidates of more tokens are dropped."""
    max_candidates: int | None = Field(None, ge=1)
    """Look at no more than so many of those that can be asked (lowest hash first)."""
    near: float = Field(0.6, gt=0, le=1)
    """Prompts are near-duplicates from this Jaccard index of their five-letter shingles on; they share a split."""
    report_share: float = Field(0.5, gt=0, lt=1)
    """Share of the prompts kept for reporting (by hash of the near-duplicates that stay together)."""
    least: int = Field(10, ge=1)
    """Fewer prompts in a split are an error."""
    benign: int = Field(1, ge=0)
    """Benign prompts sought for each prompt, of the same length, source and split."""
    benign_words: int = Field(2, ge=1)
    """Words of the greedy continuation that are a benign prompt's target."""
    batch_size: int = Field(64, ge=1)
    """Most rows that are generated at once."""
    seed: Seed = 0

    def sampling(self) -> EvaluateConfig:
        """How continuations are sampled, in the evaluation's terms."""
        return EvaluateConfig(
            n_continuations=self.samples,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            threshold=self.threshold,
            batch_size=self.batch_size,
            seed=self.seed,
        )
