"""The demo night: a simulated night that the default parameters name, made on first use."""

from filelock import FileLock

from sla1tools.parameters import Parameters
from sla1tools.simulate.night import TRUTH_NAME, simulate_night


def ensure_demo_night(parameters: Parameters) -> bool:
    """Simulate the demo night if the parameters name it and it is not there.

    Returns
    -------
    simulated : bool
        Whether it was simulated now. Of several programs that ask at once, one simulates and the others wait.

    Raises
    ------
    ParametersError
        If its folder holds anything else, or cannot be written.
    """
    folder, demo = parameters.capture_directory, Parameters()
    if folder != demo.capture_directory or (folder / TRUTH_NAME).is_file():
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if (folder / TRUTH_NAME).is_file():  # another program was first
            return False
        simulate_night(folder, shape=demo.frame_shape, seed=demo.random_seed)
    return True
