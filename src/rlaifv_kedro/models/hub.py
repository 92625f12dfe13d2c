"""Where weights lie: in a folder, or under a name on the model hub, from which they are fetched once.

Imports of this project only what lies at the bottom, like :mod:`rlaifv_kedro.models.folder`.
"""

from pathlib import Path

from rlaifv_kedro.errors import UserError
from rlaifv_kedro.formats import first_line


def is_hub_name(source: str | Path) -> bool:
    """Whether a source of weights is a name on the model hub (``owner/name``), not a folder's."""
    if isinstance(source, Path) or source.count("/") != 1 or source.startswith((".", "/")):
        return False
    return not Path(source).parent.is_dir()


def folder_of(source: str | Path) -> Path:
    """The folder of a checkpoint; one that is named as on the model hub is fetched.

    Raises:
        UserError: There is no such folder, and it can't be fetched.
    """
    if not is_hub_name(source):
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source)))
    except Exception as error:  # of the hub's client, and of whatever it speaks to the network with
        raise UserError(
            f"{source} is no folder here, and can't be fetched from the model hub: {first_line(error)}"
        ) from error


def folder_here(source: str | Path) -> Path | None:
    """The folder of a checkpoint if it is on this machine, maybe in the hub's cache; nothing is fetched."""
    if not is_hub_name(source):
        return Path(source) if Path(source).is_dir() else None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except Exception:  # it is in no cache, or under a name that no model can have
        return None
