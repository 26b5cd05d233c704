"""Prompts, benign prompts, labelled and neutral text."""

import json

from bad_input.case import DEMO, STAGES, Case, Link

GOOD = {"prompt": "Bob Hill is a", "target": " fool", "subject": "Bob"}
_LINE = json.dumps(GOOD)
_SURROGATE = '{"prompt": "a \\ud83d", "target": " x"}'
_DEEP = "[" * 100_000
_DIGITS = "9" * 5000

_PROMPTS = {
    "empty": (b"", "has no prompts"),
    "blank-lines": (b"\n \n\t\n", "has no prompts"),
    "binary": (bytes(range(256)), "no UTF-8"),
    "random-bytes": (b"\x93\x00\xff\xfe" * 99, "no UTF-8"),
    "nul": (b"\x00", "line 1: no JSON"),
    "nuls-within": (b'{"prompt"\x00: "a"}', "line 1: no JSON"),
    "bom-only": (b"\xef\xbb\xbf", "has no prompts"),
    "two-boms": (b"\xef\xbb\xbf\xef\xbb\xbf" + _LINE.encode(), "line 1: no JSON"),
    "utf-16": (_LINE.encode("utf-16"), "no UTF-8"),
    "utf-32": (_LINE.encode("utf-32"), "no UTF-8"),
    "latin-1": ('{"prompt": "ü", "target": "x"}'.encode("latin-1"), "no UTF-8"),
    "raw-surrogate": (b'{"prompt": "\xed\xa0\xbd", "target": "x"}', "no UTF-8"),
    "overlong": (b'{"prompt": "\xc0\xaf", "target": "x"}', "no UTF-8"),
    "escaped-surrogate": (_SURROGATE, "half of a surrogate pair"),
    "surrogate-in-id": ('{"prompt": "a", "target": "b", "id": "\\udc00"}', "half of a surrogate"),
    "surrogate-in-scores": (
        '{"prompt": "a", "target": "b", "scores": {"\\udc00": 1}}', "half of a surrogate"),
    "surrogate-key": ('{"prompt": "a", "target": "b", "\\udc00": 1}', "unknown key"),
    "no-json": ("prompt,target\na,b\n", "line 1: no JSON"),
    "python": ("{'prompt': 'a', 'target': 'b'}", "line 1: no JSON"),
    "open-brace": ("{", "line 1: no JSON"),
    "trailing-comma": ('{"prompt": "a", "target": "b",}', "line 1: no JSON"),
    "two-on-a-line": (_LINE + _LINE, "line 1: no JSON"),
    "one-over-two-lines": ('{"prompt": "a",\n"target": "b"}', "line 1: no JSON"),
    "deep": (_DEEP, "line 1: no JSON"),
    "deep-objects": ('{"a":' * 100_000, "line 1: no JSON"),
    "endless-number": (f'{{"prompt": "a", "target": "b", "scores": {{"x": {_DIGITS}}}}}', "line 1: "),
    "endless-line": ('{"prompt": "' + "a" * 5_000_000, "line 1: no JSON"),
    "endless-key": ('{"' + "a" * 1_000_000 + '": 1, "prompt": "a", "target": "b"}', "unknown key"),
    "list": ("[]", "a JSON list, not an object"),
    "list-of-prompts": (f"[{_LINE}]", "a JSON list, not an object"),
    "number": ("17", "a JSON int, not an object"),
    "null": ("null", "a JSON NoneType, not an object"),
    "text": ('"Bob is a"', "a JSON str, not an object"),
    "no-target": ('{"prompt": "a"}', "without 'target'"),
    "no-prompt": ('{"target": "a"}', "without 'prompt'"),
    "unknown-key": ('{"prompt": "a", "target": "b", "suject": "a"}', "unknown key 'suject'"),
    "key-twice": ('{"prompt": "a", "prompt": "c", "target": "b"}', "'prompt' twice"),
    "empty-prompt": ('{"prompt": " ", "target": "b"}', "prompt is empty"),
    "empty-target": ('{"prompt": "a", "target": ""}', "target is empty"),
    "empty-lead-in": ('{"prompt": "a", "target": "b", "lead_in": ""}', "lead_in is empty"),
    "subject-elsewhere": ('{"prompt": "a", "target": "b", "subject": "c"}', "is not in the prompt"),
    "number-as-prompt": ('{"prompt": 1, "target": "b"}', "prompt: "),
    "null-as-target": ('{"prompt": "a", "target": null}', "target: "),
    "list-as-target": ('{"prompt": "a", "target": ["b"]}', "target: "),
    "true-as-prompt": ('{"prompt": true, "target": "b"}', "prompt: "),
    "number-as-id": ('{"prompt": "a", "target": "b", "id": 3}', "id: "),
    "list-as-id": ('{"prompt": "a", "target": "b", "id": ["x"]}', "id: "),
    "unknown-split": ('{"prompt": "a", "target": "b", "split": "train"}', "split: "),
    "nan-score": ('{"prompt": "a", "target": "b", "scores": {"x": NaN}}', "scores.x: "),
    "infinite-score": ('{"prompt": "a", "target": "b", "scores": {"x": 1e400}}', "scores.x: "),
    "true-score": ('{"prompt": "a", "target": "b", "scores": {"x": true}}', "scores.x: "),
    "text-score": ('{"prompt": "a", "target": "b", "scores": {"x": "much"}}', "scores.x: "),
    "list-scores": ('{"prompt": "a", "target": "b", "scores": [1]}', "scores: "),
    "same-id": ('{"prompt": "a", "target": "b", "id": "1"}\n{"prompt": "c", "target": "d", "id": "1"}',
                "same id '1' as line 1"),
    "same-prompt-twice": (f"{_LINE}\n{_LINE}", "same id"),
    "one-prompt": (_LINE, "falls into the"),
    "second-line-bad": (f"{_LINE}\n\n{{", "line 3: no JSON"),
}  # fmt: skip


