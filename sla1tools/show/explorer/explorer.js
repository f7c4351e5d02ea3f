// The candidate explorer's looks: gallery, live numbers, trade-off, and the report's own controls.
// One module with `selection.js` and `drawing.js` before it: the front end of the widget in JupyterLab (`render`, where
// ipywidgets drive the model) and of the report (`startAll`). All text reaches the page as text, never as markup.

const SORTS = ["peak", "S/N", "p", "position"];
const SHOWS = ["all", "found", "missed"];
const PAGE = 24;

// ---- words ----

const number = (v, digits = 3) => {
  if (v === null || v === undefined || Number.isNaN(v)) return "–";
  if (!Number.isFinite(v)) return v > 0 ? "∞" : "−∞";
  if (v !== 0 && Math.abs(v) < 1e-3) return v.toExponential(1);
  return Math.abs(v) >= 1000 || Number.isInteger(v) ? Math.round(v).toLocaleString("en-US") : String(Number(v.toPrecision(digits)));
};
const percent = (v) => `${Math.round(100 * v)} %`;
const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

function classNames(dq, classes) {
  return classes.filter(([bit]) => dq & bit).map(([, name]) => name.replaceAll("_", " "));
}

function around(night, i) {
  const { x, y, peak } = night.shown, [ny, nx] = night.shape;
  const span = (v, top) => `${Math.max(v - 2, 0)}:${Math.min(v + 2, top - 1)}`;
  return `x=${span(x[i], nx)}, y=${span(y[i], ny)} around (x=${x[i]}, y=${y[i]}, ${number(peak[i])}\u00a0e-)`;
}

function measures(night, i) {
  const t = night.shown, lowest = t.neighbor_min[i] / t.peak[i];
  const parts = [`ratio ${number(lowest, 2)}`, `S/N ${number(t.snr[i])}`, `p ${number(t.p_value[i], 2)}`];
  if (t.rivals[t.rival[i]]) parts.push(`best rival ${t.rivals[t.rival[i]]}`);
  const names = classNames(t.dq[i], night.classes);
  if (names.length) parts.push(names.join(", "));
  return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
}

const cutWords = (night, s) => night.criteria[s.criterion].cuts.map((cut) => {
  const { label, unit } = night.sliders[cut];
  return `${label} ${number(s[cut])} ${unit}`.trim();
}).join(", ");

function emptyWords(night, s, now) {
  if (night.show === "injections") return night.trials ? "No injected star falls under this choice." : "No star was injected: not tested.";
  if (now.limit === null) return `No candidate, and no frame was searched: not tested.`;
  if (now.alarms > 0) return `No candidate in this frame; ${plural(now.alarms, "candidate")} in the others.`;
  return `No leader passes ${night.criteria[s.criterion].name} at ${cutWords(night, s)}. None seen in ${plural(night.frames.length, "frame")} still allows ${number(now.limit)} a frame (95 %).`;
}

// ---- controls of the report; in JupyterLab they are ipywidgets ----

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
  model.on(`change:${name}`, reflect);
  reflect();
  return make("div", { class: `sla1-slider sla1-slider-${name}` }, make("label", { for: id }, named(cut)), range, field);
}

const named = ({ label, unit }) => (unit ? `${label} (${unit})` : label);

function choice(text, options, onPick) {
  const id = `sla1-${++ids}`, select = make("select", { id }, ...options.map((o, k) => make("option", { value: k }, o)));
  select.addEventListener("change", () => onPick(Number(select.value)));
  return [make("span", { class: "sla1-choice" }, make("label", { for: id }, text), select), select];
}

function button(text, onPress) {
  const node = make("button", { type: "button" }, text);
  node.addEventListener("click", onPress);
  return node;
}

// The criterion and its cuts, nothing that names a night: a file to be layered over any night's.
function yamlText(payload, s) {
  const { name, cuts } = payload.criteria[s.criterion], spell = (v) => String(v).replace(/^(-?\d+)e/, "$1.0e");
  return [`criterion: "${name}"`, ...cuts.map((cut) => `${cut}: ${spell(cutOf(payload, s, cut))}`), ""].join("\n");
}

