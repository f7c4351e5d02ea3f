"""Errors that a user can mend are told in one line, in a notebook as on the command line."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_cell_shows_one_line_instead_of_a_traceback(tmp_path):
    program = "from sla1tools.errors import {0}\ndef deep(): raise {0}('no such night')\ndeep()"
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path)}
    shown = {}
    for kind in ("NightError", "ParametersError"):
        command = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", program.format(kind)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        shown[kind] = (run.stdout + run.stderr).split("\n")
    assert {kind: [line for line in lines if line.strip()] for kind, lines in shown.items()} == {
        "NightError": ["NightError: no such night"],
        "ParametersError": ["ParametersError: no such night"],
    }
