"""Any bytes, and any spoiled good file, give a record or a ToxmemError; what is written is read back equal."""

import json
import struct
import tomllib
from dataclasses import fields, is_dataclass

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader_seeds import readers

NAMES = (
    "prompts", "config", "deletion", "originals", "neurons", "trace", "scores", "evaluation", "comparison",
    "certificate", "mining", "selected", "provenance", "labelled", "candidates", "candidates-lines",
    "neutral", "header", "index",
)  # fmt: skip
QUICK = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["float32", "\ud83d", "../x", "", "0" * 64, 1e400, -1, 2**53]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("readers")


@pytest.fixture(autouse=True)
def as_installed(monkeypatch):
    """Without the tests' type checks, which would be first to refuse."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="module")
def by_name(place):
    return {reader.name: reader for reader in readers(place)}


@pytest.fixture(params=NAMES)
def reader(request, by_name):
    return by_name[request.param]


def attempt(reader, place, content: bytes):
    """The record, or None where it was refused as it should be."""
    from tl_toxmem import ToxmemError

    path = place / f"spoiled{reader.suffix}"
    path.write_bytes(content)
    try:
        return reader.read(path)
    except ToxmemError as error:
        assert str(error).strip()
        return None


def good_bytes(reader, place) -> bytes:
    path = place / f"good-{reader.name}{reader.suffix}"
    if not path.exists():
        reader.write(path)
    return path.read_bytes()


def same(a, b) -> bool:
    """Equal all the way down, tensors and NaN too."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    if is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b


def test_every_reader_is_here(by_name):
    assert tuple(by_name) == NAMES


def test_what_is_written_is_read_back_equal(reader, place):
    found = attempt(reader, place, good_bytes(reader, place))
    assert found is not None
    if reader.good is not None:
        assert same(found, reader.good)


@QUICK
@given(content=st.binary(max_size=300))
def test_any_bytes(reader, place, content):
    attempt(reader, place, content)


@QUICK
@given(data=st.data())
def test_a_good_file_spoiled_anywhere(reader, place, data):
    content = bytearray(good_bytes(reader, place))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        what = data.draw(st.sampled_from(["flip", "cut", "put", "drop", "twice"]))
        some = data.draw(st.binary(min_size=1, max_size=4))
        if what == "flip" and at < len(content):
            content[at] ^= some[0]
        elif what == "cut":
            del content[at:]
        elif what == "put":
            content[at:at] = some
        elif what == "drop":
            del content[at : at + len(some)]
        elif what == "twice":
            content[at:at] = content[at : at + 40]
    attempt(reader, place, bytes(content))


def parts(content: bytes, suffix: str):
    """The JSON values of a file, and how to put others in their place."""
    if suffix == ".safetensors":
        (size,) = struct.unpack("<Q", content[:8])
        header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
        own = json.loads(header["__metadata__"]["tl_toxmem"])

        def put(values):
            header["__metadata__"]["tl_toxmem"] = json.dumps(values)
            text = json.dumps(header).encode()
            return struct.pack("<Q", len(text)) + text + rest

        return own, put
    if suffix == ".jsonl":
        first, *lines = content.decode().split("\n")
        return json.loads(first), lambda values: "\n".join([json.dumps(values), *lines]).encode()
    return json.loads(content), lambda values: json.dumps(values).encode()


def places(values):
    """Every place in JSON values: the container and the key."""
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    for key, inner in pairs:
        yield values, key
        if isinstance(inner, dict | list):
            yield from places(inner)


@settings(QUICK, max_examples=60)
@given(data=st.data())
def test_a_good_file_with_another_value_anywhere(reader, place, data):
    if reader.suffix in (".toml", ".csv", ".txt") or reader.name == "header":
        return
    values, put = parts(good_bytes(reader, place), reader.suffix)
    container, key = data.draw(st.sampled_from(list(places(values))))
    if data.draw(st.booleans()):
        container[key] = data.draw(JSON)
    elif isinstance(container, dict) and data.draw(st.booleans()):
        container[data.draw(st.text(max_size=3))] = container.pop(key)
    else:
        del container[key]
    attempt(reader, place, put(values))


@QUICK
@given(data=st.data())
def test_settings_of_any_value(data):
    from tl_toxmem import ToxmemError
    from tl_toxmem.config import RunConfig, make_config
    from tl_toxmem.config.base import Config

    tables = [
        name for name, one in RunConfig.model_fields.items() if isinstance(one.default, Config)
    ]
    table = data.draw(st.sampled_from(tables))
    own = RunConfig.model_fields[table].default
    field = data.draw(st.sampled_from(list(type(own).model_fields)))
    try:
        made = make_config({"model": "m", "out": "x", table: {field: data.draw(JSON)}})
    except ToxmemError as error:
        assert "\n" not in str(error)
    else:
        assert make_config(tomllib.loads(made.to_toml())) == made


def test_a_shard_of_a_name_that_no_folder_holds(tmp_path):
    """Found by the fuzzer: asking whether such a file is there is an OSError."""
    from tl_toxmem import ToxmemError
    from tl_toxmem.weights import model_files

    index = {"weight_map": {"a": "z" * 256 + ".safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ToxmemError, match="is no name of a file in its folder"):
        model_files(tmp_path)
