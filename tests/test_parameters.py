"""Parameters: what YAML and papermill would quietly misread is refused, and said in words that help."""

import os
import re
from pathlib import Path
from typing import get_args

import papermill.iorw
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from yaml_files import read_yaml

from sla1tools.errors import ParametersError
from sla1tools.frames.known_pixels import read_known_pixels
from sla1tools.parameters import NIGHT_KEYS, Parameters, read_parameters, to_yaml, validate
from sla1tools.places import CHECKOUT, from_working_folder

PARAMS = CHECKOUT / "params"
NIGHT = 'sessions_directory: "s"\ncapture_date: "2024-05-08"\ncapture_time: "03_38_48"\nobject_name: "Dark30s"\n'


@pytest.fixture
def written(tmp_path):
    def write(contents, name="night.yaml"):
        path = tmp_path / name
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return path

    return write


def refusal(path, overrides=()):
    with pytest.raises(ParametersError) as refused:
        read_parameters([path], overrides)
    return str(refused.value)


QUIETLY_MISREAD = [  # key, as typed, what YAML 1.1 would make of it
    ("capture_time", "03_37_47", 0o33747),
    ("capture_time", "03_34_45", 0o33445),
    ("capture_time", "3_37_47", 33747),
    ("capture_time", "12:34:56", 45296),
    ("capture_date", "2024-05-08", None),
    ("capture_date", "2024-05-08T01:02:03Z", None),
    ("injections", "010", 8),
    ("injections", "1_000", 1000),
    ("injections", "0x10", 16),
    ("injections", "0b11", 3),
    ("injections", "1:30", 90),
    ("threshold", "1:30.5", 90.5),
    ("threshold", "1_000.0", 1000.0),
    ("interactive", "yes", True),
    ("interactive", "Off", False),
    ("object_name", "on", True),
    ("filter_name", "NO", False),
]


@pytest.mark.parametrize(("key", "text", "misread"), QUIETLY_MISREAD, ids=[f"{k}-{t}" for k, t, _ in QUIETLY_MISREAD])
def test_what_yaml_misreads_is_refused_with_the_hint_to_quote_it(written, key, text, misread):
    loose = yaml.safe_load(f"{key}: {text}")[key]
    assert loose != text, "YAML keeps this one: it belongs elsewhere"
    if misread is not None:
        assert loose == misread
    path = written(f"{NIGHT.replace(key, '#')}\n{key}: {text}\n")
    message = refusal(path)
    assert message.startswith(f"{path}: {key}: line 6: ")
    assert f'"{text}"' in message


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("threshold: 1e3", "threshold: .*got '1e3', which is text; write 1000.0"),
        ("threshold: 1.5e3", "write 1500.0"),
        ("threshold: '200'", "write 200.0"),
        ("threshold: true", "threshold: .*valid number; got True"),
        ("threshold:", "threshold: .*got None"),
        ("threshold: .nan", "threshold: .*finite"),
        ("threshold: -.inf", "threshold: .*finite"),
        ("threshold: 0", "threshold: .*greater than or equal to 0.001"),
        ("threshold: [200]", r"threshold: .*got \[200\]"),
        ("threshold: {a: 1}", "threshold: .*valid number"),
        ("ratio: 1.01", "ratio: .*less than or equal to 1"),
        ("p_min: 1", "p_min: .*less than 1"),
        ("neighbors: 5", "neighbors: .*4 or 8; got 5"),
        ("neighbors: true", "neighbors: .*4 or 8"),
        ("neighbors: '4'", "neighbors: .*4 or 8"),
        ("top_code: 65535.0", "top_code: .*valid integer"),
        ("top_code: 65536", "top_code: .*less than or equal to 65535"),
        ("random_seed: -1", "random_seed: .*greater than or equal to 0"),
        ("interactive: 1", "interactive: .*boolean; got 1"),
        ("interactive: 'true'", "interactive: .*boolean"),
        ("combination_method: Median", "combination_method: .*'median' or 'average'"),
        ("criterion: psf", "criterion: .*'psf_chi2'"),
        ("frame_shape: 2048", "frame_shape: "),
        ("frame_shape: [2048]", "frame_shape: "),
        ("frame_shape: [1, 2, 3]", "frame_shape: "),
        ("frame_shape: [2048, 2048.0]", "frame_shape: .*integer"),
        ("frame_shape: [true, 2048]", "frame_shape: .*integer"),
        ("frame_shape: [0, 5]", "frame_shape: .*greater than or equal to 1; got"),
        ("frame_shape: [65535, 65535]", "frame_shape: .*less than or equal to 32768; got"),
        ("frame_shape: [32768, 32768]", "frame_shape: .*at most 268435456 pixels"),
        ('filter_name: "\\ud800"', r"filter_name: is not valid UTF-8: \\ud800"),
        ("frame_shape: '2048, 2048'", "frame_shape: "),
        ("injection_flux_range: [500, 300]", "injection_flux_range: .*low < high"),
        ("injection_flux_range: [300, .inf]", "injection_flux_range: .*finite"),
        ("filter_name: 5", "filter_name: .*string"),
        ("file_pattern: '../*'", "file_pattern: .*names"),
        ("known_pixels: ''", "known_pixels: must be a path"),
        ("known_pixels: '~no_such_user_/a'", "known_pixels: .*home"),
        ("seeing_fwhm: 100.0", "seeing_fwhm / pixel_scale"),
    ],
)
def test_wrong_value_names_file_and_key(written, line, told):
    path = written(NIGHT + line)
    message = refusal(path)
    assert re.search(told, message)
    assert message.startswith(f"{path}: {line.split(':')[0]}")


