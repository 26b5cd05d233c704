"""The certificate: proof that an exported folder is the model that was measured.

The folder is loaded by plain transformers and compared with base + hooks on held-out prompts: largest gap in
log-probability, greedy continuations token by token, and the largest change against base, since an equality
certificate over an edit without effect would prove nothing. And every tensor must be, bit for bit, what the law makes
of the base's: in the folder, and as plain transformers loaded it.

Rounding is no edit, so it must not decide. A log-probability from float32 logits of size 100 is itself known to
about 1e-5 only. Models of which two copies fit are therefore also compared in float64, from the same weights, and
that gap decides; larger ones are judged in float32. Where transformers itself computes parts of a model
in float32 (RMSNorm, rotary embeddings), rounding remains even then: so the gap is held against the bound or, where it
is larger, four times the rounding that is seen between the two implementations of the unedited model. Were that more
than `MAX_ROUNDING`, it would be no rounding, and nothing is certified.

A checkpoint in bfloat16 or float16 stores the edited weights rounded. How far that alone moves log-probabilities is
found from the base and the law (the folder, which is judged by it, has no part in it), stated, and allowed for;
near-ties may then flip a greedy token, so that those are counted but do not decide.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tl_toxmem.config import describe_validation
from tl_toxmem.display import Display, Displayed, Table
from tl_toxmem.errors import ToxmemError
from tl_toxmem.filebake import CERTIFICATE_FILE
from tl_toxmem.files import read_json, sha256_file, write_json
from tl_toxmem.reading import is_plain_name

MAX_ROUNDING = 1e-3
_MOST_TOKENS = 10**6
"""Of a continuation; no model's context is longer."""
ADDED_BY_HUB = (".gitattributes", ".cache")
"""What the hub and its downloads put beside a checkpoint's own files; transformers reads neither."""


