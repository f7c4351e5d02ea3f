"""The pages: a notebook without its code, and the night at a glance."""

import base64
import html
import re

import nbformat
import pytest
from browser import browser, offline  # noqa: F401
from nbformat import v4

from sla1tools.parameters import Parameters
from sla1tools.show.heading import Heading
from sla1tools.show.night_page import night_page, quantity
from sla1tools.show.pages import GALLERY_MIME, clean_html, export_html, gallery_html, write_index

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HEADING = Heading(
    "2024-05-08/03_38_48/Dark30s",
    "QHY42",
    9,
    30.0,
    {"The night at a glance": "index.html", "This": "n.html", "All nights": "../../../index.html"},
)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def write_notebook(path, *cells):
    nbformat.write(v4.new_notebook(cells=list(cells), metadata={"widgets": {"state": {}}}), path)
    return path


def code(*outputs):
    return v4.new_code_cell("secret_source = 1", execution_count=7, outputs=list(outputs))


def display(**kinds):
    return v4.new_output("display_data", data={kind.replace("_", "/"): value for kind, value in kinds.items()})


@pytest.fixture
def exported(tmp_path):
    def export(*cells, **options):
        export_html(write_notebook(tmp_path / "n.ipynb", *cells), tmp_path / "n.html", **options)
        return tmp_path / "n.html"

    return export


def test_words_and_outputs_stay_code_and_prompts_go(exported):
    text = exported(
        v4.new_markdown_cell("# How dark?\n\nThe *median* of ten."),
        code(
            v4.new_output("stream", name="stdout", text="ten frames"),
            display(text_html="<table><tr><td>5</td></tr></table>"),
        ),
        heading=HEADING,
    ).read_text()
    assert "<title>How dark? · 2024-05-08 03_38_48 Dark30s · QHY42 · 9 frames of 30 s</title>" in text
    assert "<em>median</em>" in text
    assert "ten frames" in text
    assert "<td>5</td>" in text
    assert 'href="index.html"' in text
    assert 'href="n.html"' not in text
    assert "secret_source" not in text
    assert "[7]" not in text
    assert len(text) < 20_000


def test_images_carry_their_own_words_or_their_headings(exported):
    own = display(image_png=base64.b64encode(PNG).decode())
    own.metadata["alt"] = 'noise "map"'
    cells = [v4.new_markdown_cell("## Noise"), code(display(image_png=base64.b64encode(PNG).decode()), own)]
    text = exported(*cells).read_text()
    assert 'alt="Figure: Noise"' in text
    assert "noise &quot;map&quot;" in text or "alt='noise \"map\"'" in text


def test_dead_widgets_and_scripts_are_dropped(exported):
    widget = display(text_plain="IntSlider()")
    widget.data["application/vnd.jupyter.widget-view+json"] = {"model_id": "m"}
    text = exported(code(widget, display(application_javascript="alert(1)"))).read_text()
    assert "IntSlider" not in text
    assert "alert(1)" not in text


def test_cleaning_shows_what_it_does_not_trust():
    assert clean_html("<table><tr><th scope='col'>x</th></tr></table>").count("<") == 6 + 2
    for text in ("<iframe src='//x'>", "<SCRIPT>alert(1)</SCRIPT>", "<form>", "<style>p{}</style>", "a <b", "<"):
        assert clean_html(f"<p>{text}</p>") == f"<p>{html.escape(text, quote=False)}</p>", "shown as text"
    assert clean_html("<b>1</b><!-- a --><B title='<'>2</B>") == '<b>1</b><b title="&lt;">2</b>'
    assert clean_html("<p style='text-align:left;position:fixed'>a</p>") == '<p style="text-align:left">a</p>'
    for text in ("<svg><style><img src=x onerror=a>", "<math><mi><b onclick=x>", "<b/onclick=x>", "<a\nonclick=x>"):
        assert not re.search(r"<[^>]*\bon\w+", clean_html(text)), text
    assert "onerror" not in clean_html("<img src='data:image/png;base64,AA' onerror='alert(1)'>")
    assert "javascript" not in clean_html("<a href='javascript:alert(1)'>a</a>")
    assert "data:" not in clean_html("<a href='data:text/html,x'>a</a>")
    assert "http" not in clean_html("<img src='https://example.org/a.png'>")


