"""Location of a model's files: a local folder, or a snapshot of a hub repository."""

import os
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from heretic.artifacts import fingerprint, sha256_of
from heretic.errors import ModelLoadError, one_line
from heretic.model.headers import SUFFIX, index_files
from heretic.model.own_files import ACCOMPANYING, ESSENTIAL, check_files, own_files

if TYPE_CHECKING:  # importing it would import huggingface_hub
    from heretic.hub_session import HubState

# To download; the hub's client matches `*` with folders as well.
FILES = ("*.safetensors", *(pattern.removeprefix("**/") for pattern in ACCOMPANYING))
# A second copy of the same weights in another program's layout.
SECOND_COPIES = ("consolidated*.safetensors", "original/*")
# One core hashes about as fast as one disk reads.
HASHED_AT_ONCE = 8
WEIGHTS = "model.safetensors"
CACHED = "models--"  # prefix of a repository's folder in the hub's cache
ADAPTER, GGUF = "adapter_config.json", ".gguf"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_local(model: str) -> bool:
    """Return whether `model` is a folder on this machine rather than a hub id."""
    # Unlike Path.is_dir(), it returns False for overlong names.
    is_folder = os.path.isdir(model)  # noqa: PTH112
    return model.startswith((".", "/", "~")) or is_folder or model.count("/") > 1


def check_model(model: str, revision: str | None) -> Path:
    """Reject a nonexistent model before any expensive work; downloads only its config.

    Returns:
        Its `config.json`.

    Raises:
        ModelLoadError: the folder does not exist, config.json is missing, a file is outside the
            folder, or the model is unknown to the hub.
    """
    if is_local(model) or model.lower().endswith(GGUF):
        # Path.expanduser() raises if ~name is not a user's home.
        folder = Path(os.path.expanduser(model))  # noqa: PTH111
        found = os.path.isdir(folder)  # noqa: PTH112
        if model.lower().endswith(GGUF) and not found:
            _refuse_gguf(model)
        if not found:
            raise ModelLoadError(f"model folder {model} does not exist; check the path")
        require_checkpoint(f"model folder {model}", {path.name for path in folder.iterdir()})
        check_files(model, folder)
        return folder / "config.json"
    return _fetched_config(model, revision)


def require_checkpoint(model: str, names: Collection[str]) -> None:
    """Reject a folder or repository that contains no model in the format of transformers.

    Args:
        model: name for messages.
        names: names of its files.

    Raises:
        ModelLoadError: it contains an adapter, GGUF files or pickles, or lacks `config.json`.
    """
    weights = any(name.endswith(SUFFIX) and not name.startswith("adapter_") for name in names)
    if ADAPTER in names:
        raise ModelLoadError(
            f"{model} is a LoRA adapter, not a complete model; specify its base model, or merge "
            "the adapter with PEFT's merge_and_unload and save the result"
        )
    if not weights and any(name.lower().endswith(GGUF) for name in names):
        _refuse_gguf(model)
    if "config.json" not in names:
        raise ModelLoadError(f"{model} has no config.json; point to a folder saved by transformers")
    if not weights:
        others = sorted(name for name in names if name.endswith(PICKLES))
        found = f" but {others[0]}" if others else ""
        raise ModelLoadError(
            f"{model} has no .safetensors files{found}; convert its weights by loading and saving "
            "it with transformers"
        )


def _refuse_gguf(model: str) -> NoReturn:
    raise ModelLoadError(
        f"{model} is a GGUF model, which cannot be edited; specify the model it was converted "
        "from, a folder or hub id with .safetensors files"
    )


def snapshot_repo(folder: Path) -> str | None:
    """Return the hub id of a snapshot in the hub's cache; None for any other folder."""
    cache = folder.parent.parent
    if folder.parent.name != "snapshots" or not cache.name.startswith(CACHED):
        return None
    return cache.name.removeprefix(CACHED).replace("--", "/", 1)


def on_the_hub(model: str) -> bool:
    """Return whether a model is specified by its hub id, by which others find it."""
    return "/" in model and not is_local(model)


