"""Models on the Hugging Face Hub: `hf://OWNER/NAME`, or `hf://OWNER/NAME@REVISION`.

Nothing is fetched or sent but by the two functions here, which are called only for such
an address.  The server is that of huggingface_hub: `HF_ENDPOINT`, `HF_TOKEN` and
`HF_HOME` have their usual meaning.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hkdnet_jax.common.errors import UserError, needs_extra
from hkdnet_jax.model_files.file_format import WEIGHTS_FILE

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def is_address(model: Any) -> bool:
    """Returns whether a user means the Hub and not a path."""
    return isinstance(model, str) and model.startswith(SCHEME)


def fetch(address: str) -> Path:
    """Returns the path of a model's weights, downloaded unless they are cached.

    Args:
      address: `hf://OWNER/NAME`, with `@` and a branch, tag or commit if not `main`.

    Raises:
      UserError: the address is malformed, there is no such model, the server cannot be
        reached, or huggingface_hub is not installed.
    """
    name, revision = _parse(address)
    with needs_extra("An address with hf://", "hub"):
        from huggingface_hub import hf_hub_download
    with _explained(address):
        return Path(
            hf_hub_download(name, WEIGHTS_FILE, revision=revision, endpoint=_server())
        )


def push(address: str, weights: bytes, card: str) -> None:
    """Uploads a model in one commit; makes its repository, a public one, if needed.

    Args:
      address: `hf://OWNER/NAME`, with `@` and a branch if not `main`.
      weights: what `file_format.to_safetensors` makes.
      card: text of the README.md beside it; one that is there is kept.

    Raises:
      UserError: see `fetch`; or the account may not write there.
    """
    name, revision = _parse(address)
    with needs_extra("An address with hf://", "hub"):
        from huggingface_hub import CommitOperationAdd, HfApi
    api = HfApi(endpoint=_server())
    with _explained(address):
        api.create_repo(name, exist_ok=True)
        files = {WEIGHTS_FILE: weights}
        if not api.file_exists(name, "README.md", revision=revision):
            files["README.md"] = card.encode()
        adds = [CommitOperationAdd(file, content) for file, content in files.items()]
        message = "Upload by hkdnet_jax"
        api.create_commit(name, adds, commit_message=message, revision=revision)


def _parse(address: str) -> tuple[str, str | None]:
    """The repository and the revision, None for the default one."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise UserError(_malformed(address))
    return found[1], found[2]


def _malformed(address: str) -> str:
    return (
        f"{address} is not an address of a model: give hf://OWNER/NAME, or "
        "hf://OWNER/NAME@REVISION."
    )


def _server() -> str | None:
    """The server of the environment as it is now; huggingface_hub's by default."""
    return os.environ.get("HF_ENDPOINT") or None


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise UserError(
            f"{address} does not exist, or you may not use it: check the name, and log "
            "in with `hf auth login` if it is private."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(
            f"{address} has no such revision: give a branch, tag or commit of it."
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise UserError(
            f"{address} holds no {WEIGHTS_FILE}: give a model that `hkdnet export "
            "--out hf://OWNER/NAME` uploaded."
        ) from error
    except errors.HFValidationError as error:
        raise UserError(_malformed(address)) from error
    except (errors.HTTPError, OSError) as error:
        reason = re.split(r"\.\s|\.$|\n", str(error).strip())[0]
        raise UserError(
            f"{address} cannot be reached ({type(error).__name__}: {reason}): check "
            "the connection, HF_ENDPOINT, and the rights of your account."
        ) from error
