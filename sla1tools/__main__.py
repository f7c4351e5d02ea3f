"""`python -m sla1tools`: the command, where its script is not on the path."""

from sla1tools.cli import main

if __name__ == "__main__":
    main(prog_name="sla1")
