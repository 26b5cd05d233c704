"""Where the numbers come from: the certificate of the exported folder, what was run, and the hashes of all files."""

from tl_toxmem.config import shown_name
from tl_toxmem.report.blocks import Details, Paragraph, Section, facts
from tl_toxmem.report.neurons import law_text
from tl_toxmem.report.results import Results
from tl_toxmem.store import ARTEFACTS
from tl_toxmem.trace import Trace


def certificate_section(results: Results) -> Section:
    """Whether the exported folder is the model that was measured."""
    certificate = results.certificate
    n = len(certificate.prompts)
    compared = (
        f"The exported folder, loaded by plain transformers, was compared with the hooked model on {n} held-out "
        f"prompt{'s' if n > 1 else ''}."
    )
    verdict = (
        Paragraph(f"Passed. {compared}", "good")
        if certificate.passed
        else Paragraph(f"Not passed: {certificate.problem()}. {compared}", "warn")
    )
    again = Paragraph(
        "Repeat it in this folder:", "soft", code=f"tl-toxmem verify {ARTEFACTS['export']}"
    )
    return Section(
        "certificate",
        "Certificate",
        (verdict, facts("What was compared", _compared(results)), again),
    )


def _compared(results: Results) -> list[tuple[str, str]]:
    certificate = results.certificate
    same, n = certificate.greedy_identical
    rows = [
        (
            f"largest log-probability gap, {precision}",
            f"{gap:.2e} nats, of {limit:.2e} that are allowed; without any edit: {rounding:.2e}",
        )
        for precision, gap, rounding, limit in certificate.gaps()
    ]
    if certificate.storage_rounding is not None:
        stored = f"{certificate.storage_rounding:.2e} nats, which are allowed besides"
        rows.append((f"rounding of the edit to {certificate.stored}", stored))
    return [
        *rows,
        (
            "weights bit for bit what the law makes of the base",
            "yes" if certificate.as_computed else "no",
        ),
        ("greedy continuations identical", f"{same} of {n}"),
        ("largest effect against base", f"{certificate.max_abs_logprob_effect:.3g} nats"),
        ("host", certificate.host),
        ("base model", shown_name(certificate.base_model)),
    ]


def provenance_section(results: Results) -> Section:
    """What was run, on what, and what came out, by SHA-256."""
    run = facts("What was run", _run(results))
    hashes = facts("Versions, inputs and outputs by SHA-256", _hashes(results))
    return Section(
        "provenance", "Provenance", (run, Details("Versions and hashes of all files", (hashes,)))
    )


def _run(results: Results) -> list[tuple[str, str]]:
    cfg, trace, certificate, prompts = (
        results.cfg,
        results.trace,
        results.certificate,
        results.prompts,
    )
    benign = "" if trace.benign is None else f" and {len(trace.benign.prompt_ids)} benign ones"
    return [
        ("model", shown_name(cfg.model)),
        ("host", f"TransformerLens {certificate.versions['transformer-lens']}, {certificate.host}"),
        ("precision and device", f"{cfg.dtype}, {cfg.device}"),
        ("prompts", f"{len(prompts.find)} to find, {len(prompts.report)} to report (disjoint)"),
        (
            "traced",
            f"{len(trace.prompt_ids)} find prompts{benign}, corruption: {_corruption(trace)}",
        ),
        ("law", law_text(results.selection.law)),
        ("judges", ", ".join(results.scorers)),
        ("seed", str(cfg.seed)),
    ]


def _corruption(trace: Trace) -> str:
    if trace.corruption == "noise":
        return f"noise of {trace.noise:.4g} on the subject's embeddings"
    return "the counterfactual" if trace.corruption == "replace" else "the mean embedding"


def _hashes(results: Results) -> list[tuple[str, str]]:
    provenance = results.provenance
    rows = [(f"version of {name}", value) for name, value in provenance["versions"].items()]
    rows += [
        ("configuration", provenance["config_hash"]),
        ("revision", provenance["revision"] or "none"),
    ]
    rows += [(f"input {name}", value) for name, value in provenance["inputs"].items()]
    for name, value in provenance["outputs"].items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name}/{inner}".rstrip("/"), digest) for inner, digest in entries]
    return [(name, str(value)) for name, value in rows]
