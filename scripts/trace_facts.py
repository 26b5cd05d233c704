"""Where a model recalls facts: ROME's picture (effect by token and layer, MLP and attention) on any model.

    python scripts/trace_facts.py MODEL known_1000.json OUT [--n 100] [--n-noise 10]

Takes facts (a JSON list of objects with prompt, subject and attribute, as ROME published them) in order of their hash
and keeps the first `--n` whose attribute's first token the model predicts. Writes the trace and its figures into OUT
and prints what the docs quote. A stopped run goes on where it was.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

FIGURES = ("classes", "layers", "severed", "shares")


def main() -> None:
    """Trace the facts and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("facts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--n-noise", type=int, default=10)
    parser.add_argument("--host", default="auto")
    args = parser.parse_args()

    from tl_toxmem import LensModel, Prompt, PromptSet, causal_trace
    from tl_toxmem.config import TraceConfig

    model = LensModel.from_pretrained(args.model, host=args.host)
    facts = [
        Prompt(prompt=f["prompt"].rstrip(), target=f" {f['attribute']}", subject=f["subject"])
        for f in json.loads(args.facts.read_text(encoding="utf-8"))
    ]
    unique = {fact.prompt: fact for fact in facts}
    known = _known(model, sorted(unique.values(), key=lambda fact: fact.hash), args.n)
    cfg = TraceConfig(n_noise=args.n_noise, metric="prob", metrics=("log_prob", "kl"))
    trace = causal_trace(model, PromptSet.of(known), cfg=cfg, resume=args.out / "parts")
    args.out.mkdir(parents=True, exist_ok=True)
    trace.save(args.out / "trace.safetensors")
    for name in FIGURES:
        trace.plot(name).write_html(args.out / f"{name}.html")
    total = trace.total_effect.mean()
    print(f"{len(known)} facts, total effect {total:.3f} (probability)")  # noqa: T201
    frame = trace.by_class()
    best = frame.loc[frame.groupby(["site", "token_class"]).value.idxmax()]
    print(best.to_string(index=False))  # noqa: T201
    print(trace.shares().to_string(index=False))  # noqa: T201
    print(trace.answer().text)  # noqa: T201


def _known(model, facts, n):  # type: ignore[no-untyped-def]
    """The first `n` whose target's first token is the model's own first choice."""
    from tl_toxmem import PromptSet, ToxmemError
    from tl_toxmem.tokens import align

    found = []
    for fact in facts:
        try:
            item = align(model, PromptSet.of([fact]))[0]
        except ToxmemError as error:
            print(f"left out: {error}")  # noqa: T201
            continue
        tokens, mask = model.pad([item.tokens])
        if int(model.forward(tokens, mask, keep=1)[0, -1].argmax()) == item.target[0]:
            found.append(fact)
        if len(found) == n:
            return found
    raise SystemExit(f"the model predicts only {len(found)} of the facts, not {n}")


if __name__ == "__main__":
    main()
