"""What `mine` reads: JSONL, CSV, TSV, the folder, the judge."""

from bad_input.case import Case, Link

_MINE = "mine --model demo --out out --candidates"
_FILES = {
    "c.jsonl": {
        "empty": (b"", "has no candidates"),
        "blank": (b"\n \n", "has no candidates"),
        "no-json": ("the town", "line 1: no JSON"),
        "nul": (b"\0", "line 1: no JSON"),
        "deep": ("[" * 100_000, "line 1: no JSON"),
        "endless-number": ("9" * 5000, "line 1: no JSON"),
        "endless-line": ('{"prompt": "' + "x" * 5_000_000, "line 1: no JSON"),
        "list": ("[1]", "a JSON list, not an object"),
        "other-field": ('{"text": "a"}', "no column 'prompt'; it has text"),
        "key-twice": ('{"prompt": "a", "prompt": "b"}', "'prompt' twice"),
        "number": ('{"prompt": 3}', "neither text nor an object with text"),
        "true": ('{"prompt": true}', "neither text nor an object with text"),
        "list-of-texts": ('{"prompt": ["a"]}', "neither text nor an object with text"),
        "object-without-text": ('{"prompt": {"toxicity": 0.1}}', "has no text"),
        "object-with-number": ('{"prompt": {"text": 3}}', "neither text nor an object with text"),
        "score-text": ('{"prompt": {"text": "a", "toxicity": "low"}}', "is no number"),
        "score-nan": ('{"prompt": {"text": "a", "toxicity": NaN}}', "is no number"),
        "score-infinite": ('{"prompt": {"text": "a", "toxicity": 1e400}}', "is no number"),
        "score-true": ('{"prompt": {"text": "a", "toxicity": true}}', "is no number"),
        "score-huge": ('{"prompt": "a", "prompt_toxicity": ' + "9" * 299 + "}", ""),
        "score-list": ('{"prompt": "a", "prompt_toxicity": [1]}', "is no number"),
        "score-object": ('{"prompt": "a", "prompt_toxicity": {"a": 1}}', "is no number"),
        "utf-16": ('{"prompt": "a"}'.encode("utf-16"), "line 1: no JSON"),
    },
    "c.csv": {
        "empty": (b"", "has no candidates"),
        "head-alone": (b"prompt\n", "has no candidates"),
        "other-column": (b"text\na\n", "no column 'prompt'; it has text"),
        "more-fields": (b"prompt\na,b\n", "line 2: more fields than the header names"),
        "open-quote": (b'prompt\n"a', "no CSV"),
        "quote-within": (b'prompt\n"a"b\n', "no CSV"),
        "endless-field": (b"prompt\n" + b"x" * (2**24 + 2) + b"\n", "no CSV"),
        "score-text": (b"prompt,prompt_toxicity\na,low\n", "is no number"),
        "score-nan": (b"prompt,prompt_toxicity\na,nan\n", "is no number"),
        "binary": (bytes(range(14, 256)), "has no candidates"),
        "column-twice": (b"prompt,prompt\na,b\n", "'prompt' twice"),
    },
    "c.tsv": {
        "commas": (b"id,prompt\n1,a\n", "no column 'prompt'; it has id,prompt"),
        "more-fields": (b"prompt\na\tb\n", "line 2: more fields"),
    },
}  # fmt: skip
CASES = [
    Case(f"mine-{file[2:]}-{name}", f"{_MINE} {file}", says, {file: content})
    for file, some in _FILES.items()
    for name, (content, says) in some.items()
    if name != "score-huge"
]
_PLAN = "plan --model demo --out out --candidates"
CASES += [
    Case(f"plan-{file[2:]}-{name}", f"{_PLAN} {file}", says, {file: content})
    for file, some in _FILES.items()
    for name, (content, says) in some.items()
    if name in ("empty", "deep", "other-field", "other-column", "open-quote", "commas")
]
CASES += [
    Case(f"{command}-{name}", f"{words} {given}", says, files)
    for command, words in (("mine", _MINE), ("plan", _PLAN))
    for name, given, says, files in (
        ("missing", "nowhere.csv", "no candidates file at nowhere.csv", {}),
        ("folder", "c.csv", "no candidates file at c.csv", {"c.csv": None}),
        ("dangling", "c.csv", "no candidates file at c.csv", {"c.csv": Link("nowhere")}),
        ("loop", "c.csv", "c.csv", {"c.csv": Link("c.csv")}),
        ("format", "c.parquet", "unknown format", {"c.parquet": b""}),
        ("no-format", "c", "unknown format", {"c": b""}),
        ("hub-without-revision", "hub:a/b", "name a dataset with its revision", {}),
        ("hub-without-name", "hub:@main", "name a dataset with its revision", {}),
        ("hub-nothing", "hub:", "name a dataset with its revision", {}),
    )
]
_ONE = {"c.jsonl": '{"prompt": "the town"}'}
CASES += [
    Case(f"mine-{name}", f"mine --candidates c.jsonl {given}", says, {**_ONE, **files})
    for name, given, says, files in (
        ("out-is-a-file", "--model demo --out out", "out", {"out": b"x"}),
        ("out-has-other-things", "--model demo --out out", "out", {"out/x": b"x"}),
        ("scorer-unknown", "--model demo --out out --scorer perspective", "unknown scorer", {}),
        (
            "scorer-missing",
            "--model demo --out out --scorer detoxify:x.ckpt",
            "no Detoxify checkpoint",
            {},
        ),
        (
            "scorer-no-folder",
            "--model demo --out out --scorer hf:./nowhere",
            "no model folder at ./nowhere",
            {},
        ),
        (
            "model-missing",
            "--model ./nowhere --scorer profanity --out out",
            "no model folder at ./nowhere",
            {},
        ),
        (
            "model-a-file",
            "--model ./m --scorer profanity --out out",
            "no model folder at ./m",
            {"m": b""},
        ),
        ("dtype", "--model demo --out out --dtype float8", "dtype", {}),
        ("device", "--model demo --out out --device ''", "device", {}),
    )
]
