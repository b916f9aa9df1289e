"""Files that belong to a model folder.

An untrusted folder, such as a Git clone or an unpacked archive, may contain links to any file of
this machine; if a linked token were copied into an export and uploaded, it would be published. Only
regular files inside the folder are part of it, or, for a snapshot in the hub's cache, inside its
repository's blobs.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from heretic.errors import ModelLoadError
from heretic.model.headers import weight_map
from heretic.model.json_files import read_object

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
# Files that determine a model's answers. Others, such as a license, have no effect.
ESSENTIAL = (
    *("*.json", "*.safetensors", "*.jinja", "additional_chat_templates/*.jinja", "*.py"),
    *("*.model", "*.tiktoken", "*.spm", "*.bpe", "*vocab*.txt", "*merges*.txt"),
)


def _any_case(pattern: str) -> str:
    return "".join(f"[{c.lower()}{c.upper()}]" if c.isalpha() else c for c in pattern)


# Terms that apply to the edited model as well, wherever they are.
TERMS = tuple(
    f"**/{_any_case(name)}"
    for name in ("*license*", "*licence*", "notice*", "copying*", "*use?policy*", "*usage?policy*")
)
# Tokenizer, chat templates, processors, generation defaults, code with its modules, and terms.
ACCOMPANYING = (
    *("*.json", "*.jinja", "additional_chat_templates/*.jinja", "*.txt", "*.md", "*.model"),
    *("*.tiktoken", "*.spm", "*.bpe", "*.vocab", "**/*.py", *TERMS),
)
INDICES = "*.safetensors.index.json"
SHARED_BLOBS_MARKER = ".huggingface-shared-blobs"
# A field of config.json that makes transformers load other weights, even pickles.
OTHER_WEIGHTS = "transformers_weights"


def is_own_file(path: Path, folder: Path) -> bool:
    """Return whether a path is a regular file of a folder, after resolving all links."""
    try:
        file, root = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError):  # the link is broken or circular
        return False
    return file.is_file() and (
        file.is_relative_to(root) or any(file.is_relative_to(blobs) for blobs in _blobs(root))
    )


def own_files(folder: Path, patterns: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """Return the files of a folder that match any of the patterns, and links out of the folder.

    Returns:
        Sorted paths of regular files inside the folder, and of links that lead out of it.
    """
    found = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    own = [path for path in found if is_own_file(path, folder)]
    kept = set(own)
    foreign = [path for path in found if path not in kept and not path.is_dir()]
    return own, foreign


def is_hidden(relative: Path) -> bool:
    """Return whether a path inside a folder is hidden, or belongs to a cache of Python."""
    return any(part.startswith(".") or part == "__pycache__" for part in relative.parts)


def check_links(model: str, folder: Path) -> set[Path]:
    """Return the essential files of a checkpoint or an adapter.

    Args:
        model: name for messages.
        folder: folder of the files.

    Raises:
        ModelLoadError: a file is a link that leads out of the folder, or not a regular file.
    """
    own, foreign = own_files(folder, ESSENTIAL)
    if foreign:
        raise ModelLoadError(
            f"{foreign[0].relative_to(folder)} in {model} is a link to something outside that "
            "folder, which is not followed; put the file itself there"
        )
    return set(own)


def check_files(model: str, folder: Path) -> None:
    """Reject a checkpoint with essential files outside its folder.

    Args:
        model: name for messages.
        folder: folder of the checkpoint.

    Raises:
        ModelLoadError: as `check_links`; or the index of the shards or the configuration refers to
            other files, or one of them is damaged.
    """
    own = check_links(model, folder)
    if folder / ADAPTER_CONFIG in own and folder / CONFIG in own:
        # transformers would load the base model named there, from any location.
        raise ModelLoadError(
            f"{model} contains a model and an adapter ({ADAPTER_CONFIG}); move the adapter into a "
            "folder of its own"
        )
    for index in sorted(path for path in own if path.match(INDICES)):
        for name in sorted(set(weight_map(index).values())):
            if folder / name not in own:
                raise ModelLoadError(
                    f"{model} has no file {name}, which is listed in its {index.name}; copy or "
                    "download it again"
                )
    named = read_object(folder / CONFIG).get(OTHER_WEIGHTS) if folder / CONFIG in own else None
    if named is not None:
        raise ModelLoadError(
            f"{CONFIG} of {model} refers to other weights ({OTHER_WEIGHTS} = {named!r:.100}), "
            "which are not loaded; remove that field"
        )


def _blobs(root: Path) -> Iterator[Path]:
    """Yield the blob folders of the repository if a folder is a snapshot in the hub's cache.

    The blobs of all repositories may share one folder, which is marked by the hub's client.
    """
    repository = root.parent.parent
    if root.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return
    own, shared = repository / "blobs", repository.parent / "blobs"
    if not own.is_symlink():
        yield own
    if not shared.is_symlink() and (shared / SHARED_BLOBS_MARKER).is_file():
        yield shared
