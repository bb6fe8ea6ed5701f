"""The Hugging Face Hub: models as encoders (`hf-hub:USER/NAME`), and exports sent there; only when asked."""

import re
from pathlib import Path
from typing import Any

from lwcl.checkpoints.timm_folder import CONFIG_FILE, WEIGHT_FILES, timm_weights
from lwcl.errors import UsageError
from lwcl.system.packages import require_package

HUB_PREFIX = "hf-hub:"
REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")  # USER/NAME


def check_repository(name: str) -> str:
    """The name of a repository, USER/NAME. Raises `UsageError`."""
    if not REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise UsageError(f"{name!r} is not the name of a repository on the Hugging Face Hub.", remedy="Give USER/NAME.")
    return name


def download_model(spec: str) -> Path:
    """The weight file of `hf-hub:USER/NAME`, or `hf-hub:USER/NAME@REVISION`, downloaded or from the cache.

    Raises `UsageError`.
    """
    name, _, revision = spec.removeprefix(HUB_PREFIX).partition("@")
    hub = require_package("huggingface_hub", "export")
    try:
        folder = hub.snapshot_download(
            check_repository(name), revision=revision or None, allow_patterns=[CONFIG_FILE, *WEIGHT_FILES]
        )
    except UsageError:
        raise
    except Exception as error:  # of the network, the service or the access: of many classes
        raise hub_error(f"{spec}: cannot be downloaded.", error, "Check the name and the network") from error
    weights = timm_weights(Path(folder))
    if weights is None:
        what = f"{spec}: holds no timm model."
        raise UsageError(what, f"It needs {CONFIG_FILE} and {WEIGHT_FILES[0]}.", "Give a model that timm loads.")
    return weights


def push_folder(folder: Path, name: str) -> str:
    """Sends an export to the repository `name`, which is made, private, if it does not exist; its address.

    Raises `UsageError`; the folder stays as it is.
    """
    hub: Any = require_package("huggingface_hub", "export")
    try:
        api = hub.HfApi()
        api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of lwcl")
    except Exception as error:  # of the network, the service or the access: of many classes
        what = f"The export is in {folder}, but could not be sent to {name}."
        raise hub_error(what, error, "Log in by `hf auth login`, check the name and the network") from error
    return f"https://huggingface.co/{name}"


def hub_error(what: str, error: Exception, remedy: str) -> UsageError:
    """The error of a command that needs the Hub."""
    why = " ".join(str(error).split())[:300]
    return UsageError(what, f"{type(error).__name__}: {why}", f"{remedy}, then give the command again.")