@pytest.mark.parametrize(
    "text", [".", "..", "", ".staging", "a/b", "a\\b", "../../etc", "a\tb", "a\x1b[31m", "a\n", "\x00"]
)
@pytest.mark.parametrize("key", ["capture_date", "capture_time", "object_name"])
def test_night_names_cannot_leave_their_folder(key, text):
    with pytest.raises(ParametersError, match=f"{key}: must name one folder"):
        validate({key: text}, "here")


@pytest.mark.parametrize(
    "text", ["Dark 30s", "[x] {y}", "'q' \"d\"", "dünkel", "$\\foo$".replace("\\", ""), "<b>", "a."]
)
def test_strange_but_harmless_names_work(text):
    assert validate({"object_name": text}, "here").capture_directory.name == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("threshold: 5.0\nthreshold: 6.0", "line 2: threshold is given twice"),
        ("threshold: 5.0\n'threshold': 6.0", "line 2: threshold is given twice"),
        ("threshold: !!float 5", "threshold: line 1: tags"),
        ("object_name: !!str 03_37_47", "object_name: line 1: tags"),
        ("object_name: ! 5", "object_name: line 1: tags"),
        ("object_name: !foo 5", "object_name: line 1: tags"),
        ("object_name: !!python/object/apply:os.getcwd []", "object_name: line 1: tags"),
        ("!!map {threshold: 5.0}", "line 1: tags"),
        ("threshold: &a 200.0\nsnr_min: *a", "threshold: line 1: tags"),
        ("<<: {threshold: 5.0}", "line 1: every key must be a plain name"),
        ("1: 2", "line 1: every key must be a plain name"),
        ("yes: 2", "line 1: every key must be a plain name"),
        ("? [a]\n: 3", "line 1: every key must be a plain name"),
        ("thresold: 5", "thresold: there is no such parameter; did you mean threshold?"),
        ("Threshold: 5", "did you mean threshold?"),
        ("'': 5", "there is no such parameter"),
        ("", "must hold lines 'key: value', but is empty"),
        ("# all\n# comments\n", "but is empty"),
        ("---\n", "but is empty"),
        ("- threshold", "but is a list"),
        ("threshold", "but is a str"),
        ("threshold: 5.0\n---\nratio: 0.2", "expected a single document"),
        ("threshold:\t5.0", "is not plain YAML"),
        ("threshold: [5.0", "is not plain YAML"),
        ("threshold: " + "9" * 5000, "is not plain YAML"),
        ("[" * 5000, "is not plain YAML"),
        ("threshold: 5.0\x00", "is not plain YAML"),
        ("object_name: =", "is not plain YAML"),
        (b"SIMPLE  =                    T" + bytes(range(256)), "is not a text file"),
        ('{"cells": [], "metadata": {}}', "cells: there is no such parameter"),
    ],
)
def test_wrong_file_is_named(written, text, told):
    path = written(text)
    with pytest.raises(ParametersError) as refused:
        read_yaml(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert told in message
    assert len(message) < 1000


def test_all_mistakes_are_told_at_once(tmp_path):
    camera, night = tmp_path / "camera.yaml", tmp_path / "night.yaml"
    camera.write_text("thresold: 5.0\nratio: 7.0\nneighbors: 5\n")
    night.write_text("capture_date: 2024-05-08\ncapture_time: 03_37_47\nobject_name: 'D'\nsnr_min: yes\n")
    with pytest.raises(ParametersError) as caught:
        read_parameters([camera, night], [("p_mim", "0.1"), ("injections", "-1")])
    lines = str(caught.value).splitlines()
    expected = (
        (str(camera), "thresold"),
        (str(camera), "ratio"),
        (str(camera), "neighbors"),
        (str(night), "capture_date"),
        (str(night), "capture_time"),
        (str(night), "snr_min"),
        ("-p", "p_mim"),
        ("-p", "injections"),
        ("sessions_directory", "missing"),
    )
    for source, key in expected:
        assert [line for line in lines if line.startswith(source) and key in line], (source, key)
    assert len(lines) == len(expected)


@pytest.mark.parametrize("path", [r"C:\Users\me\darks", r"D:\temp\new", r"\\server\share"])
def test_a_windows_path_in_double_quotes_is_explained(tmp_path, path):
    file = tmp_path / "night.yaml"
    file.write_text(f'sessions_directory: "{path}"\n')
    with pytest.raises(ParametersError, match=r"in double quotes .*'single quotes'"):
        read_parameters([file], [("capture_date", "a"), ("capture_time", "b"), ("object_name", "c")])


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(ParametersError, match=r"there is no absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "text", ["\ufeffthreshold: 5.0", "threshold: 5.0\r\nratio: 0.2\r\n", "threshold: 5", "{threshold: 5.}"]
)
def test_files_of_windows_and_flow_style_are_read(written, text):
    assert validate(read_yaml(written(text)), "here").threshold == 5.0


def test_layers_and_overrides(written):
    camera, night = written("threshold: 150.0\nratio: 0.2\n", "camera.yaml"), written(NIGHT + "ratio: 0.25")
    parameters = read_parameters([camera, night], [("threshold", "180"), ("threshold", "190")])
    assert (parameters.threshold, parameters.ratio, parameters.snr_min) == (190.0, 0.25, 6.0)
    assert read_parameters([night, camera]).ratio == 0.2
    bad = written("ratio: 2.0", "bad.yaml")
    with pytest.raises(ParametersError) as refused:
        read_parameters([camera, bad, night.rename(night.with_name("n.yaml"))], [("threshold", "-1")])
    assert str(refused.value).startswith("-p: threshold: ")


def test_every_wrong_value_is_told(written):
    message = refusal(written(NIGHT + "ratio: 2.0\nthreshold: x\n"), [("p_min", "7")])
    assert [line.split(": ")[1] for line in message.splitlines()] == ["threshold", "ratio", "p_min"]


@pytest.mark.parametrize("missing", NIGHT_KEYS)
def test_a_command_must_be_told_its_night(written, missing):
    text = "".join(line for line in NIGHT.splitlines(keepends=True) if not line.startswith(missing))
    assert refusal(written(text)).startswith(f"{missing}: missing; ")
    assert read_parameters([written(text)], [(missing, "x")])


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("capture_time", "03_38_48", "03_38_48"),
        ("capture_date", "2024-05-08", "2024-05-08"),
        ("object_name", "on", "on"),
        ("filter_name", "null", None),
        ("filter_name", "no", "no"),
        ("threshold", "180", 180.0),
        ("interactive", "false", False),
        ("neighbors", "8", 8),
        ("frame_shape", "[736, 1092]", (736, 1092)),
        ("criterion", "psf_chi2", "psf_chi2"),
        ("known_pixels", "null", None),
    ],
)
def test_override_keeps_text_as_text(written, key, text, value):
    assert getattr(read_parameters([written(NIGHT)], [(key, text)]), key) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("threshold", "1e3"),
        ("threshold", "1_000"),
        ("threshold", ""),
        ("threshold", "a: b: c"),
        ("threshold", "9" * 5000),
        ("threshold", "[" * 5000),
        ("threshold", "!!float 5"),
        ("interactive", "yes"),
        ("frame_shape", "2048 2048"),
        ("object_name", ""),
        ("object_name", "null"),
    ],
)
def test_wrong_override_is_named(written, key, text):
    assert refusal(written(NIGHT), [(key, text)]).startswith(f"-p: {key}: ")