@dataclass(frozen=True, repr=False)
class Certificate(Displayed):
    """What was compared and what came out.

    Attributes:
        max_abs_logprob_gap: hooked model against reloaded folder, nats, in `precision`.
        max_abs_logprob_effect: hooked model against base, nats, in `precision`.
        greedy_identical: prompts whose greedy continuations are the same tokens, of how many.
        precision: what decides: `float64`, or `float32` for models too large for that.
        rounding: the gap of the unedited model on host and plain transformers, in `precision`: what rounding does.
        gap_float32: the gap in float32; None for a model that is in float64 itself.
        rounding_float32: the rounding in float32; None likewise.
        stored: precision of the edited weights in the folder.
        storage_rounding: law in `precision` against the same with its weights rounded to `stored`, nats; None where
            they are stored in 32 or 64 bits.
        as_computed: whether every tensor in the folder is bit for bit what the law makes of the base's.
        forced: whether the deletion was made for another model, and its use on this one forced.
        bound: largest gap allowed, nats.
        min_effect: smallest effect that counts, nats.
        passed: whether `problem` finds none.
        host: of the hooked model.
        base_model: the unedited model: `demo`, its name on the hub, or the last name of its folder.
        base_revision: its commit on the hub, if it came from there.
        prepend_bos: whether texts began with the beginning-of-text token.
        prompts: held-out texts compared on.
        max_new_tokens: length of the greedy continuations.
        sha256: of every other file in the folder.
        versions: of the libraries.
    """

    max_abs_logprob_gap: float
    max_abs_logprob_effect: float
    greedy_identical: tuple[int, int]
    precision: str
    rounding: float
    gap_float32: float | None
    rounding_float32: float | None
    stored: str
    storage_rounding: float | None
    as_computed: bool
    forced: bool
    bound: float
    min_effect: float
    passed: bool
    host: str
    base_model: str
    base_revision: str | None
    prepend_bos: bool
    prompts: tuple[str, ...]
    max_new_tokens: int
    sha256: dict[str, str]
    versions: dict[str, str]

    def gaps(self) -> list[tuple[str, float, float, float]]:
        """Of each precision compared in: its name, the gap, the rounding, and the largest gap allowed (nats)."""
        found = [(self.precision, self.max_abs_logprob_gap, self.rounding)]
        if self.gap_float32 is not None and self.rounding_float32 is not None:
            found.append(("float32", self.gap_float32, self.rounding_float32))
        stored = self.storage_rounding or 0.0
        return [(*one, max(self.bound, 4 * one[2]) + stored) for one in found]

    def display(self) -> Display:
        """Whether it passed, and the numbers that say so."""
        outcome = "passed" if self.passed else f"not passed: {self.problem()}"
        same, n = self.greedy_identical
        numbers = {
            f"gap of hooks and weights ({self.precision})": self.max_abs_logprob_gap,
            "allowed, or four times the rounding": self.bound,
            "rounding: the same without any edit": self.rounding,
            "gap in float32": self.gap_float32,
            "rounding in float32": self.rounding_float32,
            f"what storing in {self.stored} rounds": self.storage_rounding,
            "effect of the edit": self.max_abs_logprob_effect,
        }
        rows = [(name, f"{value:.2g} nats") for name, value in numbers.items() if value is not None]
        exact = "yes" if self.as_computed else "no"
        rows += [
            ("greedy continuations that are the same", f"{same} of {n}"),
            ("weights bit for bit what the law makes", exact),
            ("base model", f"{self.base_model} ({self.host})" + ", forced" * self.forced),
        ]
        headline = (
            f"Certificate {outcome}; exported folder against hooked model, largest differences in log-probability on "
            f"{len(self.prompts)} held-out texts"
        )
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return Display(headline, (Table((), tuple(rows)),), (f"{versions}.",))

    def problem(self) -> str:
        """Why it did not pass, in one line; empty if it did."""
        if not self.as_computed:
            return "weights in the folder are not what the deletion makes of the base model's"
        same, n = self.greedy_identical
        for precision, gap, rounding, limit in self.gaps():
            if not rounding <= MAX_ROUNDING:
                return (
                    f"the unedited model itself differs by {rounding:.3g} nats between {self.host} host and "
                    f"transformers in {precision}"
                )
            if not gap <= limit:
                return (
                    f"reloaded and hooked model differ by {gap:.3g} nats in {precision}, more than the bound of "
                    f"{limit:.3g}"
                )
        if same != n and self.storage_rounding is None:
            return f"{n - same} of {n} greedy continuations differ"
        if not self.max_abs_logprob_effect >= self.min_effect:
            return f"the edit has no effect: at most {self.max_abs_logprob_effect:.3g} nats against base"
        return ""

    def write(self, folder: Path) -> None:
        """Write `certificate.json`."""
        write_json(folder / CERTIFICATE_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Certificate":
        """Read `certificate.json`.

        Raises:
            ToxmemError: missing, damaged or of another version.
        """
        if not (folder / CERTIFICATE_FILE).is_file():
            inside = folder / "7_checkpoint"
            of_a_run = str(inside) if inside.is_dir() else "7_checkpoint of a run"
            raise ToxmemError(
                f"{folder / CERTIFICATE_FILE} is missing: give an exported checkpoint ({of_a_run}, or made by "
                "`apply --certify`)"
            )
        values = read_json(folder / CERTIFICATE_FILE)
        values.pop("format_version")
        try:
            certificate = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            reason = describe_validation(error)
            raise ToxmemError(f"{folder / CERTIFICATE_FILE} is damaged: {reason}") from None
        if problem := _nonsense(certificate):
            raise ToxmemError(f"{folder / CERTIFICATE_FILE} is damaged: {problem}")
        return certificate


def _nonsense(certificate: Certificate) -> str:
    """What no certificate says; empty if there is none of it."""
    if not certificate.prompts:
        return "it has no prompts to compare on"
    for name in ("tl-toxmem", "transformer-lens"):
        if name not in certificate.versions:
            return f"no version of {name}"
    if not all(prompt.strip() for prompt in certificate.prompts):
        return "a prompt is empty"
    for name in ("bound", "min_effect"):
        if not 0 < getattr(certificate, name) < math.inf:
            return f"{name} is {getattr(certificate, name)}, no number above 0"
    if not 1 <= certificate.max_new_tokens <= _MOST_TOKENS:
        return f"max_new_tokens is {certificate.max_new_tokens}: no length of a continuation"
    for name in certificate.sha256:
        if not is_plain_name(name):
            return f"it lists {name!r}, which is no name of a file in the folder"
    return ""


def check_files(folder: Path, certificate: Certificate) -> None:
    """Refuse a folder whose files are not those that were certified.

    Raises:
        ToxmemError: a file that is missing, was changed, or was added since.
    """
    for name, expected in certificate.sha256.items():
        path = folder / name
        if not path.is_file():
            raise ToxmemError(f"{path} is missing, though {CERTIFICATE_FILE} lists it")
        if sha256_file(path) != expected:
            raise ToxmemError(f"{path} was changed after it was certified (SHA-256 differs)")
    known = {CERTIFICATE_FILE, *certificate.sha256, *ADDED_BY_HUB}
    unlisted = sorted(path.name for path in folder.iterdir() if path.name not in known)
    if unlisted:
        raise ToxmemError(
            f"{folder / unlisted[0]} is not listed in {CERTIFICATE_FILE}: it was added later"
        )
