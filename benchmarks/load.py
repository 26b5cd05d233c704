"""Load time and memory of a checkpoint on each host, against plain transformers and TransformerLens's own loading.

    python benchmarks/load.py FOLDER [--dtype bfloat16] [--skip-own]

Every way runs in a process of its own, from a warm file, and ends with a forward pass of 11 x 12 tokens. Peak is the
largest resident size of the process, with the mapped file; anonymous is the part that cannot be dropped under
pressure, of which `imports` is what Python, torch and the libraries take. In another precision than the checkpoint's, a
copy in that precision is made first. TransformerLens's own loading takes twice the memory on HookedTransformer; it is
left out with --skip-own.
"""

import json
import statistics
import time
from typing import Any

from common import HOSTS, OWN, child, in_precision, lens_own, parser_of, show

IMPORTS, PLAIN = "imports", "plain transformers"


def main() -> None:
    """Measure every way in turn and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--skip-own", action="store_true")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.folder, args.dtype, args.way)))  # noqa: T201 - read by the parent
        return
    ways = [IMPORTS, PLAIN, *HOSTS, *([] if args.skip_own else [OWN + host for host in HOSTS])]
    rows = []
    with in_precision(args.folder, args.dtype) as folder:
        for way in ways:
            command = (str(folder), "--dtype", args.dtype, "--way", way)
            runs = [child(*command) for _ in range(args.repeats)]
            failed = [run["failed"] for run in runs if "failed" in run]
            if failed:
                rows.append([way, failed[0], "", ""])
                continue
            seconds = statistics.median(run["seconds"] for run in runs)
            sizes = [f"{max(run[name] for run in runs):.2f}" for name in ("peak", "anonymous")]
            rows.append([way, f"{seconds:.1f}", *sizes])
    show(args.dtype, ["way", "load s", "peak GB", "anonymous GB"], rows)


def measure(folder: str, dtype: str, way: str) -> dict[str, float]:
    """Load one way and run it once."""
    import torch

    from tl_toxmem import LensModel

    tokens = torch.arange(11 * 12).reshape(11, -1) * 37 % 5000
    mask = torch.ones_like(tokens)
    model: Any = None
    start = time.perf_counter()
    if way == PLAIN:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    elif way.startswith(OWN):
        model = lens_own(folder, way.removeprefix(OWN), dtype)
    elif way != IMPORTS:
        wrapped = LensModel.from_pretrained(folder, host=way, dtype=getattr(torch, dtype))
        model = wrapped.host.raw
    seconds = time.perf_counter() - start
    if model is not None:
        with torch.no_grad():
            model(tokens, attention_mask=mask)
    return {"seconds": seconds}


if __name__ == "__main__":
    main()