def test_unknown_override(written):
    assert refusal(written(NIGHT), [("thresold", "1")]) == (
        "-p: thresold: there is no such parameter; did you mean threshold?"
    )


def test_integer_time_from_papermill_is_refused_with_a_hint():
    with pytest.raises(ParametersError, match=r'notebook: capture_time: .*Quote it, as in capture_time: "03_38_48"'):
        Parameters.from_namespace({"capture_time": 33848, "other": object()})
    with pytest.raises(ParametersError, match=r"capture_date: .*Quote it"):
        Parameters.from_namespace({"capture_date": 20240508})


def test_namespace_gives_the_parameters_alone():
    namespace = {"threshold": 180.0, "frame_shape": [10, 20], "np": re, "_": 3}
    assert Parameters.from_namespace(namespace) == Parameters(threshold=180.0, frame_shape=(10, 20))


def test_parameters_do_not_change():
    with pytest.raises(ValidationError):
        Parameters().threshold = 3.0


def test_derived_values():
    parameters = Parameters()
    assert parameters.scale == 1.39 / 16
    assert parameters.fwhm == 2.0
    assert parameters.capture_directory == CHECKOUT / "outputs/demo_sessions/2024-05-08/03_38_48/Dark30s"


def test_paths_are_from_the_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert from_working_folder("~/2024 SLA Sessions") == tmp_path / "2024 SLA Sessions"
    assert from_working_folder(tmp_path / "a") == tmp_path / "a"
    assert from_working_folder("outputs") == CHECKOUT / "outputs"


