"""Options that say where the work is done."""

from typing import Annotated

import typer

Kind = Annotated[
    str,
    typer.Option(
        "--engine", help="local, or ray: spread prompts over workers (see --num-workers)."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--num-workers",
        metavar="N",
        help="Workers of Ray, here or at RAY_ADDRESS; default: as many as there are GPUs for, else two.",
    ),
]
GPUs = Annotated[
    float, typer.Option("--gpus-per-worker", metavar="G", help="GPUs of each worker of Ray.")
]
