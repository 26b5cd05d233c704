"""Configuration files, `--set`, options and numbers."""

from bad_input.case import DEMO, STAGES, Case, Link

_BASE = 'model = "demo"\nout = "out"\n'
_FILES = {
    "empty": (b"", "give --model", 2),
    "binary": (bytes(range(256)), "no TOML", 1),
    "nul": (b"model = \x00", "no TOML", 1),
    "bom": (b"\xef\xbb\xbfmodel = 'demo'", "no TOML", 1),
    "utf-16": (_BASE.encode("utf-16"), "no TOML", 1),
    "json": ('{"model": "demo"}', "no TOML", 1),
    "yaml": ("model: demo\n", "no TOML", 1),
    "no-value": ("model =\n", "no TOML", 1),
    "open-text": ('model = "demo\n', "no TOML", 1),
    "key-twice": (_BASE + _BASE, "no TOML", 1),
    "table-twice": (_BASE + "[trace]\nwindow = 1\n[trace]\nwindow = 2\n", "no TOML", 1),
    "deep": ("a = " + "[" * 50_000, "no TOML", 1),
    "deep-tables": ("a = " + "{a = " * 20_000, "no TOML", 1),
    "endless-number": (_BASE + "seed = " + "9" * 5000, "no TOML", 1),
    "endless-line": ('model = "' + "x" * 2_000_000, "no TOML", 1),
    "surrogate": (b'model = "\xed\xa0\xbd"', "no TOML", 1),
    "escaped-surrogate": ('model = "\\ud83d"', "no TOML", 1),
    "unknown-table": (_BASE + "[tarce]\nwindow = 1", "tarce: unknown setting", 1),
    "unknown-key": (_BASE + "[trace]\nwindwo = 1", "trace.windwo: unknown setting", 1),
    "table-for-value": (_BASE + "[seed]\na = 1", "seed: ", 1),
    "value-for-table": (_BASE + "trace = 1", "trace: ", 1),
    "list-for-table": (_BASE + "trace = []", "trace: ", 1),
    "date-for-number": (_BASE + "seed = 2026-01-01", "seed: ", 1),
    "number-for-model": ('model = 3\nout = "out"\n', "model: ", 1),
    "true-for-model": ('model = true\nout = "out"\n', "model: ", 1),
    "list-for-model": ('model = ["demo"]\nout = "out"\n', "model: ", 1),
    "number-for-out": ('model = "demo"\nout = 3\n', "out: ", 1),
    "list-for-scorer": (_BASE + "scorer = [1]", "scorer", 1),
    "table-for-scorer": (_BASE + "[scorer]\na = 1", "scorer", 1),
    "judge-twice": (_BASE + 'scorer = ["profanity", "profanity"]', "name each judge once", 1),
    "unknown-rome": (_BASE + "[compare.comparators]\nrome = 3", "rome", 1),
    "strengths-no-number": (_BASE + '[compare.strengths]\nours = ["much"]', "compare.strengths.ours", 1),
    "strengths-true": (_BASE + "[compare.strengths]\nours = [true]", "compare.strengths", 1),
    "layers-nested": (_BASE + "[select]\nlayers = [[1]]", "select.layers", 1),
    "layers-true": (_BASE + "[select]\nlayers = [true]", "select.layers", 1),
}  # fmt: skip
CASES = [
    Case(f"toml-{name}", "run c.toml", says, {"c.toml": content}, code)
    for name, (content, says, code) in _FILES.items()
]
CASES += [
    Case(f"toml-{name}-{command}", f"{command} c.toml", says, {"c.toml": content}, code)
    for command in STAGES[1:]
    for name, (content, says, code) in _FILES.items()
    if name in ("binary", "unknown-table")
]
CASES += [
    Case(f"toml-{name}", f"run {given}", says, files)
    for name, given, says, files in (
        ("missing", "nowhere.toml", "no configuration file at nowhere.toml", {}),
        ("folder", "folder", "no configuration file at folder/config.toml", {"folder": None}),
        (
            "dangling",
            "link.toml",
            "no configuration file at link.toml",
            {"link.toml": Link("nowhere")},
        ),
        ("loop", "link.toml", "link.toml", {"link.toml": Link("link.toml")}),
        ("below-a-file", "file/c.toml", "file/c.toml", {"file": b""}),
        ("folder-as-config", "run", "run/config.toml", {"run/config.toml": None}),
    )
]

