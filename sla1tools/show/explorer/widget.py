"""The candidate explorer: sliders over the night's two tables, alive in JupyterLab and in the report.

Nothing is detected again when a slider moves: the front end selects on tables it already holds. In JupyterLab the
controls are ipywidgets, whose values the front end reads without a detour through the kernel; in the report the same
module draws its own.
"""

import base64
import functools
from typing import Any

import numpy as np
from IPython.display import display

from sla1tools.candidates.criteria import CRITERIA, CUTS
from sla1tools.parameters import Parameters, save_setting, validate
from sla1tools.show import contact_sheet
from sla1tools.show.explorer import payload as gallery
from sla1tools.show.explorer.payload import SLIDERS, Exhibit
from sla1tools.show.pages import GALLERY_MIME, explorer_css, explorer_module, sheet_html


class Explorer:
    """Show the candidates at any setting, and what the setting costs and finds.

    Display it as the last line of a cell. With ``interactive: false`` it is a contact sheet for printing.

    Notes
    -----
    The tables are not changed. Header text is shown as text, whatever it holds.
    """

    def __init__(self, exhibit: Exhibit):
        self.exhibit, self.parameters = exhibit, exhibit.parameters
        self._picture, self.caption = contact_sheet.picture(exhibit), contact_sheet.caption(exhibit)
        alive = self.parameters.interactive
        self.payload: dict[str, Any] = gallery.payload(exhibit) if alive else {"interactive": False}

    @functools.cached_property
    def widget(self):
        """The ipywidgets box: controls above, front end below."""
        box = _box(self.payload, self.parameters)
        box.children[-1].on_msg(self._answer)
        return box

    def _answer(self, view, content, buffers) -> None:
        """Send the front end what its payload does not carry of some rows: cutouts; wide ones, and histories."""
        rows = np.array(content.get("rows", ()), int)
        if not content.get("closer"):
            view.send(content, [gallery.shades(self.exhibit.stamps(rows), self.payload["cutouts"]).tobytes()])
            return
        wide = gallery.shades(self.exhibit.closer(rows), self.payload["cutouts"])
        view.send(content, [wide.tobytes(), self.exhibit.history(rows).astype("<f8").tobytes()])

    def _ipython_display_(self) -> None:
        """Show the picture, and below it the live widget, whose style sheet hides the picture.

        In one output other converters would take the widget, and show nothing where it is dead.
        """
        display(self._repr_mimebundle_(), raw=True)
        if self.parameters.interactive and not self.parameters.products_directory:  # a run's kernel is gone after it
            alive = self.widget._repr_mimebundle_() | {"text/plain": "Sliders live in JupyterLab, and in the report."}
            display(alive, raw=True)

    def _repr_mimebundle_(self, include=None, exclude=None):
        """Offer the report's payload, the picture, and text; the reader takes the first it knows."""
        montage = base64.b64encode(self._picture).decode()
        payload = {**self.payload, "montage": montage, "caption": self.caption}
        shown = {"text/html": sheet_html(montage, self.caption)} | ({"image/png": montage} if montage else {})
        return {GALLERY_MIME: payload, "text/plain": self.caption} | shown


@functools.cache
def _front_end():
    """The anywidget class; made on first use, because anywidget and ipywidgets are slow to import."""
    import anywidget
    import traitlets
    from ipywidgets import widget_serialization

    class FrontEnd(anywidget.AnyWidget):
        _esm = explorer_module()
        _css = explorer_css()
        payload = traitlets.Dict().tag(sync=True)
        controls = traitlets.Dict().tag(sync=True, **widget_serialization)
        sliders = traitlets.Dict().tag(sync=True, **widget_serialization)

    return FrontEnd


def _box(payload, parameters):
    import ipywidgets as widgets

    rows = {name: _slider_row(name, payload) for name in SLIDERS}
    criterion = payload["setting"]["criterion"]
    choice = widgets.Dropdown(options=tuple(CRITERIA), index=criterion, description="criterion")
    # The number that counts is the field's; the slider's is its place among the slider's steps.
    controls = {"criterion": choice} | {name: row.children[1] for name, row in rows.items()}
    sliders = {name: row.children[0] for name, row in rows.items()}
    view = _front_end()(payload=payload, controls=controls, sliders=sliders)

    def show_own_sliders(change=None):
        own = payload["criteria"][choice.index]["cuts"]
        for name in rows.keys() - {"flux"}:
            rows[name].layout.display = "flex" if name in own else "none"

    choice.observe(show_own_sliders, "index")
    show_own_sliders()
    if payload["trials"] is None:
        rows["flux"].layout.display = "none"
    top = widgets.VBox([choice, *rows.values(), _buttons(controls, payload, parameters)])
    top.add_class("sla1-lab-controls")
    return widgets.VBox([top, view])


def _slider_row(name, payload):
    """A slider over whole steps, and the number field that it moves."""
    import ipywidgets as widgets

    cut, (low, high), value = SLIDERS[name], payload["bounds"][name], payload["setting"][name]
    place = (lambda v: np.log10(v) / cut["step"]) if cut["log"] else (lambda v: v / cut["step"])
    handle = widgets.IntSlider(
        value=round(place(value)),
        min=int(np.ceil(place(low) - 1e-9)),
        max=int(np.floor(place(high) + 1e-9)),
        description=f"{cut['label']} ({cut['unit']})" if cut["unit"] else cut["label"],
        readout=False,
        style={"description_width": "11em"},
        layout=widgets.Layout(width="32em", min_width="14em", flex="0 1 auto"),
    )
    field = widgets.BoundedFloatText(value=value, min=low, max=high, layout=widgets.Layout(width="8em"))
    row = widgets.HBox([handle, field])
    row.add_class(f"sla1-slider-{name}")
    return row


def _buttons(controls, payload, parameters):
    import ipywidgets as widgets

    reset = widgets.Button(description="Reset", tooltip="Back to the night's own setting")
    name = widgets.Text(placeholder="file name in params/", description="save as", continuous_update=True)
    save = widgets.Button(description="Save as parameters", layout=widgets.Layout(width="auto"))
    answer = widgets.Label()

    def on_reset(_):
        controls["criterion"].index = payload["setting"]["criterion"]
        for key in SLIDERS:
            controls[key].value = payload["setting"][key]

    def on_save(_):
        # What a callback raises is invisible in JupyterLab.
        try:
            own = payload["criteria"][controls["criterion"].index]["cuts"]
            path = save_setting(chosen(controls, parameters), name.value, own)
            answer.value = f"Saved as params/{path.name}"
        except Exception as error:
            answer.value = f"Not saved: {error}"

    reset.on_click(on_reset)
    save.on_click(on_save)
    return widgets.HBox([reset, name, save, answer], layout=widgets.Layout(flex_flow="row wrap"))


def chosen(controls, parameters: Parameters) -> Parameters:
    """Return the parameters with the controls' setting."""
    cuts = gallery.cuts_of({name: float(controls[name].value) for name in CUTS})
    return validate(parameters.model_dump() | cuts | {"criterion": controls["criterion"].value}, "sliders")
