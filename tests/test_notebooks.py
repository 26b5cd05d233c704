"""The notebooks run whole, prove their own claims, and are the same in both of their files."""

import os
from pathlib import Path

import pytest
import smollm2

jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed (extra: dev)")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (extra: dev)")

FOLDER = Path(__file__).parents[1] / "notebooks"
REAL = "04_real_model"
NAMES = ["01_find", "02_delete", "03_export", REAL]
PLOTLY = "application/vnd.plotly.v1+json"


def read(name: str, ending: str):
    return jupytext.read(FOLDER / f"{name}{ending}")


def real_model() -> dict[str, str]:
    """Where the notebook on a real model has model, prompts and a second judge from; skips where they cannot be had."""
    judge = {"TOXMEM_JUDGE": f"detoxify:{smollm2.JUDGE}"} if smollm2.JUDGE.is_file() else {}
    folder = smollm2.checkpoint()
    return {
        "TOXMEM_SMOLLM2": str(folder),
        "TOXMEM_PROMPTS": str(smollm2.mined(folder)),
        **judge,
    }


def texts(cell) -> str:
    """What a code cell shows as text: streams, plain and HTML output."""
    parts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        parts += [output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")]
    return "\n".join(parts)


def test_every_notebook_is_tested():
    assert sorted(p.name for p in FOLDER.iterdir() if p.suffix in (".py", ".ipynb")) == sorted(
        name + ending for name in NAMES for ending in (".py", ".ipynb")
    )


@pytest.mark.parametrize("name", NAMES)
def test_script_and_notebook_hold_the_same_cells(name):
    script, notebook = read(name, ".py"), read(name, ".ipynb")
    assert [(c.cell_type, c.source) for c in script.cells] == [
        (c.cell_type, c.source) for c in notebook.cells
    ], f"run: jupytext --sync notebooks/{name}.py"
    for each in (script, notebook):
        assert each.metadata.jupytext.formats == "ipynb,py:percent"
        assert each.metadata.kernelspec.name == "python3"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "outputs are not kept"


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_whole(name, tmp_path, monkeypatch):
    """Every cell, asserts included, in a fresh kernel that may not ask a hub; insults stay masked."""
    from tl_toxmem.masking import mask_slurs

    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    work = tmp_path / "work"
    work.mkdir()
    environment = {
        **os.environ,
        **(real_model() if name == REAL else {}),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PLOTLY_RENDERER": "plotly_mimetype",  # whatever the user has set
    }
    notebook = read(name, ".ipynb")
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    )
    # nbclient answers the Output widgets of progress bars on the socket that it polls for a cell's reply, and
    # so may miss that reply until the timeout (jupyter/nbclient issue 312). It need not play that widget here.
    client.widget_registry = {}
    client.execute(env=environment)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = {kind for cell in code for output in cell.outputs for kind in output.get("data", {})}
    assert PLOTLY in shown
    for cell in code:
        assert mask_slurs(texts(cell)) == texts(cell), f"not masked, shown by:\n{cell.source}"
    assert not list(work.iterdir()), "a notebook leaves no files behind"
