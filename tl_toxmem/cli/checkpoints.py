"""Commands on checkpoint folders: verify, apply, revert."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tl_toxmem.cli.console import prepare
from tl_toxmem.cli.output import AsJson, Output, Quiet, speaking
from tl_toxmem.cli.words import say
from tl_toxmem.config import is_local

if TYPE_CHECKING:
    from tl_toxmem.certificate import Certificate
    from tl_toxmem.deletion import Deletion
    from tl_toxmem.filebake import Applied


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("verify")(verify)
    app.command("apply")(apply_deletion)
    app.command("revert")(revert)


def verify(
    checkpoint: Annotated[Path, typer.Argument(help="A folder made by export.")],
    base: Annotated[
        str | None,
        typer.Option(help="The unedited model, if it is not where the certificate says."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Repeat the comparison of an exported folder with the hooked model; exit 1 if it fails."""
    with speaking(quiet=quiet, as_json=as_json) as output:
        prepare(network=False)
        from tl_toxmem.cli.records import certified_record
        from tl_toxmem.cli.results import print_certificate
        from tl_toxmem.errors import ToxmemError
        from tl_toxmem.export import verify_checkpoint

        certificate = verify_checkpoint(checkpoint, base=base)
        output.show(lambda console: print_certificate(console, certificate))
        output.give(lambda: certified_record("verify", certificate, checkpoint))
        if not certificate.passed:
            raise ToxmemError(f"{checkpoint} does not verify: {certificate.problem()}")
        _print(output, _words(certificate))


def _print(output: Output, line: str) -> None:
    output.show(lambda console: say(console, line))


def _words(certificate: "Certificate") -> str:
    """What a certificate that passed says, in one line."""
    c = certificate
    same, n = c.greedy_identical
    precision, gap, _, limit = c.gaps()[0]
    forced = ", FORCED onto another model than it was made for" if c.forced else ""
    return (
        f"verified in {precision}: largest log-probability gap {gap:.2e} nats (allowed {limit:.2e}), "
        f"{same} of {n} greedy continuations identical, effect against base "
        f"{c.max_abs_logprob_effect:.3g} nats{forced}"
    )


def apply_deletion(
    deletion: Annotated[Path, typer.Argument(help="A deletion file (5_deletion.safetensors).")],
    checkpoint: Annotated[
        str, typer.Argument(help="The unedited model: local folder, hub id, or 'demo'.")
    ],
    out: Annotated[Path, typer.Argument(help="The edited checkpoint; a folder that is not there.")],
    certify: Annotated[
        Path | None,
        typer.Option(help="Also load and compare both models on these prompts (JSONL)."),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Apply it to another model than it was made for."),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Bake a deletion into a checkpoint, file to file: no model is loaded, little memory is needed."""
    with speaking(quiet=quiet, as_json=as_json) as output:
        prepare(network=False, model=checkpoint)
        from tl_toxmem.cli.records import apply_record, certified_record
        from tl_toxmem.deletion import Deletion

        law = Deletion.load(deletion)
        if certify is None:
            from tl_toxmem.filebake import bake_checkpoint

            applied = bake_checkpoint(checkpoint, out, law, force=force)
            _print(output, f"{out}: {_applied_words(applied, law)}")
            output.give(lambda: apply_record(applied))
            return
        from tl_toxmem.export import export_checkpoint
        from tl_toxmem.model import LensModel
        from tl_toxmem.prompts import PromptSet

        texts = [prompt.prompt for prompt in PromptSet.read(certify)]
        model = LensModel.from_pretrained(checkpoint)
        done = export_checkpoint(model, law, out, prompts=texts, force=force)
        _print(output, f"{out}: {_words(done.certificate)}")
        output.give(lambda: certified_record("apply", done.certificate, out))


def _applied_words(applied: "Applied", law: "Deletion") -> str:
    n = applied.original_bytes
    size = f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"
    undo = (
        f"its deletion.safetensors keeps the {size} that were overwritten"
        if applied.keeps_originals
        else f"the {size} that were overwritten are not kept: to revert, name the unedited model with --base"
    )
    forced = "; FORCED onto another model than it was made for" if applied.deletion.forced else ""
    if law.base is None:
        forced = "; the file names no model, so that only its shape was checked"
    return f"{law.law} on {len(law.neurons)} neurons{forced}; {undo}"


def revert(
    deletion: Annotated[
        Path, typer.Argument(help="The deletion.safetensors of the edited checkpoint.")
    ],
    checkpoint: Annotated[str, typer.Argument(help="The edited checkpoint.")],
    out: Annotated[Path, typer.Argument(help="The restored one; a folder that is not there.")],
    base: Annotated[
        str | None,
        typer.Option(help="The unedited model, where the deletion did not keep what it overwrote."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Put the original weights back into an edited checkpoint, bit for bit, and prove it by their hashes."""
    with speaking(quiet=quiet, as_json=as_json) as output:
        prepare(network=base is not None and not is_local(base), model=checkpoint)
        from tl_toxmem.cli.records import revert_record
        from tl_toxmem.filebake import revert_checkpoint

        restored = revert_checkpoint(deletion, checkpoint, out, base=base)
        _print(
            output,
            f"{out}: the {len(restored.tensors)} tensors that the deletion changed are those of {restored.name} again "
            f"(SHA-256); the others are {'compared with it' if base else 'as they were in ' + checkpoint}",
        )
        output.give(lambda: revert_record(restored, out))
