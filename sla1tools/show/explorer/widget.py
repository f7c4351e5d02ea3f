"""The candidate explorer: sliders over the night's two tables, alive in JupyterLab and in the report.

Nothing is detected again when a slider moves: the front end selects on tables it already holds. In JupyterLab the
controls are ipywidgets, linked to the front end without a detour through the kernel; in the report the same module
draws its own.
"""

import base64
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from astropy.table import Table

from sla1tools.candidates.criteria import CRITERIA, CUTS
from sla1tools.candidates.detection import Floors
from sla1tools.injections.injection import Injections
from sla1tools.parameters import Parameters, save_parameters, validate
from sla1tools.show import contact_sheet
from sla1tools.show.explorer import payload as gallery
from sla1tools.show.explorer.payload import SLIDERS
from sla1tools.show.pages import GALLERY_MIME, explorer_css, explorer_module


class Explorer:
    """Show the candidates at any setting, and what the setting costs and finds.

    Display it as the last line of a cell.

    Parameters
    ----------
    leaders : Table
        The night's leaders, with `stamp` (n, 5, 5) in electrons.
    injections : Injections or None
        The night's injected stars; None where nothing was injected.
    parameters : Parameters
        Where the sliders start. With ``interactive: false`` a contact sheet for printing is shown instead.
    frames : sequence of str
        Names of all frames searched, in order.
    floors : Floors
        What the leaders exceed, and so the sliders' minima.
    histories : callable, optional
        ``histories(x, y)`` gives (n, N) held-out residuals of n pixels in every frame, in units of their noise. Without
        it a cutout's history has no chart.
    show : {'candidates', 'injections'}
        Whose cutouts: the camera's candidates, or the injected stars, found and missed.

    Notes
    -----
    The tables are not changed. Header text is shown as text, whatever it holds.
    """

    def __init__(
        self,
        leaders: Table,
        injections: Injections | None,
        parameters: Parameters,
        frames: Sequence[str],
        floors: Floors,
        histories: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        show: str = "candidates",
    ):
        self.parameters = parameters
        self._picture = contact_sheet.picture(leaders, injections, parameters, show)
        self.caption = contact_sheet.caption(leaders, injections, parameters, frames, show)
        self.payload: dict[str, Any] = {"interactive": False}
        if parameters.interactive:
            self.payload = gallery.payload(leaders, injections, parameters, frames, floors, histories, show)
            self._more_cutouts = gallery.more_cutouts(leaders, injections, parameters, floors, self.payload)

    @classmethod
    def of(cls, night, show: str = "candidates") -> "Explorer":
        """Explore a `measure.Measurement`."""
        tables = night.leaders, night.injections, night.parameters, night.capture.names
        return cls(*tables, night.floors, night.histories if night.has_frames else None, show)

    @functools.cached_property
    def widget(self):
        """The ipywidgets box: controls above, front end below."""
        box = _box(self.payload, self.parameters)
        box.children[-1].on_msg(self._answer)
        return box

    def _answer(self, view, content, buffers) -> None:
        """Send the front end cutouts that its payload does not carry."""
        rows = [int(row) for row in content.get("cutouts", ())]
        view.send({"cutouts": rows}, [self._more_cutouts(rows)])

    def _repr_mimebundle_(self, include=None, exclude=None):
        """Offer a live widget, the report's payload, a picture, and text; the reader takes the first it knows."""
        picture = base64.b64encode(self._picture).decode()
        bundle = {
            GALLERY_MIME: {**self.payload, "montage": picture, "caption": self.caption},
            "image/png": picture,
            "text/plain": self.caption,
        }
        if not self.parameters.interactive:
            return bundle
        return {**self.widget._repr_mimebundle_(), **bundle}


