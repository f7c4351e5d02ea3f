"""The pages people read: a notebook without its code, and the night at a glance.

Both are one file each, open offline, and ask the network for nothing: a content security policy in the page forbids
it. Text from file headers is escaped; scripts other than the explorer's own cannot run.
"""

import base64
import functools
import hashlib
import html
import io
import json
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sla1tools.show.glossary import GLOSSARY
from sla1tools.show.heading import Heading
from sla1tools.show.night_page import confidence, limited, night_page, quantity
from sla1tools.text import chance_text, counted, printable, shown

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).resolve().parent / "templates"
GALLERY_MIME = "application/vnd.sla1.gallery+json"
DPI, SHARP = 110, 2  # pixels of a page to an inch, and dots to such a pixel
LEAST = 9 / (10 * DPI / 72)  # of a figure's width, on a telephone: text of 10 pt is then 9 px high
BROAD = 700  # px: a figure of more stands alone
WIDGET_MIME = "application/vnd.jupyter.widget-view+json"

_SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]
_TAGS = """
    a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 h5 h6
    hr i img ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th thead tr u
    ul var
"""
_ATTRIBUTES = """
    abbr align alt class colspan headers height id lang open rowspan scope start style title width
"""
_STYLES = """
    background-color border-collapse border-color color font-family font-size font-style font-weight height
    line-height text-align text-decoration text-indent vertical-align white-space width
"""


def export_html(notebook_path: str | Path, html_path: str | Path, heading: Heading | None = None) -> None:
    """Write an executed notebook as a report: its words, figures and tables, without code and prompts.

    Parameters
    ----------
    notebook_path : path
        An executed notebook.
    html_path : path
        The page to write; its folder must exist.
    heading : Heading, optional
        The night that title, head and printed pages name, and the links at the top.

    Notes
    -----
    An explorer in the notebook stays alive in the page. Other widgets are dropped: they are dead without a kernel.
    Images carry the `alt` of their output's metadata, else the heading they stand under. HTML and Markdown keep only
    elements that format text; the rest is shown as text, escaped. TeX is not typeset: notebooks write Unicode.
    """
    import nbformat

    notebook = nbformat.read(Path(notebook_path), as_version=4)
    galleries = _prepare(notebook, Path(notebook_path).stem)
    alive = any(payload.get("interactive", True) for payload in galleries.values())
    script = page_script(with_explorer=alive)
    css = page_css(with_explorer=bool(galleries))
    if heading:
        notebook.metadata.title = f"{notebook.metadata.title} · {heading.text}"
        css += heading.print_css
    page, _ = _exporter().from_notebook_node(
        notebook,
        resources={
            "metadata": {"name": notebook.metadata.title},
            "sla1_policy": policy(script),
            "sla1_css": css,
            "sla1_head": heading_html(heading, Path(html_path).name) if heading else "",
            "sla1_foot": page_template("glossary.html.j2").render(),
        },
    )
    for slot, payload in galleries.items():
        page = page.replace(slot, gallery_html(payload), 1)
    page = page.replace("</body>", f'<script type="module">{script}</script>\n</body>', 1)
    Path(html_path).write_text(page, encoding="utf-8")


def write_index(
    path: str | Path,
    summary: Mapping[str, Any],
    manifest: Mapping[str, Any],
    figures: Mapping[str, bytes],
    links: Mapping[str, str],
) -> None:
    """Write the night at a glance: what was found, what it means, what to do; then numbers, figures, files.

    Parameters
    ----------
    path : path
        The page to write.
    summary : mapping
        The contents of `summary.json`. What is missing or None reads "not tested".
    manifest : mapping
        Of `manifest.json`: `camera`, `parameters`, `inputs` (a list of mappings with `name`, `verdict`, and `reason`,
        `detail` where there are any), `versions`, `git_commit`, `random_seed`, `start`, `end`. All optional.
    figures : mapping of str to bytes
        PNG files by title; the title is caption and alternative text.
    links : mapping of str to str
        Text to relative path, for the reports and products beside the page, and the page of all nights.
    """
    content = night_page(summary, manifest)
    heading = Heading(content["folder"], manifest.get("camera"), content["frames"], content["exposure"], links)
    content |= {"heading": heading, "head": heading_html(heading, Path(path).name), "figures": figures}
    content |= {"quantity": quantity, "limited": limited, "confidence": confidence}
    page = page_html("night", heading.print_css, **content)
    Path(path).write_text(page, encoding="utf-8")


