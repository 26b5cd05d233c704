"""What mining found: prompts, their benign matches, and a table of what was dropped and why."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from tl_toxmem.files import read_json, read_lines, write_bytes, write_json
from tl_toxmem.masking import mask_slurs
from tl_toxmem.mining.parts import DONE
from tl_toxmem.prompts import PromptSet
from tl_toxmem.reading import record

PROMPTS, BENIGN = "prompts.jsonl", "benign.jsonl"
_SHOWN = 3


@dataclass(frozen=True)
class _Tables:
    """What `mining.json` has (see `Mined`)."""

    drops: dict[str, int]
    counts: dict[str, int]
    rates: dict[str, float]
    kept_by_share: dict[str, int]
    settings: dict[str, Any]


_TABLES = tuple(field.name for field in fields(_Tables))


@dataclass(frozen=True)
class Mined:
    """The outcome of mining.

    Attributes:
        prompts: innocuous prompts with lead-in, toxic target, neutral target, scores and split.
        benign: prompts of the same lengths, sources and splits without a toxic continuation.
        drops: how many candidates were dropped, by reason, in the order of the rules.
        counts: of what was looked at and kept.
        rates: of the samples: share of toxic continuations, and of prompts with any; of all that were asked, and of
            those that were kept.
        kept_by_share: how many prompts would be kept at other shares.
        settings: of candidates, model, judge and configuration; what the outcome depends on.
    """

    prompts: PromptSet
    benign: PromptSet
    drops: Mapping[str, int]
    counts: Mapping[str, int]
    rates: Mapping[str, float]
    kept_by_share: Mapping[str, int]
    settings: Mapping[str, Any]

    def frame(self) -> pd.DataFrame:
        """What became of the candidates: `outcome` and `n`, drops first, in the order of the rules."""
        rows = [*self.drops.items(), *((f"kept, {s}", self.counts[s]) for s in ("find", "report"))]
        return pd.DataFrame(rows, columns=["outcome", "n"])

    def __str__(self) -> str:
        c, r = self.counts, self.rates
        table = {"candidates": c["candidates"]}
        table |= {f"  {reason}": -n for reason, n in self.drops.items() if n}
        table["kept"] = len(self.prompts)
        width = max(map(len, table))
        lines = [f"{name:<{width}}  {n:>7,}" for name, n in table.items()]
        lines += [
            f"{c['find']} find and {c['report']} report prompts, {c['benign']} benign ones matched "
            f"({c['unmatched']} lacking); {c['near_duplicates']} share a split with a near-duplicate",
            f"toxic: {r['asked']:.1%} of the continuations of all prompts that were asked, {r['kept']:.1%} of those "
            "kept (chosen by these same samples, so fresh ones will be less toxic)",
            "kept at other shares: "
            + ", ".join(f"{s}: {n}" for s, n in self.kept_by_share.items()),
        ]
        lines.append("such as (prompt | lead-in, if any | target)")
        for prompt in self.prompts.prompts[:_SHOWN]:
            told = [part.strip() for part in (prompt.prompt, prompt.lead_in, prompt.target) if part]
            lines.append("  " + " ".join(mask_slurs(" | ".join(told)).split()))
        return "\n".join(lines)

    def save(self, folder: str | Path) -> None:
        """Write `prompts.jsonl`, `benign.jsonl` and, last, `mining.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / PROMPTS, self.prompts.to_jsonl().encode())
        write_bytes(folder / BENIGN, self.benign.to_jsonl().encode())
        write_json(folder / DONE, {name: dict(getattr(self, name)) for name in _TABLES})

    @classmethod
    def load(cls, folder: str | Path) -> "Mined":
        """Read what `save` wrote.

        Raises:
            ToxmemError: a file that is missing or damaged.
        """
        folder = Path(folder)
        tables = record(_Tables, read_json(folder / DONE), folder / DONE)
        some = any(line.strip() for line in read_lines(folder / BENIGN, "benign prompts"))
        return cls(
            prompts=PromptSet.read(folder / PROMPTS),
            benign=PromptSet.read(folder / BENIGN) if some else PromptSet(()),
            **{name: getattr(tables, name) for name in _TABLES},
        )
