"""File system properties: write permission, working locks, and network file systems."""

import errno
import os
from pathlib import Path

from heretic.errors import ExportError

MOUNTS = Path("/proc/self/mountinfo")
NETWORK_TYPES = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre"),
    *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs"),
    *("wekafs",),
}
# User-space file systems on a local disk; most others are remote.
LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.mergerfs", "fuse.unionfs"}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


def network_file_system(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of the network file system that contains `path`, such as `nfs4`.

    Args:
        path: need not exist; the nearest existing folder above it is used.
        mounts: list of mounts in the format of Linux.

    Returns:
        None for a local disk, and if the system lists no mounts.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    place, found, longest = os.path.realpath(path), "", -1
    for line in lines:
        point, kind = _mount(line)
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # the last mount of a place hides earlier ones
            found, longest = kind, len(point)
    remote = found in NETWORK_TYPES or (found.startswith("fuse.") and found not in LOCAL_FUSE)
    return found if remote else None


def _mount(line: str) -> tuple[str, str]:
    """Return the mount point and the type of a line of mountinfo; blanks are written as \\040."""
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    point = fields[4] if len(fields) > 4 else "?"
    for code in ("040", "011", "012", "134"):
        point = point.replace(f"\\{code}", chr(int(code, 8)))
    return point, after.split(" ")[0]


def owner(path: Path) -> str:
    """Return a file's owner as `alice`, or as `user 1005` if the system knows no name."""
    import pwd  # missing on Windows

    try:
        number = path.lstat().st_uid
    except OSError:
        return "nobody known"
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def why_not(error: OSError, path: Path) -> str:
    """Return why a file cannot be read or written, and the remedy, as part of one line."""
    if error.errno == errno.EROFS:
        return "the file system is mounted read-only; run in a writable folder"
    if error.errno in REFUSED:
        return (
            f"permission denied (owner: {owner(path)}); ask for access to it, or run in your own "
            "folder"
        )
    if error.errno == errno.ELOOP:
        return "it is a symbolic link, which is not followed; remove it and run again"
    return f"{error.strerror or error}; check the disk and the path"


def check_writable(folder: Path, what: str = "results") -> None:
    """Reject a folder that is not writable, without creating anything.

    Args:
        folder: need not exist.
        what: plural noun for the folder's contents.

    Raises:
        ExportError: it, or the folder it would be created in, is not a folder or not writable.
    """
    there = nearest(folder)
    if not there.is_dir():
        raise ExportError(
            f"{what} go to {folder}, but {there} is a file; move it away or run elsewhere"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ExportError(
            f"{what} go to {folder}, but {there} is not writable; change its permissions (its "
            f"owner is {owner(there)}), or run in your own folder"
        )


def nearest(path: Path) -> Path:
    """Return the path itself, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())