def heading_html(heading: Heading, page: str) -> str:
    """Return the head of a night's page, whose own name tells which link is to itself."""
    rows = heading.rows(page)
    return page_template("heading.html.j2").render(text=heading.text, folder=heading.folder, links=rows)


def page_html(name: str, css: str = "", with_explorer: bool = False, **content) -> str:
    """Return a page: self-contained, and asking nothing of the network.

    Parameters
    ----------
    name : str
        Of its template; what it does and looks like beyond all pages is in `name.js` and `name.css`, if there are any.
    css : str
        Rules of this page alone.
    with_explorer : bool
        Whether explorers come alive in it.
    **content
        What the template asks.
    """
    script = _own(f"{name}.js") + page_script(with_explorer)
    css = page_css(with_explorer) + _own(f"{name}.css") + css
    page = page_template(f"{name}.html.j2")
    return page.render(content, name=name, policy=policy(script), script=script, css=css)


def _own(name: str) -> str:
    path = TEMPLATES / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def page_script(with_explorer: bool) -> str:
    """Return what every page does: figures at full size, what scrolls says so, no dead link where it was sent alone."""
    return _own("page.js") + (f"{explorer_module()}\nstartAll(document);\n" if with_explorer else "")


def width_of(image: bytes) -> int:
    """Return how many pixels of a page wide a picture of `figures.png` is to be shown."""
    from PIL import Image

    picture = Image.open(io.BytesIO(image))
    density, _ = picture.info.get("dpi", (SHARP * DPI, 0))  # a notebook of one's own may show a picture that tells none
    return round(picture.width * DPI / density)


def figure_html(image: bytes, alt: str, caption: str = "", width: int | None = None, kind: str = "image/png") -> str:
    """Return a figure that opens at its full size.

    Parameters
    ----------
    image : bytes
        A picture file.
    alt, caption : str
        What it shows; the text below it, if any. Both are escaped.
    width : int, optional
        In pixels of the page; by default that of a picture of `figures.png`. 0 for the picture's own.
    kind : str
        Of the file.
    """
    width = width_of(image) if width is None else width
    size = f' width="{width}" style="--least: {LEAST * width:.0f}px"' if width else ""
    source = f"data:{kind};base64,{base64.b64encode(image).decode()}"
    below = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure{" class=broad" * (width > BROAD)}><button type="button" class="zoom" title="Show at full size">'
        f'<img src="{source}" alt="{html.escape(alt)}"{size}></button>{below}</figure>'
    )


@functools.cache
def page_template(name: str) -> "Template":
    """Return the template of a page: all text that it is given is escaped, control characters too."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # not what is marked as safe
    )
    # A quoted path can hold no scheme: javascript: becomes a file name.
    environment.filters["address"] = lambda target: quote(target, safe="/.")
    environment.globals |= {
        "glossary": GLOSSARY,
        "figure": figure_html,
        "shown": shown,
        "chance": chance_text,
        "counted": counted,
    }
    return environment.get_template(name)


def policy(script: str) -> str:
    """Return a content security policy: no request at all, and no script but this one."""
    rules = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]
    rules += ["base-uri 'none'", "form-action 'none'"]
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        rules.append(f"script-src 'sha256-{digest}'")
    return "; ".join(rules)


def page_css(with_explorer: bool) -> str:
    """Return the pages' one style sheet, with the explorer's where there is one."""
    return _own("page.css") + (explorer_css() if with_explorer else "")


def explorer_module() -> str:
    """Return the explorer's front end as one ES module, as anywidget takes it."""
    parts = ("selection.js", "words.js", "drawing.js", "controls.js", "saving.js", "explorer.js")
    return "\n".join((TEMPLATES.parent / "explorer" / part).read_text(encoding="utf-8") for part in parts)


def explorer_css() -> str:
    """Return the explorer's style sheet."""
    return (TEMPLATES.parent / "explorer" / "explorer.css").read_text(encoding="utf-8")


