"""One parameters file as it stands."""

from pathlib import Path

from sla1tools.errors import ParametersError
from sla1tools.parameters import read_layer


def read_yaml(path):
    """Its values, not validated yet; all that is wrong with the file and its keys is one error."""
    values, mistakes = read_layer(Path(path))
    if mistakes:
        raise ParametersError("\n".join(f"{path}: {mistake}" for mistake in mistakes.values()))
    return values