@functools.cache
def _front_end():
    """The anywidget class; made on first use, because anywidget and ipywidgets are slow to import."""
    import anywidget
    import traitlets

    class FrontEnd(anywidget.AnyWidget):
        _esm = explorer_module()
        _css = explorer_css()
        payload = traitlets.Dict().tag(sync=True)
        criterion = traitlets.Int().tag(sync=True)

    values = {name: traitlets.Float().tag(sync=True) for name in SLIDERS}
    # A slider snaps its value to its step, even while it is being built: the front end tells that from a hand's move.
    slides = {f"slide_{name}": traitlets.Float().tag(sync=True) for name in SLIDERS}
    return type("Explorer", (FrontEnd,), values | slides)


def _box(payload, parameters):
    import ipywidgets as widgets

    setting = payload["setting"]
    view = _front_end()(payload=payload, **setting, **{f"slide_{name}": setting[name] for name in SLIDERS})
    rows = {name: _slider_row(view, name, *payload["bounds"][name]) for name in SLIDERS}
    choice = widgets.Dropdown(options=tuple(CRITERIA), index=view.criterion, description="criterion")
    widgets.jslink((view, "criterion"), (choice, "index"))

    def show_own_sliders(change=None):
        own = payload["criteria"][view.criterion]["cuts"]
        for name in rows.keys() - {"flux"}:
            rows[name].layout.display = "flex" if name in own else "none"

    view.observe(show_own_sliders, "criterion")
    show_own_sliders()
    if payload["trials"] is None:
        rows["flux"].layout.display = "none"
    return widgets.VBox([choice, *rows.values(), _buttons(view, payload, parameters), view])


def _slider_row(view, name, low, high):
    """A slider and a number field on one value, linked to the front end without the kernel."""
    import ipywidgets as widgets

    slider, value = SLIDERS[name], getattr(view, name)
    step, log = slider["step"], slider["log"]
    place = np.log10 if log else float
    ends = {"min": np.floor(place(low) / step) * step, "max": np.ceil(place(high) / step) * step}
    kind = widgets.FloatLogSlider if log else widgets.FloatSlider
    handle = kind(
        value=value,
        step=step,
        description=f"{slider['label']} ({slider['unit']})" if slider["unit"] else slider["label"],
        readout=False,
        style={"description_width": "11em"},
        layout=widgets.Layout(width="32em", min_width="14em", flex="0 1 auto"),
        **ends,
    )
    field = widgets.BoundedFloatText(value=value, min=low, max=high, step=step, layout=widgets.Layout(width="8em"))
    widgets.jslink((view, f"slide_{name}"), (handle, "value"))
    widgets.jslink((view, name), (field, "value"))
    row = widgets.HBox([handle, field])
    row.add_class(f"sla1-slider-{name}")
    return row


def _buttons(view, payload, parameters):
    import ipywidgets as widgets

    reset = widgets.Button(description="Reset", tooltip="Back to the night's own setting")
    name = widgets.Text(placeholder="file name in params/", description="save as", continuous_update=True)
    save = widgets.Button(description="Save as parameters", layout=widgets.Layout(width="auto"))
    answer = widgets.Label()

    def on_reset(_):
        for key, value in payload["setting"].items():
            setattr(view, key, value)

    def on_save(_):
        # What a callback raises is invisible in JupyterLab.
        try:
            path = save_parameters(
                chosen(view, parameters), name.value, ["criterion", *payload["criteria"][view.criterion]["cuts"]]
            )
            answer.value = f"Saved as params/{path.name}"
        except Exception as error:
            answer.value = f"Not saved: {error}"

    reset.on_click(on_reset)
    save.on_click(on_save)
    return widgets.HBox([reset, name, save, answer], layout=widgets.Layout(flex_flow="row wrap"))


def chosen(view, parameters: Parameters) -> Parameters:
    """Return the parameters with the sliders' setting."""
    cuts = gallery.cuts_of({name: float(getattr(view, name)) for name in CUTS})
    return validate(parameters.model_dump() | cuts | {"criterion": list(CRITERIA)[view.criterion]}, "sliders")
