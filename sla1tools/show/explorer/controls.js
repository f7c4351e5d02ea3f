// Where the explorer's state lives: in JupyterLab in ipywidgets, in a report in plain values and in the page's address.
// A model has `get`, `set` and `on("change", …)`; a setting is `criterion`, the cuts and `flux`, a view what is shown of it.

const SORTS = ["peak", "S/N", "flux", "p", "rival's margin", "position"];
const SHOWS = ["all", "found", "missed"];
const CUTOUTS = ["5 × 5 px", "15 × 15 px", "blink frame, reference"];
const VIEW = { frame: -1, night: -1, pixel: "", sort: 0, show: 0, cutouts: 0, page: 0 };

// In the criteria's order: a report's JSON has sorted the keys of `sliders`.
const cutsOf = (payload) => [...new Set(payload.criteria.flatMap(({ cuts }) => cuts))];
const settingKeys = (payload) => ["criterion", ...cutsOf(payload), "flux"];
const stateOf = (model) => Object.fromEntries(settingKeys(model.get("payload")).map((key) => [key, model.get(key)]));

function plainModel(payload) {
  const values = { payload, ...VIEW, ...payload.setting }, listeners = [];
  return {
    get: (key) => values[key],
    set: (key, v) => {
      if (values[key] === v) return;
      values[key] = v;
      for (const listener of listeners) listener(key);
    },
    on: (_, listener) => listeners.push(listener),
  };
}

// The setting's numbers are the values of ipywidgets; a view is this page's own.
async function labModel(model) {
  const own = plainModel(model.get("payload")), held = await widgetsOf(model, "controls");
  for (const key in held) held[key].on("change", () => own.set(key, valueOf(held[key])));
  for (const key in held) own.set(key, valueOf(held[key]));
  return { ...own, send: (content) => model.send(content), answered: (listener) => model.on("msg:custom", listener) };
}

const valueOf = (widget) => widget.get(widget.get("_model_name") === "DropdownModel" ? "index" : "value");

async function widgetsOf(model, trait) {
  const found = Object.entries(model.get(trait)).map(async ([key, id]) => [key, await model.widget_manager.get_model(id.replace("IPY_MODEL_", ""))]);
  return Object.fromEntries(await Promise.all(found));
}

// A slider stands on one of its steps, a field holds any number: each moves the other only where it has to.
async function linkSliders(model) {
  const { sliders: cuts, bounds } = model.get("payload"), fields = await widgetsOf(model, "controls");
  for (const [name, slider] of Object.entries(await widgetsOf(model, "sliders"))) {
    const [toPosition, toValue] = positions(cuts[name]), [low, high] = bounds[name], field = fields[name];
    const place = () => Math.min(slider.get("max"), Math.max(slider.get("min"), Math.round(toPosition(field.get("value")))));
    const put = (widget, v) => { widget.set("value", v); widget.save_changes(); };
    slider.on("change:value", () => {
      if (slider.get("value") !== place()) put(field, Math.min(high, Math.max(low, toValue(slider.get("value")))));
    });
    field.on("change:value", () => { if (slider.get("value") !== place()) put(slider, place()); });
  }
}

// ---- the address: what differs from the night's own setting, so that whoever opens it sees the same ----

function addressOf(model) {
  const payload = model.get("payload"), parts = new URLSearchParams(), names = namesOf(payload);
  for (const key of [...settingKeys(payload), ...Object.keys(VIEW)]) {
    const v = model.get(key), first = key in VIEW ? VIEW[key] : payload.setting[key];
    if (v !== first && key !== "page") parts.set(key, names[key]?.[v] ?? v);
  }
  return parts.toString();
}

const namesOf = (payload) => ({ criterion: payload.criteria.map(({ name }) => name), frame: payload.frames, night: payload.leaders.nights,
  sort: SORTS, show: SHOWS, cutouts: CUTOUTS });

function readAddress(model, text) {
  const payload = model.get("payload"), names = namesOf(payload), parts = new URLSearchParams(text);
  for (const key of [...settingKeys(payload), ...Object.keys(VIEW)]) {
    if (!parts.has(key)) continue;
    const said = parts.get(key), v = names[key] ? names[key].indexOf(said) : key === "pixel" ? said : Number(said);
    const [low, high] = payload.bounds[key] ?? [-Infinity, Infinity];
    if (names[key] ? v >= 0 : key === "pixel" || (said !== "" && Number.isFinite(v))) model.set(key, key in payload.bounds ? Math.min(high, Math.max(low, v)) : v);
  }
}

