"""Mining: innocuous prompts that a model continues toxically, each with the onset of what is toxic.

candidates -> what can be asked -> innocuous to the judge -> k samples -> toxic in a share of them -> onset
           -> splits in which near-duplicates stay together -> neutral targets -> benign matches

Every step goes by the texts and never by their order, and what model and judge say is kept in the folder as it comes
in.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tl_toxmem.certify import library_versions
from tl_toxmem.config import shown_name
from tl_toxmem.config.mine import MineConfig
from tl_toxmem.errors import ToxmemError
from tl_toxmem.locking import one_writer
from tl_toxmem.mining.candidates import Candidate, Candidates, read_candidates
from tl_toxmem.mining.choosing import choose
from tl_toxmem.mining.matching import match_benign
from tl_toxmem.mining.parts import Parts, check_folder, open_folder
from tl_toxmem.mining.prompting import make_prompt
from tl_toxmem.mining.record import Mined
from tl_toxmem.mining.sampling import sample
from tl_toxmem.mining.screening import REASONS, Asked, screen, told
from tl_toxmem.model import LensModel
from tl_toxmem.model.load import fingerprint
from tl_toxmem.precision import precision_name
from tl_toxmem.prompts import PromptSet
from tl_toxmem.scorers import CachedScorer, ToxicityScorer, judged
from tl_toxmem.store import CACHE

Announce = Callable[[str], object]
_OF_SAMPLES = {"samples", "max_new_tokens", "temperature", "top_p", "top_k", "batch_size", "seed"}
_OF_PARTS = ("model", "scorer", "sampling", "versions")


def mine(
    model: LensModel,
    candidates: Candidates | Sequence[str | Candidate] | str | Path,
    *,
    scorer: ToxicityScorer,
    cfg: MineConfig | None = None,
    folder: str | Path | None = None,
    announce: Announce = str,
) -> Mined:
    """Keep the candidates that are innocuous and that the model continues toxically.

    Args:
        model: any host; hooks that are attached act (and want a folder of their own).
        candidates: texts, a file or dataset as for `read_candidates`, or what that gave.
        scorer: judges prompts, continuations and their beginnings.
        cfg: sampling, thresholds, split.
        folder: where the outputs go, and what is done; a mining that was stopped goes on there, with a judge whose
            provenance has the SHA-256 of its weights. None: nothing is written.
        announce: called with the name of each step as it begins.

    Raises:
        ToxmemError: candidates that cannot be read or asked, a judge that calls none innocuous or nothing toxic, too
            few prompts for a split, a folder of other settings, or one that another process writes to.
    """
    cfg = cfg or MineConfig()
    if not isinstance(scorer, ToxicityScorer):
        raise ToxmemError(f"scorer is {scorer!r}: give a judge, such as load_scorer('profanity')")
    if isinstance(candidates, str | Path):
        candidates = read_candidates(candidates)
    elif not isinstance(candidates, Candidates):
        candidates = Candidates.of(candidates)
    asked, drops = screen(model, candidates, cfg=cfg)
    scorer.score(["ready"])  # one that has to be downloaded and cannot be is known now
    settings = _settings(model, candidates, scorer=scorer, cfg=cfg)
    if folder is None:
        return _mine(
            model, asked, drops, settings, scorer=scorer, cfg=cfg, folder=None, announce=announce
        )
    if settings["model"]["sha256"] is None:
        raise ToxmemError(
            "mining into a folder needs a model that was loaded from a checkpoint, so that another one is not taken "
            "for it: use LensModel.from_pretrained(FOLDER), or give no folder"
        )
    folder = Path(folder)
    check_folder(folder)
    with one_writer(folder):
        if open_folder(folder, {name: settings[name] for name in _OF_PARTS}, settings):
            announce(f"nothing was to be done: {folder} has the outcome of these very settings")
        else:
            kept: dict[str, Any] = {
                "scorer": CachedScorer(scorer, folder / CACHE),
                "folder": folder,
            }
            _mine(model, asked, drops, settings, **kept, cfg=cfg, announce=announce).save(folder)
        return Mined.load(folder)


def _mine(
    model: LensModel,
    asked: Sequence[Asked],
    drops: Counter[str],
    settings: dict[str, Any],
    *,
    scorer: ToxicityScorer,
    cfg: MineConfig,
    folder: Path | None,
    announce: Announce,
) -> Mined:
    """All steps after the screening."""
    announce("judge the candidates")
    given = judged(scorer, [one.text for one in asked]).tolist()
    scores = {one.text: score for one, score in zip(asked, given, strict=True)}
    innocuous = [one for one in asked if _is_innocuous(one, scores[one.text], cfg)]
    drops["not innocuous"] = len(asked) - len(innocuous)
    if not innocuous:
        raise ToxmemError(
            f"none of the {len(asked)} candidates is innocuous (below innocuous = {cfg.innocuous:g}) to {scorer.name} "
            f"and by the scores that they bring (dropped: {told(drops)}): give other candidates, or another scorer"
        )
    announce(f"sample {cfg.samples} continuations of {len(innocuous)} innocuous prompts")
    sampled = Parts(folder, "sampled")
    texts = [one.text for one in innocuous]
    said = sample(model, texts, scorer=scorer, cfg=cfg, parts=sampled, description="continuations")
    announce("find the onsets of what is toxic")
    choice = choose(model, innocuous, said, scorer=scorer, cfg=cfg, drops=drops)
    announce(f"sample neutral targets for {len(choice.kept)} prompts")
    starts = [one.text + choice.onsets[one.text].lead_in for one in choice.kept]
    after = sample(
        model, starts, scorer=scorer, cfg=cfg, parts=sampled, description="neutral targets"
    )
    prompts = [
        make_prompt(
            model,
            one,
            choice.onsets[one.text],
            after=following,
            scores={"prompt": scores[one.text], "toxic_share": choice.share[one.text]},
            split=choice.splits[one.text],
            cfg=cfg,
        )
        for one, following in zip(choice.kept, after, strict=True)
    ]
    announce("match benign prompts")
    benign, lacking = match_benign(
        model, choice, scorer=scorer, cfg=cfg, parts=Parts(folder, "greedy")
    )
    drops["not toxic enough"] = len(said) - choice.n_enough
    drops["no usable onset"] = choice.n_enough - len(choice.kept)
    return Mined(
        prompts=PromptSet.of(sorted(prompts, key=lambda prompt: prompt.hash)),
        benign=benign,
        drops={reason: drops[reason] for reason in REASONS},
        counts={
            "candidates": len(choice.kept) + drops.total(),
            "asked": len(said),
            "with_any_toxic": sum(value > 0 for value in choice.share.values()),
            **choice.n_split(),
            "near_duplicates": choice.n_near,
            "benign": len(benign),
            "unmatched": lacking,
        },
        rates=choice.rates(),
        kept_by_share=choice.kept_by_share(cfg.share),
        settings=settings,
    )


def _is_innocuous(one: Asked, score: float, cfg: MineConfig) -> bool:
    published = one.candidate.published
    return score < cfg.innocuous and (published is None or published < cfg.innocuous)


def _settings(
    model: LensModel, candidates: Candidates, *, scorer: ToxicityScorer, cfg: MineConfig
) -> dict[str, Any]:
    """What the outcome depends on; candidates by their content, wherever they lie."""
    config = cfg.model_dump(mode="json")
    return {
        "model": {
            "name": shown_name(model.name),
            "sha256": None if model.source is None else fingerprint(model.source),
            "host": model.host.kind,
            "dtype": precision_name(model.dtype),
            "prepend_bos": model.prepend_bos,
        },
        "scorer": scorer.provenance(),
        "sampling": {name: config[name] for name in config if name in _OF_SAMPLES},
        "versions": library_versions(),
        "candidates": candidates.sha256(),
        "config": config,
    }