function save(payload, s) {
  const link = make("a", { download: "setting.yaml", href: URL.createObjectURL(new Blob([yamlText(payload, s)], { type: "text/yaml" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// In the criteria's order: a report's JSON has sorted the keys of `sliders`.
const cutsOf = (payload) => [...new Set(payload.criteria.flatMap(({ cuts }) => cuts))];

function controls(model, payload) {
  const [pick, select] = choice("criterion", payload.criteria.map(({ name }) => name), (k) => model.set("criterion", k));
  const cuts = cutsOf(payload);
  const sliders = make("div", { class: "sla1-sliders" }, ...cuts.map((name) => slider(model, name)));
  const reflect = () => {
    const k = model.get("criterion");
    select.value = k;
    cuts.forEach((name, c) => { sliders.children[c].hidden = !payload.criteria[k].cuts.includes(name); });
  };
  model.on("change:criterion", reflect);
  reflect();
  const reset = button("Reset", () => { for (const [key, v] of Object.entries(payload.setting)) model.set(key, v); });
  return make("fieldset", { class: "sla1-controls" }, make("legend", {}, "Setting"), pick, sliders,
    make("div", { class: "sla1-actions" }, reset, button("Save as parameters", () => save(payload, stateOf(model)))));
}

// ---- the explorer ----

const keysOf = (payload) => ["criterion", ...cutsOf(payload), "flux"];
const stateOf = (model) => Object.fromEntries(keysOf(model.get("payload")).map((key) => [key, model.get(key)]));

function cutout(onPick) {
  const canvas = make("canvas", { width: 5, height: 5, "aria-hidden": "true" });
  const [title, place, values] = ["sla1-frame", "sla1-place", "sla1-values"].map((name) => make("span", { class: name }));
  const node = make("button", { type: "button", class: "sla1-cutout" }, canvas, title, place, values);
  node.addEventListener("click", () => onPick(Number(node.dataset.row)));
  return { node, canvas, title, place, values };
}

function fact(list, name) {
  const value = make("dd", { class: `sla1-${name.toLowerCase().replace(/[^a-z0-9]+/g, "-")}` });
  list.append(make("dt", {}, name), value);
  return value;
}

function endWords(night, s) {
  return night.criteria[s.criterion].cuts.map((cut) => [cut, night.bounds[cut].indexOf(s[cut])]).filter(([, end]) => end >= 0)
    .map(([cut, end]) => `${night.sliders[cut].label} ${number(s[cut])}: ${["lowest", "highest"][end]} here`).join("; ");
}

function livePanel(night) {
  const list = make("dl", { class: "sla1-numbers" });
  const cells = Object.fromEntries(["Setting", "Candidates", "False alarms a frame", "In a night", "Completeness", "50 % flux"].map((name) => [name, fact(list, name)]));
  const frames = night.frames_per_night, ends = make("p", { class: "sla1-end" });
  return [[list, ends], (now, s) => {
    ends.textContent = endWords(night, s);
    cells.Setting.textContent = `${night.criteria[s.criterion].name}: ${cutWords(night, s)}`;
    cells.Candidates.textContent = `${number(now.heldOut)} held out · ${number(now.inSample)} in sample`;
    const tested = now.limit !== null;
    const keeps = now.limit <= night.budget ? "within" : "over";
    cells["False alarms a frame"].textContent = tested ? `${number(now.rate)}, at most ${number(now.limit)} (95 %): ${keeps} the budget of ${number(night.budget)}` : "not tested";
    cells["In a night"].textContent = frames === null ? "not defined for biases" : tested ? `${number(now.rate * frames)}, at most ${number(now.limit * frames)}, in ${number(night.hours)} h, ${number(frames)} frames` : "not tested";
    const edges = night.trials?.edges;
    cells.Completeness.textContent = now.injected ? `${percent(now.completeness)} (${Math.round(100 * now.low)}–${percent(now.high)}): ${number(now.found)} of ${plural(now.injected, "star")} of ${number(edges[now.bin])}–${number(edges[now.bin + 1])} e-`
      : night.trials ? `no star was injected near ${number(s.flux)} e-` : "not tested";
    cells["50 % flux"].textContent = now.flux_50 !== null ? `${number(now.flux_50)} e-` : night.trials ? "not reached" : "not tested";
  }];
}

function legend(night) {
  const { soft, low, high } = night.cutouts, at = (v) => (Math.asinh(v / soft) - Math.asinh(low / soft)) / (Math.asinh(high / soft) - Math.asinh(low / soft));
  const bar = make("div", { class: "sla1-bar" });
  let last = -1;
  for (const v of [0, 100, 300, 1000, 3000, 10000, 30000]) {
    if (v > high || at(v) - last < 0.14) continue;
    last = at(v);
    bar.append(make("span", { style: `left:${100 * last}%` }, number(v)));
  }
  return make("div", { class: "sla1-legend" }, bar, make("p", {}, `electrons above the reference, one asinh stretch for all cutouts (soft ${number(soft)} e-, black ${number(low)}, white ${number(high)} and more); y upwards; blue lies beyond the frame`));
}

// Along each criterion's first cut.
function tradeoffCurves(night, s) {
  const spread = ([low, high], n) => Array.from({ length: n }, (_, k) => low > 0 ? low * (high / low) ** (k / (n - 1)) : low + ((high - low) * k) / (n - 1));
  return night.criteria.map(({ cuts: [cut] }, criterion) => spread(night.bounds[cut], 18).map((v) => {
    const { limit, flux_50 } = measure(night, { ...s, criterion, [cut]: v });
    return { limit, flux_50: limit === null ? null : flux_50 };
  }));
}

function historyPanel(night) {
  const canvas = make("canvas", { width: 5, height: 5, "aria-hidden": "true" }), words = make("div", { class: "sla1-words" });
  const chip = document.createElementNS(SVG, "svg"), chart = document.createElementNS(SVG, "svg");
  chart.setAttribute("viewBox", "0 0 460 170");
  for (const [svg, text] of [[chip, "Place on the chip"], [chart, "Held-out residual in every frame, in sigma"]]) { svg.setAttribute("role", "img"); svg.setAttribute("aria-label", text); }
  chip.setAttribute("class", "sla1-map");
  const heading = make("h4", { tabindex: "-1" });
  const panel = make("section", { class: "sla1-history", "aria-label": "The pixel's history" });
  panel.hidden = true;
  let opener = null;
  panel.append(button("Close", () => { panel.hidden = true; opener?.focus(); }), heading, make("div", { class: "sla1-known" }, canvas, words, chip, chart));
  return [panel, (i, from) => {
    opener = from;
    const t = night.shown, k = night.cutoutOf.get(i), n = night.frames.length, names = classNames(t.dq[i], night.classes);
    heading.textContent = `${night.frames[t.frame[i]] ?? ""}, pixel (x=${t.x[i]}, y=${t.y[i]})`;
    const lines = [around(night, i), measures(night, i), names.length ? `pixel classes: ${names.join(", ")}` : "in no pixel class: a good pixel in every test"];
    const known = night.histories && k < night.histories.shown;
    const sigmas = known ? night.histories.sigmas.subarray(k * n, (k + 1) * n) : null;
    if (known) lines.push(`${number(sigmas[t.frame[i]])} σ in this frame, beyond 4 σ in ${sigmas.filter((v) => v > 4).length} of ${n}`);
    words.replaceChildren(...lines.map((line) => make("p", {}, line)));
    paint(canvas, night.cutouts.shades, k);
    drawChip(chip, night.shape, t.x[i], t.y[i]);
    chart.style.display = known ? "" : "none";
    if (known) drawHistory(chart, night, sigmas, t.frame[i]);
    panel.hidden = false;
    heading.focus();
  }];
}

// A report says before anybody moves there which cutouts it lacks; in JupyterLab the kernel sends them.
function cutoutWords(night) {
  const { rows, possible } = night.cutouts;
  if (rows.length >= possible) return "";
  return night.show === "injections" ? `This page carries the cutouts of ${number(rows.length)} stars, spread evenly over the ${number(possible)} that led.`
    : `Of the ${number(possible)} leaders that some setting shows this page carries the cutouts of the ${number(rows.length)} nearest to the night's own setting; far from it candidates are counted, and lack a cutout.`;
}

function cutoutsFromKernel(model, night, rerender) {
  const asked = new Set();
  model.on("msg:custom", ({ cutouts }, [sent]) => {
    const known = night.cutouts.shades, shades = new Uint8Array(known.length + sent.byteLength);
    shades.set(known);
    shades.set(new Uint8Array(sent.buffer, sent.byteOffset, sent.byteLength), known.length);
    cutouts.forEach((row, k) => night.cutoutOf.set(row, known.length / 25 + k));
    night.cutouts.shades = shades;
    rerender();
  });
  return (rows) => {
    const wanted = rows.filter((row) => !asked.has(row));
    for (const row of wanted) asked.add(row);
    if (wanted.length) model.send({ cutouts: wanted });
  };
}

function carriedWords({ rows, total, complete, floors }) {
  if (rows === total) return "";
  const rest = complete ? `the sliders start at ${number(floors.peak)} e- and S/N ${number(floors.snr)}, and every count above is exact`
    : "the others are fainter, and counts are lower limits";
  return `This page carries ${number(rows)} of the night's ${number(total)} leaders: ${rest}.`;
}

function galleryView(night, rerender, fetchCutouts) {
  const [history, tell] = historyPanel(night);
  const pool = Array.from({ length: PAGE }, () => cutout((row) => tell(row, document.activeElement)));
  const grid = make("div", { class: "sla1-grid-of-cutouts" }, ...pool.map((c) => c.node));
  const filter = { frame: 0, sort: 0, show: 0, page: 0 };
  const turn = (key) => (k) => { filter[key] = k; filter.page = 0; rerender(); };
  const toolbar = make("div", { class: "sla1-toolbar" });
  const injections = night.show === "injections";
  if (injections) toolbar.append(choice("stars", SHOWS, turn("show"))[0]);
  toolbar.append(choice("frame", ["all frames", ...night.frames], turn("frame"))[0], choice("sort by", SORTS, turn("sort"))[0]);
  const move = (by) => () => { filter.page += by; rerender(); };
  const back = button("← Previous", move(-1)), on = button("Next →", move(1)), where = make("span", { class: "sla1-where" });
  const empty = make("p", { class: "sla1-empty" }), scale = legend(night);
  toolbar.append(make("span", { class: "sla1-pager" }, back, where, on));
  const wanted = (now, i) => (filter.frame === 0 || night.shown.frame[i] === filter.frame - 1) &&
    (injections ? filter.show === 0 || (now.trialMask[i] === 1) === (filter.show === 1) : now.mask[i] === 1 && night.shown.held[i] === night.own);
  const show = (now, s) => {
    const rows = [];
    let total = 0;
    for (const i of night.orders[filter.sort]) {
      if (!wanted(now, i)) continue;
      total++;
      if (night.cutoutOf.has(i) || (fetchCutouts && !Number.isNaN(night.shown.peak[i]))) rows.push(i);
    }
    const pages = Math.max(1, Math.ceil(rows.length / PAGE));
    filter.page = Math.min(Math.max(filter.page, 0), pages - 1);
    const first = filter.page * PAGE, page = rows.slice(first, first + PAGE);
    const absent = page.filter((i) => !night.cutoutOf.has(i));
    if (absent.length) fetchCutouts(absent);
    pool.forEach((c, k) => {
      c.node.hidden = k >= page.length;
      if (c.node.hidden) return;
      const i = page[k];
      c.node.dataset.row = i;
      paint(c.canvas, night.cutouts.shades, night.cutoutOf.get(i));
      c.title.textContent = night.frames[night.shown.frame[i]] ?? "";
      c.place.textContent = around(night, i);
      c.values.textContent = measures(night, i);
      if (injections) c.title.textContent = `${number(night.trials.flux[i])} e- star: ${now.trialMask[i] ? "found" : `missed, ${missReason(night, s, i)}`}`;
    });
    empty.hidden = total > 0;
    if (!total) empty.textContent = emptyWords(night, s, now);
    const missing = total - rows.length, noun = injections ? "stars" : "candidates";
    where.textContent = !page.length ? (total ? `${number(total)} ${noun}, none with a cutout here` : "")
      : `${first + 1}–${first + page.length} of ${number(rows.length)}${missing ? ` (${number(missing)} more ${fetchCutouts ? `without a leader` : "without a cutout"})` : ""}`;
    back.hidden = on.hidden = pages === 1;
    scale.hidden = !page.length;
    back.disabled = filter.page === 0;
    on.disabled = filter.page >= pages - 1;
  };
  return [[toolbar, empty, grid, scale, history], show, () => { filter.page = 0; }];
}

async function start({ model, el, ownControls }) {
  const payload = model.get("payload"), night = await loadNight(payload);
  const [list, showNumbers] = livePanel(night);
  const chart = document.createElementNS(SVG, "svg");
  for (const [name, v] of Object.entries({ viewBox: "0 0 340 240", role: "img", "aria-label": "Trade-off: false alarms against 50 % flux" })) chart.setAttribute(name, v);
  const spoken = make("p", { class: "sla1-spoken", role: "status", "aria-live": "polite" });
  let curves = [], later = 0, now = null;
  const rerender = () => showGallery(now, stateOf(model));
  const [gallery, showGallery, firstPage] = galleryView(night, rerender, ownControls ? null : cutoutsFromKernel(model, night, rerender));
  const settle = () => {
    const s = stateOf(model);
    curves = tradeoffCurves(night, s);
    drawTradeoff(chart, night, curves, now);
    spoken.textContent = `${plural(now.heldOut, "candidate")} held out, ${number(now.inSample)} in sample; 50 % flux ${now.flux_50 === null ? "not reached" : `${number(now.flux_50)} electrons`}`;
  };
  const update = () => {
    const s = stateOf(model);
    now = measure(night, s);
    showGallery(now, s);
    showNumbers(now, s);
    drawTradeoff(chart, night, curves, now);
    clearTimeout(later);
    later = setTimeout(settle, 150);
  };
  const keys = make("p", { class: "sla1-keys" }, ...night.criteria.map(({ name, color }, k) => make("span", { class: "sla1-key", style: `--line: 2px ${["solid", "dashed", "dotted"][k % 3]} ${color}` }, name)), make("span", { class: "sla1-key-here" }, "this setting"), make("span", { class: "sla1-key-budget" }, "budget"));
  const side = make("aside", { class: "sla1-live", "aria-label": "What this setting costs and finds" }, ...list,
    ...(ownControls && night.trials ? [slider(model, "flux")] : []), ...(night.trials ? [chart, keys] : []));
  const notes = [carriedWords(payload.carried), ownControls ? cutoutWords(night) : ""].filter(Boolean);
  const root = make("div", { class: "sla1-explorer" },
    ...(ownControls ? [controls(model, payload)] : []), spoken,
    make("div", { class: "sla1-body" }, side, make("div", { class: "sla1-main" }, ...gallery, ...notes.map((note) => make("p", { class: "sla1-note" }, note)))));
  for (const key of keysOf(payload)) model.on(`change:${key}`, () => { firstPage(); update(); });
  update();
  el.replaceChildren(root);
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

// An ipywidgets slider snaps to its step, also while it is being built: only what is more than half a step away from the
// value is a hand's move. What a number field says stays exact.
function initialize({ model }) {
  const { sliders, bounds } = model.get("payload");
  for (const [name, { step, log }] of Object.entries(sliders)) {
    const place = log ? Math.log10 : (v) => v, [low, high] = bounds[name];
    model.on(`change:slide_${name}`, () => {
      const v = model.get(`slide_${name}`);
      if (Math.abs(place(v) - place(model.get(name))) <= 0.501 * step) return;
      model.set(name, Math.min(high, Math.max(low, Number(v.toPrecision(log ? 4 : 10)))));
      model.save_changes();
    });
    model.on(`change:${name}`, () => {
      model.set(`slide_${name}`, model.get(name));
      model.save_changes();
    });
  }
}

async function render({ model, el }) {
  await start({ model, el, ownControls: false });
  nameHandles(model.get("payload"));
}

// The report has no kernel: a model of plain values that tells its listeners.
function plainModel(payload) {
  const values = { payload, ...payload.setting }, listeners = {};
  return {
    get: (key) => values[key],
    set: (key, v) => {
      if (values[key] === v) return;
      values[key] = v;
      for (const listener of listeners[`change:${key}`] ?? []) listener();
    },
    on: (event, listener) => (listeners[event] ??= []).push(listener),
  };
}

function startAll(page) {
  for (const place of page.querySelectorAll(".sla1-gallery")) {
    const model = plainModel(JSON.parse(place.querySelector("script").textContent));
    start({ model, el: place, ownControls: true });
  }
}

export default { initialize, render };
