"""Memory, load time and forward time of a checkpoint on each host, against plain transformers.

    python benchmarks/load.py FOLDER [--dtype float32] [--rows 11] [--tokens 12] [--repeats 5]

Every way of loading runs in a process of its own; peak is the largest resident size of that process, mapped file
included. The forward has a hook on `mlp.hook_post` of every layer (`hooks` column) or none. The weights are read once
before, so that load times are from a warm file. `hooked, TransformerLens's own` is HookedTransformer's ordinary
unprocessed loading, which copies; it is left out with --skip-own, as it needs twice the memory.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

WAYS = ("plain transformers", "hooked", "bridge", "hooked, TransformerLens's own")


def main() -> None:
    """Measure every way in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rows", type=int, default=11)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-own", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args)))  # noqa: T201 - read by the parent
        return
    from rich.console import Console
    from rich.table import Table

    for file in Path(args.folder).glob("*.safetensors"):  # into the page cache
        with open(file, "rb") as stream:
            while stream.read(1 << 24):
                pass
    table = Table(
        "way",
        "load s",
        "peak GB",
        f"forward s, {args.rows} x {args.tokens}",
        "with hooks",
        "x plain",
    )
    base = 0.0
    for way in WAYS[: -1 if args.skip_own else None]:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1:] or [f"killed ({done.returncode})"]
            table.add_row(way, reason[0][:60], "", "", "", "")
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        base = base or found["forward"]
        table.add_row(
            way,
            f"{found['load']:.1f}",
            f"{found['peak']:.2f}",
            f"{found['forward']:.2f}",
            f"{found['hooks']:.2f}" if found["hooks"] else "",
            f"{(found['hooks'] or found['forward']) / base:.2f}",
        )
    Console(width=110).print(table)


def measure(args: argparse.Namespace) -> dict[str, float | None]:
    """Load one way and time its forward, without and with hooks; seconds and GB."""
    import torch

    import tl_toxmem.model  # noqa: F401 - imports are not loading

    dtype = getattr(torch, args.dtype)
    start = time.perf_counter()
    tokens = torch.arange(args.rows * args.tokens).reshape(args.rows, -1) * 37 % 5000
    mask = torch.ones_like(tokens)
    hooked_forward = None
    if args.way == "plain transformers":
        from transformers import AutoModelForCausalLM

        hf = AutoModelForCausalLM.from_pretrained(args.folder, dtype=dtype).eval()
        forward = lambda: hf(tokens, attention_mask=mask).logits  # noqa: E731
    elif args.way == "hooked, TransformerLens's own":
        from transformer_lens import HookedTransformer
        from transformer_lens import loading_from_pretrained as loading

        cfg = loading.get_pretrained_model_config(
            args.folder, fold_ln=False, device="cpu", dtype=dtype
        )
        state = loading.get_pretrained_state_dict(args.folder, cfg, None, dtype=dtype)
        raw = HookedTransformer(cfg, None, move_to_device=False)
        raw.load_and_process_state_dict(
            state,
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
        forward = lambda: raw(tokens, attention_mask=mask)  # noqa: E731
    else:
        from tl_toxmem import LensModel

        model = LensModel.from_pretrained(args.folder, host=args.way, dtype=dtype)
        forward = lambda: model.forward(tokens, mask)  # noqa: E731
        hooks = [("mlp_post", layer, lambda a: a * 1) for layer in range(model.n_layers)]

        def hooked_forward() -> torch.Tensor:
            with model.hooks(hooks):
                return model.forward(tokens, mask)

    load = time.perf_counter() - start
    with torch.no_grad():
        plain = timed(forward, args.repeats)
        with_hooks = timed(hooked_forward, args.repeats) if hooked_forward else None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"load": load, "peak": peak, "forward": plain, "hooks": with_hooks}


def timed(run, repeats: int) -> float:
    """Median seconds, after one call that is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
