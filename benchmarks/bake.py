"""Time and memory of applying a deletion file to file, and reverting it, against loading, editing and saving a model.

    python benchmarks/bake.py FOLDER [--out TEMPORARY_FOLDER]

Each step is a process of its own. `peak` is its largest resident size, mapped files included; `anonymous` is the
largest size without them, of which importing torch and transformers is the part that `imports` shows. Three laws: 500
neurons anywhere set to zero, their input gains halved, and a rank-one change of every layer's whole output matrix,
which overwrites too much to be kept in the delta. Both ways must give the same bits, and reverting the original file's.
Needs three times the checkpoint's size on disk.
"""

import argparse
import filecmp
import json
import shutil
import tempfile
import time
from pathlib import Path

from common import child, random_neurons, show, warm

LAWS = ("zero", "input gain", "low rank")
STEPS = ("imports", "load, bake, save_pretrained", "apply", "revert")


def main() -> None:
    """Measure every step of every law and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--law", choices=LAWS, help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(measure(args)))  # noqa: T201 - read by the parent
        return
    warm(args.folder)
    rows = []
    for law in LAWS:
        out = Path(tempfile.mkdtemp(dir=args.out))
        for step in STEPS:
            found = child(str(args.folder), "--out", str(out), "--law", law, "--step", step)
            if "failed" in found:
                rows.append([law, step, found["failed"], "", ""])
                continue
            sizes = [f"{found[name]:.2f}" for name in ("peak", "anonymous")]
            rows.append([law, step, f"{found['seconds']:.1f}", *sizes])
        same = {
            "apply = in memory": all_equal(out / "saved", out / "applied"),
            "reverted = original": all_equal(args.folder, out / "reverted"),
        }
        delta = (out / "applied" / "deletion.safetensors").stat().st_size / 1e6
        rows.append([law, f"delta {delta:.1f} MB; bitwise: {same}", "", "", ""])
        shutil.rmtree(out)
    show(str(args.folder), ["law", "step", "seconds", "peak GB", "anonymous GB"], rows)


def all_equal(first: Path, second: Path) -> bool:
    """Whether all weight files of the first are in the second, byte for byte."""
    files = list(first.glob("*.safetensors"))
    return bool(files) and all(
        filecmp.cmp(file, second / file.name, shallow=False)
        for file in files
        if file.name != "deletion.safetensors"
    )


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One step of one law."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from tl_toxmem import bake, bake_checkpoint, revert_checkpoint

    deletion = make(args.law, AutoConfig.from_pretrained(args.folder))
    start = time.perf_counter()
    if args.step == "load, bake, save_pretrained":
        hf = AutoModelForCausalLM.from_pretrained(args.folder, dtype="auto")
        bake(hf, deletion)
        hf.save_pretrained(args.out / "saved")
    elif args.step == "apply":
        bake_checkpoint(args.folder, args.out / "applied", deletion)
    elif args.step == "revert":
        applied = args.out / "applied"
        base = args.folder if args.law == "low rank" else None
        delta = applied / "deletion.safetensors"
        revert_checkpoint(delta, applied, args.out / "reverted", base=base)
    return {"seconds": time.perf_counter() - start}


def make(law: str, config: object) -> object:
    """The deletion."""
    import torch

    from tl_toxmem import Deletion

    n_layers, d_model = config.num_hidden_layers, config.hidden_size
    d_mlp = (
        getattr(config, "intermediate_size", None)
        or getattr(config, "n_inner", None)
        or 4 * d_model
    )
    neurons = random_neurons(n_layers, d_mlp, 500)
    if law == "zero":
        return Deletion.zero(neurons)
    if law == "input gain":
        return Deletion.input_gain(neurons, 0.5)
    draw = torch.Generator().manual_seed(0)
    updates = {
        layer: (
            torch.randn(d_mlp, 1, generator=draw),
            0.01 * torch.randn(1, d_model, generator=draw),
        )
        for layer in range(n_layers)
    }
    return Deletion.low_rank(updates, n_layers=n_layers)


if __name__ == "__main__":
    main()