def test_hostile_outputs_neither_run_nor_ask_the_network(exported, offline):  # noqa: F811
    page = exported(
        v4.new_markdown_cell("# T\n\n" + HOSTILE + "\n\n![x](https://example.org/x.png)"),
        code(
            display(text_html=HOSTILE + "<link rel=stylesheet href=https://example.org/a.css><base href=//evil>"),
            display(text_markdown=HOSTILE + " $\\foo$"),
            v4.new_output("stream", name="stdout", text=HOSTILE),
        ),
    )
    watched = offline()
    shown = watched.open(page).inner_text("body")
    assert watched.requests == []
    assert watched.complaints == []
    assert shown.count("<script>alert(1)</script>") == 4


def test_policy_blocks_what_would_slip_through(tmp_path, exported, offline):  # noqa: F811
    page = exported(v4.new_markdown_cell("# T"))
    page.write_text(page.read_text().replace("</body>", "<script>document.title = 'ran'</script></body>"))
    watched = offline()
    assert watched.open(page).title() == "T"


def test_gallery_payload_cannot_close_its_script():
    text = gallery_html({"frames": ["</script><script>alert(1)</script>"], "montage": "", "caption": "<b>"})
    assert text.count("</script>") == 1
    assert "&lt;b&gt;" in text
    with pytest.raises(ValueError, match="JSON"):
        gallery_html({"value": float("nan")})


def test_static_gallery_is_a_picture(exported):
    payload = {"interactive": False, "montage": base64.b64encode(PNG).decode(), "caption": "three <candidates>"}
    text = exported(code(v4.new_output("display_data", data={GALLERY_MIME: payload, "text/plain": "x"}))).read_text()
    assert 'alt="three &lt;candidates&gt;"' in text
    assert "application/json" not in text
    assert "startAll" not in text


SUMMARY = {
    "night": {"capture_date": "2024-05-08", "capture_time": "03_38_48", "object_name": HOSTILE},
    "verdict": "degraded",
    "reasons": ["1 frame rejected: level"],
    "notes": [HOSTILE],
    "frames": {"used": ["1.fits", "2.fits"], "rejected": {"level": ["3.fits"]}, "ignored": ["truth.ecsv"]},
    "candidates": {"neighbor_ratio": {"held_out": 0, "in_sample": 0}},
    "false_alarms_per_frame": {
        "neighbor_ratio": {"rate": 0.0, "low": 0.0, "high": 0.3, "confidence": 0.95, "gaussian_expectation": 1.7e-5}
    },
    "completeness": {
        "neighbor_ratio": {
            "flux_50": {"flux": 1961.0, "low": 1900.0, "high": 2030.0},
            "flux_90": {"flux": None, "low": None, "high": None},
            "curve": [{"flux": 300.0}],
        }
    },
    "operating_point": {
        "neighbor_ratio": None,
        "psf_chi2": {
            "cuts": {"snr_min": 6.2, "p_min": 0.001},
            "flux_50": 702.0,
            "quoted_on": {"high": 0.6},
        },
    },
}


@pytest.mark.parametrize(
    ("folder", "alive"),
    [
        ("outputs/2024-05-08/03_38_48/Dark30s", ["The night at a glance", "All nights"]),
        ("a copy of the night/Dark30s", ["The night at a glance"]),
        ("mail", []),
        ("NotDark30s", []),
    ],
)
def test_a_page_that_was_sent_alone_has_no_dead_link(exported, offline, tmp_path, folder, alive):  # noqa: F811
    place = tmp_path / folder / "n.html"
    place.parent.mkdir(parents=True)
    exported(v4.new_markdown_cell("# How dark?"), heading=HEADING).rename(place)
    watched = offline()
    page = watched.open(place)
    assert page.locator("a").all_inner_texts() == alive
    says_where = "the others are: 2024-05-08/03_38_48/Dark30s below the outputs" in page.inner_text("nav")
    assert says_where == (len(alive) < 2)
    assert "2024-05-08 03_38_48 Dark30s · QHY42 · 9 frames of 30 s" in page.inner_text("header")
    assert (watched.requests, watched.complaints) == ([], [])


