"""Print the table of `docs/export.md`: differences between the readers of exports, by family.

    python tests/benchmarks/readers.py

Installs transformers 4 and llama.cpp in a temporary folder, which takes a few minutes.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow" / "dev"))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "readers"))

from readable_models import FAMILIES, N_PROMPTS, save_as_version_4
from reader_environments import llama_cpp, transformers_4
from reading import differences


def main() -> None:
    """Print a row for each family."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        old, llama = transformers_4(scratch / "old"), llama_cpp(scratch / "llama")
        for number, family in enumerate(FAMILIES):
            base = save_as_version_4(scratch / family, family, old)
            row = differences(base, scratch / f"{family}-exports", old, llama)
            if number == 0:
                sys.stdout.write(f"| Family | {' | '.join(row)} |\n|---|{'---|' * len(row)}\n")
            cells = [
                f"{one.largest:.1e} ({one.equal} of {N_PROMPTS})" if one else "n/a"
                for one in row.values()
            ]
            sys.stdout.write(f"| `{family}` | {' | '.join(cells)} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