function followAddress(model) {
  let ours = "", later = 0;
  const read = () => { const text = location.hash.slice(1); if (text !== ours) readAddress(model, text); };
  read();
  addEventListener("hashchange", read);
  model.on("change", () => {
    clearTimeout(later);
    later = setTimeout(() => {
      const text = addressOf(model);
      if (text !== ours) history.replaceState(null, "", `#${ours = text}`);
    }, 200);
  });
}

// ---- controls of the report ----

let ids = 0;

// A slider runs over whole positions, so that its values are round and the arrow keys step from one to the next.
function positions({ step, log }) {
  if (!log) return [(v) => v / step, (k) => Number((k * step).toFixed(6))];
  return [(v) => Math.log10(v) / step, (k) => Number((10 ** (k * step)).toPrecision(3))];
}

function slider(model, name) {
  const { bounds: { [name]: [low, high] }, sliders: { [name]: cut } } = model.get("payload");
  const [toPosition, toValue] = positions(cut), id = `sla1-${++ids}`, { label, unit } = cut;
  const range = make("input", { type: "range", id, min: Math.ceil(toPosition(low) - 1e-9), max: Math.floor(toPosition(high) + 1e-9), step: 1 });
  const field = make("input", { type: "number", min: low, max: high, step: "any", "aria-label": `${label}${unit && ` in ${unit}`}, number` });
  const reflect = () => {
    const v = model.get(name);
    range.value = Math.round(toPosition(v));
    range.setAttribute("aria-valuetext", `${number(v)} ${unit}`.trim());
    if (document.activeElement !== field) field.value = Number(v.toPrecision(6));
  };
  range.addEventListener("input", () => model.set(name, Math.min(high, Math.max(low, toValue(Number(range.value))))));
  field.addEventListener("input", () => {
    const v = Number(field.value);
    if (field.value !== "" && v >= low && v <= high) model.set(name, v);
  });
  field.addEventListener("change", () => {
    const v = Number(field.value);
    if (field.value !== "") model.set(name, Math.min(high, Math.max(low, v)));
    field.value = Number(model.get(name).toPrecision(6));
  });
  model.on("change", (key) => { if (key === name) reflect(); });
  reflect();
  return make("div", { class: `sla1-slider sla1-slider-${name}` }, make("label", { for: id }, named(cut)), range, field);
}

// A drop-down list of one key of the model; `first` is the number that its first entry stands for.
function choice(model, key, text, options, first = 0) {
  const id = `sla1-${++ids}`, select = make("select", { id }, ...options.map((o, k) => make("option", { value: k + first }, o)));
  select.addEventListener("change", () => model.set(key, Number(select.value)));
  const reflect = () => { select.value = model.get(key); };
  model.on("change", (changed) => { if (changed === key) reflect(); });
  reflect();
  return make("span", { class: "sla1-choice" }, make("label", { for: id }, text), select);
}

function button(text, onPress) {
  const node = make("button", { type: "button" }, text);
  node.addEventListener("click", onPress);
  return node;
}

function controls(model, payload) {
  const cuts = cutsOf(payload), sliders = make("div", { class: "sla1-sliders" }, ...cuts.map((name) => slider(model, name)));
  const reflect = () => cuts.forEach((name, c) => { sliders.children[c].hidden = !payload.criteria[model.get("criterion")].cuts.includes(name); });
  model.on("change", reflect);
  reflect();
  const reset = button("Reset", () => { for (const [key, v] of Object.entries(payload.setting)) model.set(key, v); });
  return make("fieldset", { class: "sla1-controls" }, make("legend", {}, "Setting"),
    choice(model, "criterion", "criterion", payload.criteria.map(({ name }) => name)), sliders,
    make("div", { class: "sla1-actions" }, reset, button("Save as parameters", () => saveText("setting.yaml", yamlText(payload, stateOf(model))))));
}

// ipywidgets leave their slider handles and number fields without a name.
function nameHandles(payload, tries = 40) {
  let missing = 0;
  for (const [name, cut] of Object.entries(payload.sliders)) {
    const nodes = document.querySelectorAll(`.sla1-slider-${name} .noUi-handle, .sla1-slider-${name} input`);
    for (const node of nodes) node.setAttribute("aria-label", named(cut));
    if (!nodes.length) missing++;
  }
  if (missing && tries) setTimeout(() => nameHandles(payload, tries - 1), 250);
}