def test_every_printed_page_names_the_night(exported, offline):  # noqa: F811
    """A camera's name cannot leave the quotes of the style sheet, nor its element."""
    hostile = Heading("2024-05-08/03_38_48/Dark30s", """x"; } </style><b>bold</b>\\""", 9, 30.0)
    page = offline().open(exported(v4.new_markdown_cell("# How dark?"), heading=hostile))
    rules = page.evaluate(
        "Array.from(document.styleSheets).flatMap(sheet => Array.from(sheet.cssRules))"
        ".filter(rule => rule.constructor.name === 'CSSPageRule').map(rule => rule.cssText)"
    )
    assert any("2024-05-08 03_38_48 Dark30s" in rule and "9 frames of 30 s" in rule for rule in rules)
    assert page.locator("b").count() == 0
    assert hostile.camera in page.inner_text("header")


def test_index_says_verdict_meaning_and_action(tmp_path, offline):  # noqa: F811
    path = tmp_path / "index.html"
    manifest = {"parameters": Parameters().model_dump(mode="json"), "versions": {"sla1tools": "0.1.0"}}
    manifest["inputs"] = [{"name": "3.fits", "verdict": "rejected", "reason": "level", "detail": "", "sha256": None}]
    links = {"Candidates": "02_candidate_finding.html", "evil": "javascript:alert(1)"}
    write_index(path, SUMMARY, manifest, {f"Noise {HOSTILE}": PNG}, links)
    watched = offline(width=390)
    page = watched.open(path)
    text = page.inner_text("body")
    assert watched.requests == []
    assert watched.complaints == []
    assert text.index("No false alarm in 2 darks") < text.index("The numbers") < text.index("Parameters")
    assert "still allows 288 in a night of 8 h, 960 frames" in text
    assert "1,961 e- (1,900–2,030)" in text
    assert "not reached" in text
    assert "psf_chi2 at S/N ≥ 6.2, p ≥ 0.001 keeps the budget" in text
    assert "3.fits" in text
    assert "rejected (level)" in text
    assert HOSTILE in text
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not re.search("href=.javascript:", path.read_text())
    assert page.locator("img").first.get_attribute("alt") == f"Noise {HOSTILE}"


def numbers_of(path, summary, manifest):
    """Value and note of every row of the page's table of numbers, by name."""
    write_index(path, summary, manifest, {}, {})
    row = r'<tr><td>(.+?)</td><td class="number"><strong>(.+?)</strong></td><td class="quiet">(.*?)</td></tr>'
    return {name: (value, note) for name, value, note in re.findall(row, path.read_text(encoding="utf-8"))}


def test_a_zero_point_adds_magnitudes_to_the_nights_page(tmp_path):
    manifest = {"parameters": Parameters(zero_point=25.0).model_dump(mode="json")}
    numbers = numbers_of(tmp_path / "i.html", SUMMARY, manifest)
    assert numbers["neighbor_ratio: 50 % flux"][0] == "1,961 e- (1,900–2,030) (16.77 mag)"
    page = night_page(SUMMARY, manifest)
    assert "702 e- (17.88 mag)" in " ".join(page["verdict"]["actions"])


def test_what_is_said_of_ten_files_is_said_once():
    same = [{"name": f"{k}.fits", "verdict": "used", "detail": "FILTER unknown"} for k in range(10)]
    odd = {"name": "x.fits", "verdict": "rejected", "reason": "level", "detail": "9 sigma"}
    page = night_page({}, {"inputs": [*same[:4], odd, *same[4:], {"name": "notes.txt", "verdict": "ignored"}]})
    assert [(len(row["names"]), row["verdict"], row["detail"]) for row in page["files"]] == [
        (10, "used", "FILTER unknown"),
        (1, "rejected (level)", "9 sigma"),
        (1, "ignored", ""),
    ]
    assert page["tally"] == {"used": 10, "rejected": 1, "ignored": 1}


def test_what_is_missing_reads_not_tested(tmp_path):
    write_index(tmp_path / "i.html", {}, {}, {}, {})
    text = (tmp_path / "i.html").read_text()
    assert "not tested" in text
    assert "None" not in text
    assert ">nan<" not in text


def test_budget_decides_the_advice():
    def advice(budget):
        return " ".join(night_page(SUMMARY, {"parameters": {"false_alarm_budget": budget}})["verdict"]["actions"])

    assert "Keep the setting" in advice(0.5)
    assert "exceeds the budget" in advice(0.1)


