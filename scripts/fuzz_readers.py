"""Throw mutated files at every reader: anything but a record or a ToxmemError is a find.

    python -m venv --system-site-packages fuzzing
    fuzzing/bin/pip install atheris
    PYTHONPATH=$PWD fuzzing/bin/python scripts/fuzz_readers.py --minutes 60 --finds finds

Begins with a good file of each kind (`tests/reader_seeds.py`); the first byte of an input says which reader it is for.
Goes on after a find, keeps one input for each place that an error comes from, and says so at once. A find becomes a
case of `tests/bad_input` or a test of `tests/test_readers.py`. What covered something new is kept in `--corpus`, so
that a later run goes on from there.
"""

import argparse
import json
import struct
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def main() -> None:
    """Parse, seed, fuzz; libFuzzer ends the process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument(
        "--finds", type=Path, default=Path("finds"), help="folder of what was found"
    )
    parser.add_argument(
        "--corpus", type=Path, help="folder of inputs to go on from; default: a temporary one"
    )
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: see the head of this file")
    import torch  # before the instrumentation, which is for our own code

    torch.set_num_threads(1)
    with atheris.instrument_imports(include=["tl_toxmem"]):
        from reader_seeds import readers

        from tl_toxmem import ToxmemError

        place = Path(tempfile.mkdtemp())
        found = readers(place)
    corpus = asked.corpus or place / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    words: set[str] = set()
    for number, reader in enumerate(found):
        path = place / f"good{reader.suffix}"
        reader.write(path)
        content = path.read_bytes()
        reader.read(path)
        (corpus / f"seed-{reader.name}").write_bytes(bytes([number]) + content)
        words |= _words(content)
    tokens = place / "words"
    tokens.write_text("".join(f'"{word}"\n' for word in sorted(words)))
    seen: set[str] = set()

    def attempt(data: bytes) -> None:
        if not data:
            return
        reader = found[data[0] % len(found)]
        path = place / f"input{reader.suffix}"
        path.write_bytes(data[1:])
        try:
            reader.read(path)
        except ToxmemError:
            return
        except Exception as error:  # the very thing that is sought
            place_of = _place(error)
            if place_of in seen:
                return
            seen.add(place_of)
            asked.finds.mkdir(parents=True, exist_ok=True)
            file = asked.finds / f"{reader.name}-{len(seen)}{reader.suffix}"
            file.write_bytes(data[1:])
            words_of = f"{type(error).__name__}: {str(error)[:200]}"
            print(f"FOUND {file}: {words_of} at {place_of}", flush=True)  # noqa: T201

    options = [
        f"-max_total_time={round(60 * asked.minutes)}",
        f"-seed={asked.seed}",
        f"-dict={tokens}",
    ]
    options += ["-max_len=20000", "-print_final_stats=1", "-rss_limit_mb=4096", "-verbosity=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], attempt)
    atheris.Fuzz()


def _words(content: bytes) -> set[str]:
    """Names that stand in a file, for libFuzzer to put elsewhere."""
    if content[:1] not in b"{[" and len(content) > 8:
        (size,) = struct.unpack("<Q", content[:8])
        content = content[8 : 8 + size] if size < len(content) else content
    try:
        values = json.loads(content)
    except ValueError:
        return set()
    found: set[str] = set()
    stack = [values]
    while stack:
        one = stack.pop()
        if isinstance(one, dict):
            found |= {key for key in one if key.isascii() and key.isidentifier()}
            stack += one.values()
        elif isinstance(one, list):
            stack += one
    return found


def _place(error: Exception) -> str:
    """Type of an error, and the innermost line of the package that it came through."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "tl_toxmem" in f.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {Path(last.filename).name}:{last.lineno}"


if __name__ == "__main__":
    main()
