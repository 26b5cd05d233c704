"""The command line: parse, call, print. Torch is imported only once there is work to do."""

import typer

from tl_toxmem.cli import checkpoints, mining, plan, stages

app = typer.Typer(
    name="tl-toxmem",
    help="Find the MLP neurons that mediate toxic continuations, delete them, measure, and export the edited model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
stages.add_to(app)
plan.add_to(app)
mining.add_to(app)
checkpoints.add_to(app)
