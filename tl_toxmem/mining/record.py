"""What mining found: prompts, their benign matches, and a table of what was dropped and why."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from tl_toxmem.display import Display, Displayed, Table
from tl_toxmem.errors import ToxmemError
from tl_toxmem.files import read_json, read_lines, sha256_file, write_bytes, write_json
from tl_toxmem.mining.parts import DONE
from tl_toxmem.prompts import PromptSet
from tl_toxmem.reading import record
from tl_toxmem.resume import digest_of

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


@dataclass(frozen=True, repr=False)
class Mined(Displayed):
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

    def display(self) -> Display:
        """What became of the candidates, and the first prompts, masked."""
        c, r = self.counts, self.rates
        headline = (
            f"Mined {len(self.prompts):,} of {c['candidates']:,} candidates: {c['find']} find and {c['report']} report "
            f"prompts, {c['benign']} benign ones matched ({c['unmatched']} lacking)"
        )
        became = [("candidates", f"{c['candidates']:,}")]
        became += [(reason, f"-{n:,}") for reason, n in self.drops.items() if n]
        became.append(("kept", f"{len(self.prompts):,}"))
        shown = tuple(
            (p.prompt.strip(), (p.lead_in or "").strip(), p.target.strip())
            for p in self.prompts.prompts[:_SHOWN]
        )
        notes = (
            f"Toxic: {r['asked']:.1%} of the continuations of all prompts that were asked, {r['kept']:.1%} of those "
            "kept (chosen by these same samples, so fresh ones will be less toxic).",
            f"{c['near_duplicates']} share a split with a near-duplicate. Kept at other shares: "
            + ", ".join(f"{share}: {n}" for share, n in self.kept_by_share.items()),
        )
        examples = Table(("prompt", "lead-in", "target"), shown)
        return Display(headline, (Table((), tuple(became)), examples), notes)

    def save(self, folder: str | Path) -> None:
        """Write `prompts.jsonl`, `benign.jsonl` and, last, `mining.json`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / PROMPTS, self.prompts.to_jsonl().encode())
        write_bytes(folder / BENIGN, self.benign.to_jsonl().encode())
        values = {name: dict(getattr(self, name)) for name in _TABLES}
        values["outputs"] = {name: sha256_file(folder / name) for name in (PROMPTS, BENIGN)}
        write_json(folder / DONE, {"sha256": digest_of(values), **values})

    @classmethod
    def load(cls, folder: str | Path) -> "Mined":
        """Read what `save` wrote.

        Raises:
            ToxmemError: a file is missing, damaged, or was changed since.
        """
        folder = Path(folder)
        values = read_json(folder / DONE)
        recorded = values.pop("sha256", None)
        values.pop("format_version", None)
        tables = record(_Tables, {name: values.get(name) for name in _TABLES}, folder / DONE)
        _check_unchanged(folder, values, recorded)
        some = any(line.strip() for line in read_lines(folder / BENIGN, "benign prompts"))
        return cls(
            prompts=PromptSet.read(folder / PROMPTS),
            benign=PromptSet.read(folder / BENIGN) if some else PromptSet(()),
            **{name: getattr(tables, name) for name in _TABLES},
        )


def _check_unchanged(folder: Path, values: dict[str, Any], recorded: str | None) -> None:
    """Hold the files of a mining against the hashes that were recorded."""
    outputs = values.get("outputs", {})
    if not isinstance(outputs, dict):
        raise ToxmemError(f"{folder / DONE} is damaged: outputs is no object")
    files = {name: folder / name for name in (PROMPTS, BENIGN) if name in outputs}
    lacking = [name for name, file in files.items() if not file.is_file()]
    if lacking:
        raise ToxmemError(
            f"{folder / lacking[0]} is missing: remove {folder / DONE} to make it anew"
        )
    changed = [name for name, file in files.items() if sha256_file(file) != outputs[name]]
    if recorded not in (None, digest_of(values)):
        changed.append(DONE)
    if changed:
        raise ToxmemError(
            f"{folder / changed[0]} was changed since it was made: remove {folder / DONE} to choose anew from the same "
            "samples"
        )
