"""Run groups of the corpus and print each unacceptable outcome: `python run.py models hub`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow" / "dev"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from malformed.corpus import GROUPS
from malformed.fork_server import run_group


def main(arguments: list[str]) -> None:
    """Run the groups named, or a part of one: `models=tokenizer` runs names that contain it."""
    for argument in arguments or GROUPS:
        group, _, part = argument.partition("=")
        from malformed.corpus import cases_of

        names = [name for name in cases_of(group) if part in name]
        faults = 0
        for name, outcome in run_group(group, names):
            fault = outcome.fault()
            faults += fault is not None
            if fault is not None or part:
                end = outcome.output.strip()[-1500:]
                sys.stdout.write(f"--- {name}: {fault or 'as it should be'}\n{end}\n")
                sys.stdout.flush()
        sys.stdout.write(f"{group}: {faults} faults in {len(names)} inputs\n")


if __name__ == "__main__":
    main(sys.argv[1:])