def gallery_html(payload: Mapping[str, Any]) -> str:
    """Return the place where an explorer comes alive: its payload, and a picture for readers without JavaScript.

    Parameters
    ----------
    payload : mapping
        As `Explorer` makes it. No NaN or infinity: JSON has none.

    Raises
    ------
    ValueError
        If the payload holds a NaN or an infinity.
    """
    fallback = sheet_html(payload.get("montage", ""), payload.get("caption", ""))
    if not payload.get("interactive", True):
        return fallback
    text = json.dumps({**payload, "montage": ""}, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<div class="sla1-gallery">{fallback}<script type="application/json">{text}</script></div>'


def sheet_html(montage: str, caption: str) -> str:
    """Return an explorer's picture, a PNG as base64 or "", with the sentence below it."""
    text = html.escape(caption)
    picture = f'<img src="data:image/png;base64,{html.escape(montage)}" alt="{text}">' if montage else ""
    return f'<figure class="sla1-static">{picture}<figcaption>{text}</figcaption></figure>'


def clean_html(text: str) -> str:
    """Keep the elements that format text, show everything else as text.

    >>> clean_html("<b>12</b> <script>alert(1)</script>")
    '<b>12</b> &lt;script&gt;alert(1)&lt;/script&gt;'
    """
    import nh3

    # nh3 drops what it does not keep: what is no tag to be kept becomes text before
    shown = re.sub(rf"<(?!!--|/?(?:{'|'.join(_TAGS.split())})[\s/>])", "&lt;", text, flags=re.IGNORECASE)
    return nh3.clean(
        shown,
        tags=set(_TAGS.split()),
        attributes={"*": set(_ATTRIBUTES.split()), "img": {"src"}, "a": {"href"}},
        attribute_filter=_kept,
        filter_style_properties=set(_STYLES.split()),
        url_schemes={"http", "https", "mailto", "data"},
        link_rel=None,
    )


def _kept(tag: str, name: str, value: str) -> str | None:
    """Return the value of an attribute that may stay: pictures are in the page itself, and no link holds one."""
    if name == "src":
        return value if re.match(r"data:image/(png|jpeg|gif|svg\+xml);", value) else None
    return None if name == "href" and value.strip().lower().startswith("data:") else value


@functools.cache
def _exporter():
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    return HTMLExporter(
        config=Config({"NbConvertBase": {"display_data_priority": _SHOWN}}),
        template_name="sla1",
        extra_template_basedirs=[str(TEMPLATES)],
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        sanitize_html=True,
        optimistic_validation=True,  # once, not after each of ten steps
        filters={"clean_html": clean_html, "figure": _output_figure},
    )


def _output_figure(output, kind: str) -> str:
    """Return the figure of a cell's output."""
    data, own = output.data[kind], output.metadata.get(kind, {})
    image = data.encode() if kind == "image/svg+xml" else base64.b64decode(data)
    return figure_html(image, own.get("alt") or output.metadata.alt, width=int(own.get("width", 0)), kind=kind)


def _prepare(notebook, name: str) -> dict[str, dict]:
    """Title the notebook, give its images their words, and put a slot where each explorer goes; {slot: payload}."""
    galleries: dict[str, dict] = {}
    heading, title = "", ""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", cell.source, flags=re.MULTILINE)
            heading = headings[-1] if headings else heading
            title = title or (headings[0] if headings else "")
        for output in cell.get("outputs", []):
            if "data" not in output:
                continue
            output.metadata.setdefault("alt", f"Figure: {heading or name}")
            output.metadata["section"] = heading or name
            if GALLERY_MIME in output.data:
                # The slot is put past the cleaner and the HTML parser; no text of the notebook can know its name.
                slot = f"explorer-{secrets.token_hex(16)}"
                galleries[slot] = output.data[GALLERY_MIME]
                output.data, output.metadata["section"] = {"text/html": f"<div>{slot}</div>"}, ""
            elif WIDGET_MIME in output.data or not set(output.data) & set(_SHOWN):
                output.data = {"text/html": ""}
    notebook.metadata.title = title or name
    return galleries