folder_names = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1).filter(
    lambda text: not text.startswith(".")
)
random_parameters = st.builds(
    Parameters,
    object_name=folder_names,
    capture_time=folder_names | st.just("03_37_47") | st.just("2024-05-08") | st.just("yes") | st.just("1e3"),
    filter_name=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    threshold=st.floats(min_value=1e-3, max_value=1e9),
    frame_shape=st.tuples(st.integers(1, 2**14), st.integers(1, 2**14)),
    interactive=st.booleans(),
    random_seed=st.integers(0, 2**63 - 1),
)


@given(random_parameters)
@pytest.mark.slow
def test_written_parameters_are_read_back_by_every_reader(tmp_path_factory, parameters):
    path = tmp_path_factory.mktemp("written") / "all.yaml"
    path.write_text("# a comment: !!x\n" + to_yaml(parameters), encoding="utf-8")
    assert read_parameters([path]) == parameters
    papermills = papermill.iorw.read_yaml_file(str(path))
    assert Parameters.from_namespace(papermills) == parameters


def test_camera_file_is_the_defaults_with_unit_and_meaning():
    values = read_yaml(PARAMS / "qhy42pro.yaml")
    assert set(values) == set(Parameters.model_fields) - set(NIGHT_KEYS)
    assert validate(values, "here") == Parameters()
    for line in (PARAMS / "qhy42pro.yaml").read_text().splitlines():
        if line and not line.startswith(("#", "random_seed")):
            assert re.search(r"  # \w", line), f"{line}: says no unit or meaning"


def test_demo_file_is_the_default_night():
    demo = read_parameters([PARAMS / "qhy42pro.yaml", PARAMS / "demo.yaml"])
    assert demo == Parameters(threshold=180.0, ratio=0.15), "a dozen candidates to look at"


def test_the_observers_night():
    parameters = read_parameters([PARAMS / "qhy42pro.yaml", PARAMS / "2024-05-08.yaml"])
    expected = Path("~/2024 SLA Sessions/2024-05-08/03_38_48/Dark30s").expanduser()
    assert parameters.capture_directory == expected


def test_every_shipped_file_is_valid():
    for path in PARAMS.glob("*.yaml"):
        validate(read_yaml(path), str(path))


def test_real_night_is_found(real_sessions):
    directory = read_parameters([PARAMS / "st10-2012-06-17.yaml"]).capture_directory
    assert len(list(directory.resolve().iterdir())) == 20


NUMBERS = [
    (name, kind)
    for name, field in Parameters.model_fields.items()
    for kind in {int, float}
    & {field.annotation, *(getattr(part, "__origin__", part) for part in get_args(field.annotation))}
]


@pytest.mark.parametrize(("name", "kind"), NUMBERS)
def test_every_number_has_its_bounds(name, kind):
    """No number that fits a float is too large to be refused with the bound, and none is printed with 300 digits."""
    pair = isinstance(Parameters.model_fields[name].default, tuple)
    for number in (kind(10) ** 300, -(kind(10) ** 300)):
        with pytest.raises(ParametersError, match=f"here: {name}: .*([0-9]|0 < )") as told:
            validate({name: [number, number] if pair else number}, "here")
        assert len(str(told.value)) < 400


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
@pytest.mark.parametrize("name", ["night.yaml", "mask.fits", "mask.ecsv"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "zero"])
def test_pipes_and_devices_are_not_waited_for(tmp_path, name, make):
    path = tmp_path / name
    make(path)
    read = read_yaml if name == "night.yaml" else lambda path: read_known_pixels(Parameters(known_pixels=str(path)))
    with pytest.raises(ParametersError, match="not a regular file"):
        read(path)


def test_a_file_far_too_large_for_parameters(tmp_path):
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ParametersError, match="is larger than 1048576 bytes"):
        read_yaml(tmp_path / "large.yaml")


def test_published_figures_are_a_strict_mapping():
    given = validate({"published": {"read_noise": 1.58, "source": "a paper"}}, "x")
    assert given.published.read_noise == 1.58
    with pytest.raises(ParametersError, match=r"x: published.read_nois: Extra inputs are not permitted"):
        validate({"published": {"read_nois": 1.58}}, "x")
    with pytest.raises(ParametersError, match=r"x: published.gain: Input should be a valid number"):
        validate({"published": {"gain": "much"}}, "x")
