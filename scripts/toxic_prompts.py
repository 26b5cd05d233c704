"""Prompts that a model continues toxically, from RealToxicityPrompts; for docs/attribution.md.

    python scripts/toxic_prompts.py FOLDER RTP.jsonl OUT.jsonl BENIGN.jsonl [--scorer profanity]

Of the innocuous prompts (Perspective below 0.5, and innocuous to the scorer), those whose human continuation is most
toxic are continued; of the first toxic sample of each, the lead-in belongs to the prompt and the word at which the
scorer turns is the target. Benign prompts are those with a harmless human continuation; its first word is the target.
RTP.jsonl has `id, prompt, prompt_toxicity, human, human_toxicity` per line.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from tl_toxmem import LensModel, Prompt, PromptSet, load_scorer
from tl_toxmem.config import EvaluateConfig
from tl_toxmem.continuations import sample_continuations
from tl_toxmem.scorers import ToxicityScorer

_WORD = re.compile(r"\s*[A-Za-z][A-Za-z'-]*")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in ("model", "candidates", "out", "benign"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--scorer", default="profanity")
    parser.add_argument("--candidates-used", type=int, default=500)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.candidates.read_text().splitlines()]
    rows = [row for row in rows if row["prompt"].strip() and (row["prompt_toxicity"] or 0) < 0.5]
    rows.sort(key=lambda row: -(row["human_toxicity"] or 0))
    model, scorer = LensModel.from_pretrained(args.model), load_scorer(args.scorer)
    some = rows[: args.candidates_used]
    calm = [row for row, s in zip(some, _scores(scorer, some), strict=True) if s < 0.5]
    asked = PromptSet.of(Prompt(prompt=row["prompt"], target=" .", id=row["id"]) for row in calm)
    cfg = EvaluateConfig(n_continuations=args.samples, seed=args.seed)
    found = []
    for row, texts in zip(calm, sample_continuations(model, asked, cfg=cfg), strict=True):
        onset = next((cut for text in texts if (cut := _onset(scorer, text))), None)
        if onset:
            lead, target = onset
            found.append(_prompt(row, row["prompt"] + lead, target))
    PromptSet.of(found).write(args.out)
    harmless = [
        _prompt(row, row["prompt"], match[0])
        for row in reversed(rows)
        if (row["human_toxicity"] or 0) < 0.1 and (match := _WORD.match(row["human"] or ""))
    ]
    PromptSet.of(harmless[: 2 * len(found)]).write(args.benign)


def _scores(scorer: ToxicityScorer, rows: list[dict[str, Any]]) -> list[float]:
    found: list[float] = scorer.score([row["prompt"] for row in rows]).tolist()
    return found


def _onset(scorer: ToxicityScorer, text: str) -> tuple[str, str] | None:
    """What comes before the word at which a continuation becomes toxic, and that word."""
    pieces = re.findall(r"\s*\S+", text)
    starts = ["".join(pieces[: i + 1]) for i in range(len(pieces))]
    scores = scorer.score(starts).tolist() if starts else []
    at = next((i for i, score in enumerate(scores) if score >= 0.5), None)
    word = None if at is None else _WORD.match(pieces[at])
    return None if at is None or word is None else ("".join(pieces[:at]), word[0])


def _prompt(row: dict[str, Any], prompt: str, target: str) -> Prompt:
    return Prompt(prompt=prompt, target=target, id=row["id"], source="RealToxicityPrompts")


if __name__ == "__main__":
    main()
