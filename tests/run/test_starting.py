"""The first steps: a working folder, a night's parameters from its headers."""

import numpy as np
import pytest
from astropy.io import fits
from yaml_files import read_yaml

from sla1tools.errors import ParametersError
from sla1tools.parameters import read_parameters
from sla1tools.places import shipped
from sla1tools.run.starting import make_working_folder, night_text, write_night
from sla1tools.simulate.night import simulate_night


def test_a_working_folder_holds_what_came_with_the_package_and_keeps_what_is_there(tmp_path):
    assert make_working_folder(tmp_path / "a" / "b") == []
    made = {str(path.relative_to(tmp_path / "a" / "b")) for path in (tmp_path / "a" / "b").rglob("*") if path.is_file()}
    assert {"params/demo.yaml", "notebooks/01_dark_characterization.ipynb"} <= made
    mine = tmp_path / "a" / "b" / "params" / "demo.yaml"
    mine.write_text("threshold: 5.0\n")
    assert make_working_folder(tmp_path / "a" / "b") == [mine]
    assert mine.read_text() == "threshold: 5.0\n"
    assert (tmp_path / "a" / "b" / "outputs").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(ParametersError, match="cannot be written"):
        make_working_folder(tmp_path / "file")


@pytest.fixture
def capture(tmp_path):
    folder = tmp_path / "sessions" / "2024-05-08" / "03_38_48" / "Dark 30s"
    simulate_night(folder, frames=4, shape=(48, 64))
    return folder


def test_a_night_read_off_its_headers_is_the_night_that_was_taken(capture, tmp_path):
    path = write_night(capture, tmp_path / "night.yaml")
    night = read_parameters([path])
    assert night.capture_directory == capture
    assert (night.frame_shape, night.dark_exposure) == ((48, 64), 30.0)
    assert (night.scale_due_to_padding, night.scale_due_to_gain) == (16.0, 1.39)
    text = path.read_text()
    assert all("  # " in line for line in text.splitlines()[1:] if not line.startswith("#"))
    path.write_text("mine")
    with pytest.raises(ParametersError, match="nothing is overwritten"):
        write_night(capture, path)
    assert path.read_text() == "mine"


def test_by_default_the_file_goes_to_params_of_the_working_folder(capture, tmp_path, monkeypatch):
    monkeypatch.setenv("SLA1_HOME", str(tmp_path))
    assert write_night(capture, None) == tmp_path / "params" / "2024-05-08_03_38_48_Dark 30s.yaml"


def test_what_the_headers_do_not_say_is_left_to_the_camera_file(capture, tmp_path):
    """The step of the codes tells the padding where no header does; a gain that no header gives is named as missing."""
    rng = np.random.default_rng(5)
    for path in capture.glob("*.fits"):
        with fits.open(path) as hdus:
            header = hdus[0].header
            for key in ("EGAIN", "EGAINSAV", "ADCBITS"):
                header.remove(key, ignore_missing=True)
            counts = (8 * rng.integers(40, 60, hdus[0].data.shape)).astype(np.uint16)
            fits.writeto(path, counts, header, overwrite=True)
    text = night_text(capture)
    (tmp_path / "night.yaml").write_text(text)
    values = read_yaml(tmp_path / "night.yaml")
    assert values["scale_due_to_padding"] == 8.0
    assert "scale_due_to_gain" not in values
    assert "# scale_due_to_gain: not in the headers (EGAIN" in text


def test_a_folder_without_frames_is_told(tmp_path):
    with pytest.raises(ParametersError, match="no frame"):
        night_text(tmp_path)


def test_the_packages_own_files_are_whole():
    assert {path.name for path in shipped("params").glob("*.yaml")} >= {"demo.yaml", "qhy42pro.yaml"}
    assert len(list(shipped("notebooks").glob("0*.ipynb"))) >= 4