def resolve_revision(model: str, revision: str | None) -> str | None:
    """Return the current commit of a branch or tag (by default the main branch); None if local.

    Downloads at most the model's config. If the hub is unreachable, the cached commit is returned.

    Raises:
        ModelLoadError: as `check_model`.
    """
    if is_local(model) or (revision is not None and _COMMIT.fullmatch(revision)):
        return revision
    return _fetched_config(model, revision).parent.name


def locate(model: str, revision: str | None) -> Path:
    """Return the local folder of a model, downloading it if it is a hub id.

    Raises:
        ModelLoadError: as `check_model`.
    """
    if is_local(model):
        return check_model(model, revision).parent
    from huggingface_hub import snapshot_download

    from heretic.hub_session import HubState, hub_session

    state = HubState()
    _fetched_config(model, revision, state)
    with _hub_errors(model, revision), hub_session(state):
        folder = Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=list(FILES),
                ignore_patterns=list(SECOND_COPIES),
            )
        )
    check_files(model, folder)
    return folder


def _fetched_config(model: str, revision: str | None, state: "HubState | None" = None) -> Path:
    """Return the cached `config.json` of a hub model, in a folder named after the commit."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from heretic.hub_session import lookup

    def fetch(*, offline: bool = False) -> Path:
        found = hf_hub_download(model, "config.json", revision=revision, local_files_only=offline)
        return Path(found)

    with _hub_errors(model, revision):
        try:
            return lookup(fetch, state)
        except TimeoutError as error:
            try:
                return fetch(offline=True)
            except LocalEntryNotFoundError:
                raise error from None


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint, other than its weights, that determine its answers."""
    return [path for path in own_files(folder, ESSENTIAL)[0] if path.suffix != SUFFIX]


def checkpoint_files(model: str | None) -> list[str]:
    """Return the paths of a local model's relevant files; none for a hub model."""
    if model is None or not is_local(model):
        return []
    folder = Path(model).expanduser()
    return list(map(str, own_files(folder, ESSENTIAL)[0]))


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files loaded by transformers, without second copies of the weights.

    Raises:
        ModelLoadError: the index of the files is damaged.
    """
    found = sorted(folder.glob(f"*{SUFFIX}"))
    named = index_files(folder)
    own = [path for path in found if path.name.startswith("model") or path.name in named]
    return own or found


def weight_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each safetensors file of a checkpoint, by name.

    File names in the hub's cache come from a server's response and are not proof of the contents.
    """
    files = weight_files(folder)
    with ThreadPoolExecutor(HASHED_AT_ONCE) as pool:
        return dict(zip((path.name for path in files), pool.map(sha256_of, files), strict=True))


def source_facts(model: str, revision: str | None, folder: Path) -> dict[str, Any]:
    """Return the name, the revision and a hash of all weights of the checkpoint in `folder`."""
    snapshot = folder.name if folder.parent.name == "snapshots" else revision
    return {"model": model, "revision": snapshot, "sha256": fingerprint(weight_hashes(folder))}


@contextmanager
def _hub_errors(model: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # httpx or httpx2

    try:
        yield
    except HFValidationError as error:
        raise ModelLoadError(f"{model!r} is neither a folder nor a hub id owner/name") from error
    except GatedRepoError as error:
        raise ModelLoadError(
            f"{model} is gated: accept its license on the hub and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelLoadError(
            f"{model} has no revision {revision!r}; check model_revision"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelLoadError(
            f"the hub has no model {model}; check the name, or set HF_TOKEN if it is private"
        ) from error
    except LocalEntryNotFoundError as error:  # means offline; listed before its base class
        raise _unreachable(model, error.__cause__ or error) from error
    except EntryNotFoundError as error:
        raise ModelLoadError(f"{model} has no config.json; is it a transformers model?") from error
    # Malformed responses make the library raise almost any exception.
    except (
        *(OSError, ValueError, TypeError, LookupError, AttributeError, AssertionError),
        *(RuntimeError, httpx.HTTPError, httpx.InvalidURL),
    ) as error:
        raise _unreachable(model, error) from error


def _unreachable(model: str, error: BaseException) -> ModelLoadError:
    return ModelLoadError(
        f"cannot fetch {model} from the hub ({one_line(error)}); check the connection or use a "
        "folder"
    )
