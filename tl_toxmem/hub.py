"""A certified checkpoint on the Hugging Face hub: checked first, then pushed in one commit or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub as hf
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from tl_toxmem.certificate import ADDED_BY_HUB, Certificate, check_files
from tl_toxmem.config import DEMO
from tl_toxmem.errors import ToxmemError
from tl_toxmem.filebake import CERTIFICATE_FILE, DELETION_FILE

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may write"


def check_push(repo_id: str, *, token: str | None = None) -> None:
    """Find out, before a long run and without asking the hub, what a push would fail on.

    Args:
        repo_id: OWNER/NAME, or NAME for a repository of one's own.
        token: of the hub; default: HF_TOKEN or the one of `hf auth login`.

    Raises:
        ToxmemError: no valid name, no token, or an environment that forbids the hub.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ToxmemError(
            f"{repo_id!r} is no name of a model repository: write OWNER/NAME ({error})"
        ) from None
    if hf.is_offline_mode():
        raise ToxmemError(f"{repo_id} cannot be pushed to while HF_HUB_OFFLINE is set: unset it")
    if not (token or hf.get_token()):
        raise ToxmemError(f"no token to push to {repo_id} with: {_LOG_IN}")


def publication_notice(folder: Path) -> list[str]:
    """What those who may read the repository will see, for whoever is about to push.

    Raises:
        ToxmemError: no readable certificate.
    """
    certificate = Certificate.read(folder)
    names = sorted([*certificate.sha256, CERTIFICATE_FILE])
    lines = [
        f"pushing {len(names)} files: {', '.join(names)}. {CERTIFICATE_FILE} shows the {len(certificate.prompts)} "
        f"prompts that it was certified on in clear; it and {DELETION_FILE} name the base model, a local one "
        "by the last name of its folder"
    ]
    if certificate.base_revision is None and certificate.base_model != DEMO:
        lines.append(
            "the base model is no model of the hub: nobody else can verify this checkpoint without getting it from you"
        )
    return lines


def push_checkpoint(
    folder: str | Path, repo_id: str, *, private: bool = False, token: str | None = None
) -> str:
    """Push a checkpoint folder as it was certified, in one commit.

    The repository is made if it is not there. One with other files in it is left alone: together with them the
    checkpoint would not verify.

    Args:
        folder: made by `export_checkpoint`.
        repo_id: OWNER/NAME, or NAME for a repository of one's own.
        private: make the repository private; otherwise it is as its owner's hub settings say, usually public.
        token: of the hub; default: HF_TOKEN or the one of `hf auth login`.

    Returns:
        The URL of the commit.

    Raises:
        ToxmemError: no certified checkpoint, a file that differs from the certificate, no valid name or token, a
            repository with other files or, if it is to be private, a public one, or a hub that refuses or cannot be
            reached.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ToxmemError(f"no checkpoint folder at {folder}")
    certificate = Certificate.read(folder)
    if not certificate.passed or certificate.problem():
        raise ToxmemError(f"{folder} is not pushed: its certificate did not pass")
    check_files(folder, certificate)
    check_push(repo_id, token=token)
    names = [*certificate.sha256, CERTIFICATE_FILE]
    api = hf.HfApi(token=token)
    with _one_line(repo_id, api.endpoint):
        # None, not False: an organization may have private repositories as its default.
        repo = api.create_repo(repo_id, private=private or None, exist_ok=True)
        found = api.model_info(repo.repo_id)
    if private and not found.private:
        raise ToxmemError(
            f"{repo.repo_id} exists and is public: make it private at {repo}/settings, or give another name"
        )
    others = {file.rfilename for file in found.siblings or ()} - {*names, *ADDED_BY_HUB}
    if others:
        raise ToxmemError(
            f"{repo.repo_id} already has {min(others)}, which is no part of this checkpoint: give another name, or "
            f"delete it at {repo}/tree/main"
        )
    with _one_line(repo_id, api.endpoint):
        # Not upload_folder, which may make several commits: a repository has all of a checkpoint or nothing of it.
        commit = api.create_commit(
            repo.repo_id,
            [hf.CommitOperationAdd(name, folder / name) for name in names],
            commit_message=f"Checkpoint certified by tl-toxmem {certificate.versions['tl-toxmem']}",
        )
    return commit.commit_url


@contextmanager
def _one_line(repo_id: str, endpoint: str) -> Iterator[None]:
    """Say what the hub's library says in one line with what to do."""
    try:
        yield
    except (TransportError, OSError, RuntimeError, ValueError) as error:
        # A file that cannot be uploaded is reported as a RuntimeError with its reason as the cause.
        reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise ToxmemError(_explain(reason, repo_id, endpoint)) from None


def _explain(error: BaseException, repo_id: str, endpoint: str) -> str:
    if isinstance(error, HfHubHTTPError):
        status, said = error.response.status_code, error.server_message
        if status == 401:
            return f"{endpoint} does not accept the token for {repo_id} (401): {_LOG_IN}"
        if status == 403:
            return (
                f"the token may not write to {repo_id} (403): {_LOG_IN} there, or give another name"
            )
        return f"{endpoint} refuses the push to {repo_id} ({status}): {said or _first_line(error)}"
    if isinstance(error, (TransportError, ConnectionError)):
        return (
            f"no connection to {endpoint} ({_first_line(error)}): check it, then repeat the command"
        )
    return f"{repo_id} could not be pushed: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