def test_a_night_of_few_frames_says_how_many_would_do_and_gives_the_seasons_setting():
    manifest = {"parameters": Parameters().model_dump(mode="json")}
    for setting, told in (
        (None, "a season would, too"),
        ({"threshold": 188.0, "ratio": 0.2}, "threshold 188 e-, ratio 0.2"),
    ):
        actions = night_page(SUMMARY, manifest | {"season_setting": setting})["verdict"]["actions"]
        (one,) = [action for action in actions if "alone recommends no setting" in action]
        assert "half of 2 frames cannot" in one
        assert "11 frames would do" in one
        assert told in one


def test_published_figures_stand_beside_the_measured_ones(tmp_path):
    published = {"read_noise": 1.58, "dark_current": 2.2, "temperature": -20.0, "gain": 0.11, "source": "a paper"}
    parameters = Parameters(published=published, dark_exposure=60.0).model_dump(mode="json")
    rows = numbers_of(tmp_path / "i.html", {"dark": {"level": 1296.0}}, {"parameters": parameters})
    assert rows["shot noise of the level"][0] == "36 e-"
    assert rows["read noise, published"] == ("1.58 e-", "a paper")
    assert rows["dark signal, published"] == ("132 e-", "a paper: 2.2 e-/s at -20 C")
    assert rows["gain, published"][0] == "0.11 e-/ADU"
    assert not any("published" in name for name in numbers_of(tmp_path / "i.html", {"dark": {"level": 1.0}}, {}))


def test_the_first_doubt_gives_the_one_thing_to_do():
    doubts = [
        {"reason": "a", "meaning": "if the padding is 1, your 200 e- are 3,200 e-", "cure": "look up the gain"},
        {"reason": "b", "meaning": "it means little", "cure": "look at the files"},
    ]
    verdict = night_page(SUMMARY, {"doubts": doubts})["verdict"]
    assert verdict["actions"][:2] == ["Look up the gain.", "Look at the files."]
    assert verdict["meaning"][0] == "If the padding is 1, your 200 e- are 3,200 e-."


def test_a_rate_that_is_not_known_is_no_headline():
    crowded = {
        "frames": {"used": ["a", "b", "c"]},
        "candidates": {"neighbor_ratio": {"held_out": 2574}},
        "false_alarms_per_frame": {"neighbor_ratio": {"rate": None, "low": None, "high": None}},
    }
    verdict = night_page(crowded | {"verdict": "degraded"}, {})["verdict"]
    assert verdict["headline"] == "More false alarms than can be measured in 3 darks"
    assert verdict["state"] == "No rate can be told from this night"


def test_quantities_read_well():
    assert quantity(float("nan")) == "not tested"
    assert quantity(12345.6, "e-") == "12,346 e-"
    assert quantity(0.000017) == "1.7e-05"
    assert quantity(0) == "0"
    assert quantity(None, "e-") == "not tested"


@pytest.mark.parametrize("exposure", [0.0, 0.000114])
@pytest.mark.parametrize("rate", [0.0, 2.0])
def test_biases_have_no_number_in_a_night(exposure, rate):
    """Eight hours of exposures of 0.000114 s would be 252,631,579 frames; of 0 s, a division by zero."""
    alarms = {"neighbor_ratio": {"rate": rate, "low": rate / 2, "high": rate + 0.3, "confidence": 0.95}}
    parameters = Parameters(dark_exposure=exposure).model_dump(mode="json")
    page = night_page(SUMMARY | {"false_alarms_per_frame": alarms}, {"parameters": parameters})
    told = " ".join(page["verdict"]["meaning"])
    assert f"Frames of {exposure:g} s are biases: a number in a night is not defined." in told
    assert "in a night of" not in told
    assert Parameters(dark_exposure=exposure).frames_per_night is None
    assert Parameters().frames_per_night == 960


def test_headline_and_rate_count_the_same_candidates():
    """Compared with all frames, fewer are found than held out: the headline must not say the other number."""
    summary = SUMMARY | {"candidates": {"neighbor_ratio": {"held_out": 31, "in_sample": 4}}}
    for reference, told in (("all", "4 false alarms in 2 darks"), ("leave_one_out", "31 false alarms in 2 darks")):
        parameters = Parameters(reference=reference).model_dump(mode="json")
        assert night_page(summary, {"parameters": parameters})["verdict"]["headline"] == told