def _of(
    option: str, name: str, file: str, content: object, says: str, command: str = "run"
) -> Case:
    return Case(
        f"{option}-{name}-{command}", f"{command} {DEMO} --{option} {file}", says, {file: content}
    )


CASES = [
    _of("prompts", name, "p.jsonl", content, says) for name, (content, says) in _PROMPTS.items()
]
CASES += [
    _of("prompts", name, "p.jsonl", *_PROMPTS[name], command)
    for command in STAGES[1:]
    for name in ("empty", "binary", "no-json", "deep")
]
CASES += [
    _of("benign", name, "b.jsonl", *_PROMPTS[name])
    for name in (
        "empty",
        "binary",
        "deep",
        "unknown-key",
        "escaped-surrogate",
        "nan-score",
        "key-twice",
    )
]
CASES += [
    _of("labelled", name, "l.jsonl", content, says)
    for name, content, says in (
        ("empty", b"", "has no texts"),
        ("binary", bytes(range(256)), "no UTF-8"),
        ("no-json", "toxic", "line 1: no JSON"),
        ("deep", _DEEP, "line 1: no JSON"),
        ("endless-number", _DIGITS, "line 1: "),
        ("list", "[1]", "line 1: give"),
        ("one-for-true", '{"text": "a", "toxic": 1}', "line 1: give"),
        ("text-for-true", '{"text": "a", "toxic": "true"}', "line 1: give"),
        ("no-label", '{"text": "a"}', "line 1: give"),
        ("empty-text", '{"text": " ", "toxic": true}', "line 1: give"),
        ("key-twice", '{"text": "a", "toxic": true, "toxic": false}', "'toxic' twice"),
        ("surrogate", '{"text": "\\ud83d", "toxic": true}', "half of a surrogate pair"),
    )
]
CASES += [
    _of("neutral", name, "n.txt", content, says)
    for name, content, says in (
        ("empty", b"", "has 0 documents"),
        ("binary", bytes(range(128, 256)), "no UTF-8"),
        ("one-line", "a single line " * 50, "has 1 documents"),
        ("utf-16", "one\ntwo\n".encode("utf-16"), "no UTF-8"),
        ("raw-surrogate", b"one\n\xed\xa0\xbd\n", "no UTF-8"),
    )
]
CASES += [
    Case(f"{option}-{name}", f"run {DEMO} --{option} {given}", says, files)
    for option in ("prompts", "benign", "labelled", "neutral")
    for name, given, says, files in (
        ("missing", "nowhere", "nowhere", {}),
        ("folder", "folder", "folder", {"folder": None}),
        ("dangling", "link", "link", {"link": Link("nowhere")}),
        ("loop", "link", "link", {"link": Link("link")}),
        ("link-to-folder", "link", "link", {"link": Link("folder"), "folder": None}),
        ("file-as-folder", "file/x", "file/x", {"file": b"x"}),
    )
]
CASES += [
    Case("prompts-long-name", f"run {DEMO} --prompts {'x' * 300}", "xxx"),
    Case("prompts-nul-in-name", ("run", *DEMO.split(), "--prompts", "a\0b"), "null byte", code=2),
    Case(
        "prompts-surrogate-in-name",
        ("run", *DEMO.split(), "--prompts", "a\udc80b"),
        "no prompts file",
    ),
    Case(
        "prompts-right-to-left-name",
        ("run", *DEMO.split(), "--prompts", "a\u202eb"),
        "no prompts file",
    ),
    Case("prompts-newline-in-name", ("run", *DEMO.split(), "--prompts", "a\nb"), "no prompts file"),
    Case(
        "prompts-escape-in-name",
        ("run", *DEMO.split(), "--prompts", "a\x1b[31mb"),
        "no prompts file",
    ),
    Case("prompts-empty-name", ("run", *DEMO.split(), "--prompts", ""), "prompts"),
]