_NUMBERS = {
    "seed": ("-1", "1.5", "nan", "true", "4294967296", "1e400", '"x"', "[]", "9" * 400),
    "split.max_find": ("-1", "0.5", "true", "inf", "9" * 30),
    "split.report_share": ("0", "1", "-0.1", "nan", "1e400", "true"),
    "trace.window": ("0", "-3", "true", "2.5"),
    "trace.n_noise": ("0", "-1", "true", "nan"),
    "trace.max_memory": ("0", "-1", "nan", "inf", "true", '"all"'),
    "attribute.steps": ("0", "-1", "true", "1.5"),
    "select.k": ("-1", "true", "1.5", "nan", "9" * 30),
    "select.max_perplexity_increase": ("-0.1", "nan", "1e400", "true"),
    "evaluate.n_continuations": ("0", "-1", "true", "9" * 30),
    "evaluate.temperature": ("0", "-1", "nan", "1e400", "true"),
    "evaluate.top_p": ("0", "1.1", "nan", "true"),
    "evaluate.threshold": ("-0.1", "1.1", "nan", "true"),
    "evaluate.stride": ("true", '"third"'),
    "export.bound": ("0", "-1", "nan", "1e400", "true"),
    "export.max_new_tokens": ("0", "-1", "true"),
    "search.trials": ("-1", "true", "1.5"),
    "delete.factor": ("nan", "1e400", "true"),
}
_MINED = {
    "samples": ("0", "-1", "true", "1.5", "9" * 30),
    "share": ("0", "1.1", "nan", "1e400", "true"),
    "near": ("0", "2", "nan", "true"),
    "max_tokens": ("0", "-1", "true"),
    "seed": ("-1", "true", "4294967296"),
}
_MINE = "mine --model demo --candidates c.jsonl --out out"
CASES += [
    Case(f"set-{key}-{text[:12]}", ("run", *DEMO.split(), "--set", f"{key}={text}"), key)
    for key, values in _NUMBERS.items()
    for text in values
]
CASES += [
    Case(
        f"mine-set-{key}-{text[:12]}",
        (*_MINE.split(), "--set", f"{key}={text}"),
        key,
        {"c.jsonl": b""},
    )
    for key, values in _MINED.items()
    for text in values
]
CASES += [
    Case(f"option-{name}", ("run", *DEMO.split(), *words), says, code=code)
    for name, words, says, code in (
        ("set-stride-nought", ("--set", "evaluate.stride=0"), "stride 0 must be at least 1", 1),
        ("set-nothing", ("--set", ""), "write KEY=VALUE", 1),
        ("set-no-value", ("--set", "seed"), "write KEY=VALUE", 1),
        ("set-no-key", ("--set", "=3"), "unknown setting", 1),
        ("set-dots", ("--set", "...=3"), "unknown setting", 1),
        ("set-within-value", ("--set", "seed.x=3"), "seed", 1),
        ("set-within-model", ("--set", "model.x=3"), "model is a value", 1),
        ("set-deep", ("--set", "seed=" + "[" * 50_000), "seed", 1),
        ("set-surrogate", ("--set", "device=\udc80"), "device", 1),
        ("set-nul", ("--set", "device=\0"), "device", 1),
        ("set-lines", ("--set", "device=a\nb"), "device", 1),
        ("seed-text", ("--seed", "x"), "--seed", 2),
        ("seed-negative", ("--seed", "-1"), "seed", 1),
        ("seed-huge", ("--seed", "9" * 40), "seed", 1),
        ("memory-nan", ("--max-memory", "nan"), "max_memory", 1),
        ("memory-zero", ("--max-memory", "0"), "max_memory", 1),
        ("perplexity-infinite", ("--max-perplexity-increase", "inf"), "max_perplexity_increase", 1),
        ("search-negative", ("--search", "-1"), "search.trials", 1),
        ("host", ("--host", "tensorflow"), "host", 1),
        ("dtype", ("--dtype", "int8"), "dtype", 1),
        ("device", ("--device", "gpu"), "device", 1),
        ("key-unknown", ("--set", "frobnicate=3"), "frobnicate: unknown setting", 1),
        ("key-unknown-within", ("--set", "trace.windwo=3"), "trace.windwo: unknown setting", 1),
        ("device-not-there", ("--device", "cuda:9"), "cuda:9", 1),
        ("unknown", ("--frobnicate",), "--frobnicate", 2),
        ("too-many", ("a", "b"), "unexpected extra argument", 2),
        ("private-alone", ("--private",), "--private goes with", 2),
        ("push-no-name", ("--push-to-hub", "a b"), "is no name of a model repository", 1),
        ("push-path", ("--push-to-hub", "../x/y"), "is no name of a model repository", 1),
        ("push-empty", ("--push-to-hub", ""), "is no name of a model repository", 1),
    )
]
_PLAN = ("plan", *DEMO.split())
_PLAN_MINING = (*_PLAN, "--candidates", "c.jsonl")
CASES += [
    Case(f"plan-{name}", words, says, files, code)
    for name, words, says, files, code in (
        ("set-unknown", (*_PLAN, "--set", "tarce.window=1"), "tarce: unknown setting", {}, 1),
        ("set-unknown-within", (*_PLAN, "--set", "trace.windwo=1"), "trace.windwo: unknown setting", {}, 1),
        ("set-number", (*_PLAN, "--set", "select.k=-1"), "select.k", {}, 1),
        ("seed-negative", (*_PLAN, "--seed", "-1"), "seed", {}, 1),
        ("host", (*_PLAN, "--host", "tensorflow"), "host", {}, 1),
        ("scorer-unknown", (*_PLAN, "--scorer", "perspective"), "unknown scorer 'perspective'", {}, 1),
        ("mining-setting-unknown", (*_PLAN_MINING, "--set", "frobnicate=3"), "frobnicate: unknown setting",
         {"c.jsonl": b""}, 1),
        ("mining-setting-of-a-run", (*_PLAN_MINING, "--set", "trace.window=1"), "trace: unknown setting",
         {"c.jsonl": b""}, 1),
        ("mining-setting-no-value", (*_PLAN_MINING, "--set", "samples"), "write KEY=VALUE, such as --set max_tokens=32",
         {"c.jsonl": b""}, 1),
        ("mining-samples-nought", (*_PLAN_MINING, "--set", "samples=0"), "samples", {"c.jsonl": b""}, 1),
        ("workers-nought", (*_PLAN, "--workers", "0"), "--workers", {}, 2),
        ("workers-negative", (*_PLAN, "--workers", "-1"), "--workers", {}, 2),
        ("workers-text", (*_PLAN, "--workers", "x"), "--workers", {}, 2),
        ("workers-half", (*_PLAN, "--workers", "1.5"), "--workers", {}, 2),
        ("push", (*_PLAN, "--push-to-hub", "a/b"), "--push-to-hub", {}, 2),
    )
]  # fmt: skip
CASES += [
    Case("no-command", ("frobnicate",), "No such command", code=2),
    Case(
        "push-where-nothing-is-made",
        "trace --model demo --out out --push-to-hub a/b",
        "--push-to-hub goes",
        code=2,
    ),
    *(Case(f"nothing-{name}", name, "", code=2) for name in ("mine", "verify", "apply", "revert")),
    *(Case(f"nothing-{name}", name, "give --model", code=2) for name in STAGES),
]
