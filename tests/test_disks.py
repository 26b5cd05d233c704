"""A full disk and a read-only folder: one line that names the file, and nothing that was there is lost."""

import os
import shutil
import subprocess

import pytest
from small import SMALL, config
from typer.testing import CliRunner

ENOUGH, FULL = "24m", "2m"
"""A tmpfs that the artefacts of a small run fit into, and one that its export does not."""


@pytest.fixture
def mounted(tmp_path):
    """`mounted(size)`: an empty tmpfs of that size."""

    def mount(size):
        place = tmp_path / "disk"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"a disk of {size} cannot be mounted here: {done.stderr.strip()}")
        places.append(place)
        return place

    if os.getuid() or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root and mount")
    places = []
    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def contents(folder):
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def go(*args):
    from tl_toxmem.cli import app

    return CliRunner().invoke(app, [str(arg) for arg in args])


def one_line(result, *words):
    assert result.exit_code == 1, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("tl-toxmem:")]
    assert len(lines) == 1 and "Traceback" not in result.output
    for word in words:
        assert word in lines[0], lines[0]


def test_a_full_disk_is_one_line_and_costs_nothing(finished, mounted):
    """The artefacts up to the deletion are there; the checkpoint's weights do not fit beside them."""
    disk = mounted(ENOUGH)
    out = shutil.copytree(finished, disk / "run", ignore=shutil.ignore_patterns("8_*"))
    room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with open(disk / "filler", "wb") as filler:
        filler.write(b"\0" * max(0, room - 200_000))
    before = contents(out)
    result = go("export", out, "--set", "export.n_prompts=3")
    one_line(result, "7_checkpoint", "No space left on device")
    assert contents(out) == before
    assert not list(out.glob("*.partial")) and not (out / "writer.lock").exists()


def test_a_disk_that_is_full_from_the_beginning(mounted):
    disk = mounted(FULL)
    room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filler").write_bytes(b"\0" * room)
    result = go("trace", "--model", "demo", "--out", disk / "run")
    one_line(result, str(disk / "run"), "No space left on device")
    assert [p.name for p in disk.iterdir()] == ["filler"]


def written_into(command, out, finished, tmp_path):
    """What writes into a folder: words of a command that makes something anew there."""
    from tl_toxmem.model import demo_folder

    candidates = tmp_path / "c.jsonl"
    known = (demo_folder() / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    candidates.write_text("\n".join(known[:3]))
    if command != "mine":
        shutil.copytree(finished, out)
    return {
        "run": ["run", out, "--set", "select.k=3"],
        "report": ["report", out],
        "mine": ["mine", "--model", "demo", "--candidates", candidates, "--out", out],
    }[command]


WRITERS = ("run", "report", "mine")


@pytest.mark.parametrize("command", WRITERS)
def test_a_disk_that_cannot_be_written_to(mounted, finished, command, tmp_path):
    disk = mounted(ENOUGH)
    words = written_into(command, disk / "run", finished, tmp_path)
    before = contents(disk)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    one_line(go(*words), str(disk))
    assert contents(disk) == before


@pytest.fixture
def forbidden():
    """`forbidden(folder)`: let nothing be made or removed in it, nor in folders below it, until the test is over."""
    folders = []

    def forbid(folder):
        folders.extend([folder, *(p for p in folder.rglob("*") if p.is_dir())])
        for one in folders:
            one.chmod(0o555)
        if os.access(folder, os.W_OK):
            pytest.skip("root may write into any folder")

    yield forbid
    for one in folders:
        one.chmod(0o755)


@pytest.mark.parametrize("command", WRITERS)
def test_a_folder_that_may_not_be_written_into(forbidden, finished, command, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    words = written_into(command, place / "run", finished, tmp_path)
    before = contents(place)
    forbidden(place)
    one_line(go(*words), str(place), "cannot be written to")
    assert contents(place) == before


def test_every_writer_leaves_a_folder_that_it_may_not_write_into(forbidden, tmp_path):
    import torch

    from tl_toxmem import ToxmemError
    from tl_toxmem.files import new_folder, write_bytes, write_tensors

    path = tmp_path / "place" / "a.bin"
    path.parent.mkdir()
    path.write_bytes(b"before")
    forbidden(path.parent)

    def folder():
        with new_folder(path.parent / "f"):
            raise AssertionError("there is no folder")

    for write in (
        lambda: write_bytes(path, b"after"),
        lambda: write_tensors(path, "k", {"a": torch.zeros(3)}, {}),
        folder,
    ):
        with pytest.raises((OSError, ToxmemError), match="Permission denied") as caught:
            write()
        assert str(path.parent) in str(caught.value)
        assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
        assert path.read_bytes() == b"before"


def test_every_writer_names_its_file_on_a_full_disk(mounted):
    import torch

    from tl_toxmem import ToxmemError
    from tl_toxmem.files import new_folder, write_bytes, write_tensors

    disk = mounted("64k")
    path = disk / "a.bin"
    path.write_bytes(b"before")

    def folder():
        with new_folder(disk / "f") as partial:
            (partial / "x").write_bytes(b"\0" * 200_000)

    for write, name in (
        (lambda: write_bytes(path, b"\0" * 200_000), "a.bin"),
        (lambda: write_tensors(path, "k", {"a": torch.zeros(99_999)}, {}), "a.bin"),
        (folder, "f"),
    ):
        with pytest.raises((OSError, ToxmemError)) as caught:
            write()
        named = getattr(caught.value, "filename", None) or str(caught.value)
        assert str(disk / name) in str(named)
        assert "No space left" in str(caught.value)
        assert [p.name for p in disk.iterdir()] == ["a.bin"]
        assert path.read_bytes() == b"before"


def test_settings_of_the_small_run_are_those_of_the_fixture(finished):
    """The full disk is met in the export alone, since nothing before it is made anew."""
    from tl_toxmem.store import RunFolder

    assert RunFolder(finished).config() == config(finished, **SMALL)
