"""`python -m sla1tools`: the command, where its script is not on the path."""

import sys

if __name__ == "__main__":
    if not sys.flags.safe_path:
        sys.path.pop(0)  # the current folder, from which nothing is imported

    from sla1tools.cli import main

    main(prog_name="sla1")
