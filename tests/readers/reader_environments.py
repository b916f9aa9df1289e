"""Other programs that read exported folders, each with its packages in a folder of its own."""

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TRANSFORMERS_4 = ("transformers==4.57.6", "huggingface-hub==0.36.2", "tokenizers==0.22.2")
LLAMA_CPP = ("xllamacpp==2026.10.11549", "sentencepiece==0.2.1")
# Its source distribution has the converter of llama.cpp, which no package installs.
CONVERTER = "llama-cpp-python==0.3.36"
TIMEOUT = 300  # seconds of one command of a reader


@dataclass(frozen=True)
class Reader:
    """A program of this folder, run with packages of its own before those installed here."""

    program: str
    packages: tuple[Path, ...]

    def __call__(self, *arguments: str | Path, given: str = "") -> None:
        """Run the program.

        Raises:
            RuntimeError: it fails; with the end of its output.
        """
        done = subprocess.run(
            [sys.executable, str(HERE / self.program), *map(str, arguments)],
            input=given,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(map(str, self.packages)),
                "NO_LOCAL_GGUF": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-3000:])


def transformers_4(folder: Path) -> Reader:
    """Install transformers 4 and what it needs in an older version."""
    _pip("install", "--target", str(folder), *TRANSFORMERS_4)
    return Reader("transformers_program.py", (folder,))


def llama_cpp(folder: Path) -> Reader:
    """Install a build of llama.cpp and its converter."""
    _pip("install", "--target", str(folder / "packages"), *LLAMA_CPP)
    _pip("download", "--no-binary", ":all:", "--dest", str(folder), CONVERTER)
    (archive,) = folder.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as packed:
        root = f"{archive.name.removesuffix('.tar.gz')}/vendor/llama.cpp/"
        wanted = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/")
        members = [m for m in packed if m.name.removeprefix(root).startswith(wanted)]
        packed.extractall(folder, members, filter="data")
    archive.unlink()
    sources = folder / root
    packages = (sources / "gguf-py", sources, folder / "packages")
    return Reader("llama_cpp_program.py", packages)


def _pip(command: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", *arguments], check=True
    )
