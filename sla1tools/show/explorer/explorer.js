// The candidate explorer's looks: gallery, live numbers, scatter, trade-off, and the story of one row.
// One module with the other files before it: the front end of the widget in JupyterLab (`render`, where ipywidgets hold
// the setting) and of the report (`startAll`).

const PAGE = 24;

function cutout(onPick) {
  const canvas = make("canvas", { "aria-hidden": "true" }), lines = ["sla1-frame", "sla1-values"].map((name) => make("span", { class: name }));
  const node = make("button", { type: "button", class: "sla1-cutout" }, canvas, ...lines);
  node.addEventListener("click", () => onPick(Number(node.dataset.row)));
  return { node, canvas, lines };
}

function fact(list, name) {
  const value = make("dd", { class: `sla1-${name.toLowerCase().replace(/[^a-z0-9]+/g, "-")}` });
  list.append(make("dt", {}, name), value);
  return value;
}

function livePanel(night) {
  const list = make("dl", { class: "sla1-numbers" });
  const cells = Object.fromEntries(["Setting", "Candidates", "False alarms a frame", "In a night", "Completeness", "50 % flux"].map((name) => [name, fact(list, name)]));
  const frames = night.frames_per_night, ends = make("p", { class: "sla1-end" });
  return [[list, ends], (now, s) => {
    ends.textContent = endWords(night, s);
    cells.Setting.textContent = `${night.criteria[s.criterion].name}: ${cutWords(night, s)}`;
    cells.Candidates.textContent = `${number(now.heldOut)} held out${night.leaders.nights.length ? "" : ` · ${number(now.inSample)} in sample`}`;
    const tested = now.limit !== null;
    const keeps = now.limit <= night.budget ? "within" : "over";
    cells["False alarms a frame"].textContent = tested ? `${number(now.rate)}, at most ${number(now.limit)} (95 %): ${keeps} the budget of ${number(night.budget)}` : "not tested";
    cells["In a night"].textContent = frames === null ? "not defined for biases" : tested ? `${number(now.rate * frames)}, at most ${number(now.limit * frames)}, in ${number(night.hours)} h, ${number(frames)} frames` : "not tested";
    const edges = night.trials?.edges;
    cells.Completeness.textContent = now.injected ? `${percent(now.completeness)} (${Math.round(100 * now.low)}–${percent(now.high)}): ${number(now.found)} of ${plural(now.injected, "star")} of ${number(edges[now.bin])}–${number(edges[now.bin + 1])} e-`
      : night.trials ? `no star was injected near ${number(s.flux)} e-` : "not tested";
    cells["50 % flux"].textContent = now.flux_50 !== null ? fluxText(night, now.flux_50) : night.trials ? "not reached" : "not tested";
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
  return make("div", { class: "sla1-legend" }, bar, make("p", {}, `electrons above the reference (frame and reference: above the reference's median there), one asinh stretch for all cutouts (soft ${number(soft)} e-, black ${number(low)}, white ${number(high)} and more); y upwards; blue lies beyond the frame`));
}

// Along each criterion's first cut.
function tradeoffCurves(night, s) {
  const spread = ([low, high], n) => Array.from({ length: n }, (_, k) => low > 0 ? low * (high / low) ** (k / (n - 1)) : low + ((high - low) * k) / (n - 1));
  return night.criteria.map(({ cuts: [cut] }, criterion) => spread(night.bounds[cut], 18).map((v) => {
    const { limit, flux_50 } = measure(night, { ...s, criterion, [cut]: v });
    return { limit, flux_50: limit === null ? null : flux_50 };
  }));
}

function tradeoff(night) {
  const svg = picture("Trade-off: false alarms against 50 % flux", 340, 240), varies = make("p", { class: "sla1-varies" });
  const keys = make("p", { class: "sla1-keys" }, ...night.criteria.map(({ name, color }, k) => make("span", { class: "sla1-key", style: `--line: 2px ${["solid", "dashed", "dotted"][k % 3]} ${color}` }, name)), make("span", { class: "sla1-key-here" }, "this setting"), make("span", { class: "sla1-key-budget" }, "budget"));
  let curves = [];
  return [[svg, keys, varies], (now, s, rested) => {
    if (rested) curves = tradeoffCurves(night, s);
    drawTradeoff(svg, night, curves, now);
    varies.textContent = `Along the curves, of ${night.criteria.map((criterion) => variesWords(night, s, criterion)).join("; of ")}.`;
  }];
}

// All that is known of one row; Escape closes it.
function storyPanel(night, onClose) {
  const canvases = ["residual", "frame", "reference"].map((name) => make("figure", {}, make("canvas", { "aria-hidden": "true" }), make("figcaption", {}, name)));
  const words = make("div", { class: "sla1-words" }), chart = picture("Residual of the pixel in every frame, in sigma", 460, 170);
  const key = make("p", { class: "sla1-varies" }, "Filled: compared with the other frames (orange: this frame); open: with all frames, itself among them. All in units of one noise, this pixel's by the other frames.");
  const heading = make("h4", { tabindex: "-1" }), panel = make("section", { class: "sla1-history", "aria-label": "The pixel's history" });
  panel.hidden = true;
  let opener = null, shown = -1;
  const close = () => { panel.hidden = true; shown = -1; opener?.focus(); onClose(); };
  panel.append(button("Close", close), heading, make("div", { class: "sla1-known" }, make("div", { class: "sla1-pictures" }, ...canvases), words), chart, key);
  const fill = (i) => {
    const t = night.shown, sigmas = night.historyOf.get(i), n = night.frames.length, closer = night.closerOf.has(i);
    heading.textContent = `${night.frames[t.frame[i]] ?? ""}, pixel (x=${t.x[i]}, y=${t.y[i]})`;
    const lines = facts(night, i);
    if (sigmas) {
      const held = Array.from({ length: n }, (_, k) => sigmas[2 * k]);
      lines.push(`${number(held[t.frame[i]])} σ in this frame (${number(sigmas[2 * t.frame[i] + 1])} in sample), beyond 4 σ in ${held.filter((v) => v > 4).length} of ${n}`);
      drawHistory(chart, night, sigmas, t.frame[i]);
    }
    words.replaceChildren(...lines.map((line) => make("p", {}, line)));
    canvases.forEach((figure, layer) => {
      figure.hidden = layer > 0 && !closer;
      paint(figure.firstChild, night, i, closer ? layer + 1 : 0);
    });
    chart.style.display = key.style.display = sigmas ? "" : "none";
  };
  return {
    panel, close, fill,
    open(i, from) {
      [opener, shown] = [from, i];
      panel.hidden = false;
      fill(i);
      heading.focus();
    },
    picked: () => shown,
  };
}

// In JupyterLab the kernel sends what the payload does not carry: small cutouts; wide ones with their pixels' histories.
function kernelAsked(model, night, refresh) {
  if (!model.send) return null;
  const asked = [new Set(), new Set()];
  const join = (a, b) => { const both = new Uint8Array(a.length + b.length); both.set(a); both.set(b, a.length); return both; };
  const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  model.answered(({ rows, closer }, [sent, sigmas]) => {
    const [places, name, size] = closer ? [night.closerOf, "closer", CLOSER] : [night.cutoutOf, "shades", 25], known = night.cutouts[name].length / size;
    night.cutouts[name] = join(night.cutouts[name], bytes(sent));
    rows.forEach((row, k) => places.set(row, known + k));
    const values = sigmas && new Float64Array(bytes(sigmas).slice().buffer), n = 2 * night.frames.length;
    if (values) rows.forEach((row, k) => night.historyOf.set(row, values.subarray(k * n, (k + 1) * n)));
    refresh();
  });
  return (rows, closer) => {
    if (closer && !night.histories) return; // no raw frames
    const wanted = rows.filter((row) => !(closer ? night.closerOf : night.cutoutOf).has(row) && !asked[+closer].has(row));
    for (const row of wanted) asked[+closer].add(row);
    if (wanted.length) model.send({ rows: wanted, closer });
  };
}

// Which rows of the selection the filters leave, in order.
function filtered(model, night, now) {
  const [frame, onNight, show] = ["frame", "night", "show"].map(model.get), [px, py] = model.get("pixel").split(/[ ,;]+/).map(Number), t = night.shown;
  const byPixel = model.get("pixel").trim() !== "" && Number.isFinite(px) && Number.isFinite(py), injections = night.show === "injections";
  const wanted = (i) => (frame < 0 || t.frame[i] === frame) && (onNight < 0 || t.night[i] === onNight) &&
    (!byPixel || Math.max(Math.abs(t.x[i] - px), Math.abs(t.y[i] - py)) <= 1) &&
    (injections ? show === 0 || (now.trialMask[i] === 1) === (show === 1) : now.mask[i] === 1 && t.held[i] === night.own);
  return orderOf(night, model.get("sort")).filter(wanted);
}

function toolbarOf(model, night, pager) {
  const pixel = make("input", { type: "text", size: 9, placeholder: "x, y", "aria-label": "pixel, x and y: rows within 1 px" });
  pixel.value = model.get("pixel");
  pixel.addEventListener("input", () => model.set("pixel", pixel.value));
  const { nights } = night.leaders, injections = night.show === "injections", closer = night.cutouts.closer.length > 0;
  return make("div", { class: "sla1-toolbar" }, ...(injections ? [choice(model, "show", "stars", SHOWS)] : []),
    ...(nights.length ? [choice(model, "night", "night", ["all nights", ...nights], -1)] : [choice(model, "frame", "frame", ["all frames", ...night.frames], -1)]),
    make("span", { class: "sla1-choice" }, make("label", {}, "pixel ", pixel)), choice(model, "sort", "sort by", SORTS),
    ...(closer ? [choice(model, "cutouts", "cutouts", CUTOUTS)] : []), pager);
}

function galleryView(model, night) {
  const injections = night.show === "injections", noun = injections ? "stars" : "candidates";
  let now = null, rows = [], phase = 0;
  const state = () => stateOf(model), refresh = () => { show(now, false); if (story.picked() >= 0) story.fill(story.picked()); };
  const ask = kernelAsked(model, night, refresh), maps = [];
  const story = storyPanel(night, () => drawMaps());
  const pick = (i) => { ask?.([i], true); story.open(i, document.activeElement); drawMaps(); };
  const [points, drawPoints] = scatter(night, pick), [chip, drawChip] = chipMap(night, pick);
  const drawMaps = () => { drawPoints(state(), selected(), story.picked()); drawChip(Array.from(rows), story.picked()); };
  const selected = () => (injections ? Array.from(rows).filter((i) => now.trialMask[i]) : Array.from(rows));
  const pool = Array.from({ length: PAGE }, () => cutout(pick)), grid = make("div", { class: "sla1-grid-of-cutouts" }, ...pool.map((c) => c.node));
  const move = (by) => () => model.set("page", model.get("page") + by), where = make("span", { class: "sla1-where" });
  const back = button("← Previous", move(-1)), on = button("Next →", move(1)), empty = make("p", { class: "sla1-empty" }), scale = legend(night);
  const toolbar = toolbarOf(model, night, make("span", { class: "sla1-pager" }, back, where, on));
  const saved = make("p", { class: "sla1-saving" }, "Save this selection: ", ...[
    ["table (ECSV)", () => saveText("candidates.ecsv", ecsvText(night, state(), Array.from(rows)))],
    ["regions (DS9)", () => saveText("candidates.reg", regionText(night, Array.from(rows)))],
    ["cutouts (PNG)", () => saveSheet(night, state(), now, Array.from(rows).filter((i) => night.cutoutOf.has(i)))]].map(([name, act]) => button(name, act)));
  const layer = () => [0, 1, 2 + phase][model.get("cutouts")];
  const paintAll = () => pool.forEach((c) => { if (!c.node.hidden) paint(c.canvas, night, Number(c.node.dataset.row), layer()); });
  setInterval(() => { if (model.get("cutouts") === 2) { phase = 1 - phase; paintAll(); } }, 700);
  const show = (measured) => {
    now = measured;
    rows = filtered(model, night, now);
    const s = state(), seen = rows.filter((i) => night.cutoutOf.has(i) || (ask && !Number.isNaN(night.shown.peak[i])));
    const pages = Math.max(1, Math.ceil(seen.length / PAGE)), at = Math.min(Math.max(model.get("page"), 0), pages - 1);
    const first = at * PAGE, page = Array.from(seen.slice(first, first + PAGE));
    model.set("page", at);
    ask?.(page, false);
    if (model.get("cutouts")) ask?.(page, true);
    pool.forEach((c, k) => {
      c.node.hidden = k >= page.length;
      if (c.node.hidden) return;
      const i = page[k];
      c.node.dataset.row = i;
      captionLines(night, now, s, i).forEach((line, n) => { c.lines[n].textContent = line; });
      c.node.title = facts(night, i).join("\n");
    });
    paintAll();
    empty.hidden = rows.length > 0;
    if (!rows.length) empty.textContent = emptyWords(night, s, now);
    const missing = rows.length - seen.length;
    where.textContent = !page.length ? (rows.length ? `${number(rows.length)} ${noun}, none with a cutout here` : "")
      : `${first + 1}–${first + page.length} of ${number(seen.length)}${missing ? ` (${number(missing)} more ${ask ? "without a leader" : "without a cutout"})` : ""}`;
    back.hidden = on.hidden = pages === 1;
    scale.hidden = saved.hidden = !page.length;
    back.disabled = at === 0;
    on.disabled = at >= pages - 1;
    if (rows.length < 2000) drawMaps();
  };
  return { nodes: [toolbar, empty, grid, scale, saved, story.panel], maps: [points, chip], show, drawMaps, close: story.close, isOpen: () => story.picked() >= 0 };
}

async function start({ model, el, ownControls }) {
  const payload = model.get("payload"), night = await loadNight(payload);
  if (ownControls) followAddress(model);
  const [list, showNumbers] = livePanel(night), [trade, showTrade] = tradeoff(night), gallery = galleryView(model, night);
  const spoken = make("p", { class: "sla1-spoken", role: "status", "aria-live": "polite" });
  let later = 0, now = null;
  const settle = () => {
    const s = stateOf(model);
    showTrade(now, s, true);
    gallery.drawMaps();
    spoken.textContent = `${plural(now.heldOut, "candidate")} held out, ${number(now.inSample)} in sample; 50 % flux ${now.flux_50 === null ? "not reached" : `${number(now.flux_50)} electrons`}`;
  };
  const update = () => {
    const s = stateOf(model);
    now = measure(night, s);
    gallery.show(now);
    showNumbers(now, s);
    showTrade(now, s, false);
    clearTimeout(later);
    later = setTimeout(settle, 150);
  };
  const side = make("aside", { class: "sla1-live", "aria-label": "What this setting costs and finds" }, ...list,
    ...(ownControls && night.trials ? [slider(model, "flux")] : []), ...gallery.maps, ...(night.trials ? trade : []));
  const notes = [carriedWords(payload.carried), ownControls ? cutoutWords(night) : ""].filter(Boolean);
  const root = make("div", { class: "sla1-explorer" },
    ...(ownControls ? [controls(model, payload)] : []), spoken,
    make("div", { class: "sla1-body" }, side, make("div", { class: "sla1-main" }, ...gallery.nodes, ...notes.map((note) => make("p", { class: "sla1-note" }, note)))));
  root.addEventListener("keydown", (event) => { if (event.key === "Escape" && gallery.isOpen()) gallery.close(); });
  const ours = new Set(settingKeys(payload));
  model.on("change", (key) => {
    if (key !== "page") model.set("page", 0);
    if (ours.has(key)) update(); else gallery.show(now);
  });
  update();
  el.replaceChildren(root);
}

async function initialize({ model }) {
  await linkSliders(model);
}

async function render({ model, el }) {
  await start({ model: await labModel(model), el, ownControls: false });
  nameHandles(model.get("payload"));
}

function startAll(page) {
  for (const place of page.querySelectorAll(".sla1-gallery")) {
    const model = plainModel(JSON.parse(place.querySelector("script").textContent));
    start({ model, el: place, ownControls: true });
  }
}

export default { initialize, render };
