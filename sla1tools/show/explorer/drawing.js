// How the explorer draws: cutouts on canvases, the trade-off, a pixel's history and its place as SVG.

const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) name === "class" ? (node.className = value) : node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(parent, tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

const GREYS = Uint32Array.from({ length: 256 }, (_, k) => {
  if (k === 255) return 0xffc9a183; // beyond the frame: a blue that no grey resembles
  const g = Math.round(12 + (k * 243) / 254);
  return (0xff000000 | (g << 16) | (g << 8) | g) >>> 0;
});

// Layer 0 is a row's 5x5 residual; 1, 2, 3 are its wide residual, frame and reference, where they are known.
function paint(canvas, night, i, layer) {
  const k = layer ? night.closerOf.get(i) : night.cutoutOf.get(i), side = layer ? 15 : 5;
  if (layer && k === undefined) return paint(canvas, night, i, 0);
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d"), image = context.createImageData(side, side), cells = new Uint32Array(image.data.buffer);
  const shades = layer ? night.cutouts.closer : night.cutouts.shades, first = layer ? (3 * k + layer - 1) * side ** 2 : k * side ** 2;
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) cells[row * side + column] = GREYS[k === undefined ? 255 : shades[first + (side - 1 - row) * side + column]];
  }
  context.putImageData(image, 0, 0);
}

function logTicks(low, high) {
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    for (const m of high / low > 50 ? [1] : [1, 2, 5]) if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) ticks.push(m * 10 ** e);
  return ticks.length > 8 ? ticks.filter((_, k) => k % 3 === 0) : ticks;
}

function drawTradeoff(svg, night, curves, now) {
  svg.replaceChildren();
  const W = 340, H = 240, box = { left: 52, right: 330, top: 10, bottom: 200 };
  const points = curves.flat().filter((p) => p.flux_50 !== null);
  if (!curves.length) return; // not computed yet: that waits until the sliders rest
  if (!points.length) {
    draw(svg, "text", { x: W / 2, y: H / 2, class: "sla1-axis", "text-anchor": "middle" }, "50 % is reached at no setting");
    return;
  }
  const xs = points.map((p) => p.flux_50), ys = [...points.map((p) => p.limit), night.budget];
  if (now.flux_50 !== null) { xs.push(now.flux_50); ys.push(now.limit); }
  const range = (v) => [Math.min(...v) / 1.15, Math.max(...v) * 1.15];
  const [x0, x1] = range(xs), [y0, y1] = range(ys);
  const X = (v) => box.left + ((box.right - box.left) * Math.log(v / x0)) / Math.log(x1 / x0);
  const Y = (v) => box.bottom - ((box.bottom - box.top) * Math.log(v / y0)) / Math.log(y1 / y0);
  for (const v of logTicks(y0, y1)) {
    draw(svg, "line", { x1: box.left, x2: box.right, y1: Y(v), y2: Y(v), class: "sla1-grid" });
    draw(svg, "text", { x: box.left - 6, y: Y(v) + 4, "text-anchor": "end", class: "sla1-axis" }, number(v));
  }
  for (const v of logTicks(x0, x1)) {
    draw(svg, "line", { x1: X(v), x2: X(v), y1: box.top, y2: box.bottom, class: "sla1-grid" });
    draw(svg, "text", { x: X(v), y: box.bottom + 16, "text-anchor": "middle", class: "sla1-axis" }, number(v));
  }
  draw(svg, "text", { x: (box.left + box.right) / 2, y: H - 6, "text-anchor": "middle", class: "sla1-axis" }, "50 % flux (e-)");
  draw(svg, "text", { x: 12, y: (box.top + box.bottom) / 2, "text-anchor": "middle", class: "sla1-axis",
    transform: `rotate(-90 12 ${(box.top + box.bottom) / 2})` }, "false alarms a frame, 95 % limit");
  draw(svg, "line", { x1: box.left, x2: box.right, y1: Y(night.budget), y2: Y(night.budget), class: "sla1-budget" });
  curves.forEach((curve, c) => {
    const kept = curve.filter((p) => p.flux_50 !== null);
    draw(svg, "polyline", { points: kept.map((p) => `${X(p.flux_50)},${Y(p.limit)}`).join(" "), class: "sla1-curve",
      style: `stroke: ${night.criteria[c].color}; stroke-dasharray: ${["none", "7 3", "2 3"][c % 3]}` });
  });
  if (now.flux_50 !== null) draw(svg, "circle", { cx: X(now.flux_50), cy: Y(now.limit), r: 5.5, class: "sla1-here" });
}

// Values of `sigmas`, two a frame: held out (filled) and in sample (open), in units of one noise.
function drawHistory(svg, night, sigmas, frame) {
  svg.replaceChildren();
  const W = 460, H = 170, left = 44, right = 450, top = 12, bottom = 132, n = sigmas.length / 2;
  const finite = sigmas.filter(Number.isFinite), low = Math.min(-3, ...finite), high = Math.max(5, ...finite);
  const X = (k) => left + ((right - left) * (k + 0.5)) / n, Y = (v) => bottom - ((bottom - top) * (v - low)) / (high - low);
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1e4, 1e5].find((s) => (high - low) / s <= 6) ?? 1e6;
  for (let v = Math.ceil(low / step) * step + 0; v <= high; v += step) {
    draw(svg, "line", { x1: left, x2: right, y1: Y(v), y2: Y(v), class: v === 0 ? "sla1-zero" : "sla1-grid" });
    draw(svg, "text", { x: left - 6, y: Y(v) + 4, "text-anchor": "end", class: "sla1-axis" }, number(v + 0));
  }
  const size = Math.min(4, 120 / n + 1.5), every = Math.ceil(n / 12);
  for (let k = 0; k < n; k++) {
    const name = `frame ${frameNumber(night, k)}, ${night.frames[k]}`;
    [[1, "sla1-in-sample"], [0, k === frame ? "sla1-this" : "sla1-other"]].forEach(([sample, kind]) => {
      const v = sigmas[2 * k + sample];
      if (!Number.isFinite(v)) return;
      const mark = draw(svg, "circle", { cx: X(k), cy: Y(v), r: k === frame && !sample ? 5.5 : size, class: kind });
      draw(mark, "title", {}, `${name}: ${number(v)} σ ${sample ? "in sample" : "held out"}`);
    });
    if (k % every === 0) draw(svg, "text", { x: X(k), y: bottom + 16, "text-anchor": "middle", class: "sla1-axis" }, frameNumber(night, k));
  }
  draw(svg, "text", { x: (left + right) / 2, y: H - 4, "text-anchor": "middle", class: "sla1-axis" }, "frame, by the number of its file");
  draw(svg, "text", { x: 12, y: (top + bottom) / 2, "text-anchor": "middle", class: "sla1-axis", transform: `rotate(-90 12 ${(top + bottom) / 2})` }, "residual (σ)");
}

// Rows as dots on a canvas under an SVG of axes; a click picks the nearest of them.
function pointMap(label, W, H, onPick) {
  const canvas = make("canvas", { "aria-hidden": "true" }), svg = picture(label, W, H), base = make("canvas");
  for (const node of [canvas, base]) { node.width = 2 * W; node.height = 2 * H; }
  let points = [], place = () => [NaN, NaN];
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect(), x = ((event.clientX - box.left) * W) / box.width, y = ((event.clientY - box.top) * H) / box.height;
    let nearest = -1, least = 15 ** 2;
    for (const i of points) {
      const [px, py] = place(i), away = (px - x) ** 2 + (py - y) ** 2;
      if (away < least) [nearest, least] = [i, away];
    }
    if (nearest >= 0) onPick(nearest);
  });
  const dots = (node, rows, color, size) => {
    const context = node.getContext("2d");
    context.fillStyle = color;
    for (const i of rows) {
      const [x, y] = place(i);
      context.fillRect(2 * x - size / 2, 2 * y - size / 2, size, size);
    }
  };
  return {
    node: make("div", { class: "sla1-points" }, canvas, svg),
    svg,
    // What stays while the sliders move.
    ground(rows, where) {
      [points, place] = [rows, where];
      base.width = 2 * W;
      dots(base, rows, "#8a949e80", 3);
    },
    show(rows, picked) {
      canvas.width = 2 * W;
      canvas.getContext("2d").drawImage(base, 0, 0);
      dots(canvas, rows, "#d55e00", 5);
      if (picked >= 0) dots(canvas, [picked], "#0072b2", 14);
    },
  };
}

function picture(label, W, H) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, v] of Object.entries({ viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label })) svg.setAttribute(name, v);
  return svg;
}

const SCATTER = { W: 340, H: 230, left: 52, right: 322, top: 10, bottom: 190 };

// What a cut is compared with, for every row, and where it stands on an axis from 0 to 1.
function axisOf(night, criterion, cut) {
  const { terms } = night.criteria[criterion], term = terms.find(({ bound }) => bound === cut), t = night.shown;
  const values = t[term.column], factor = t[term.factor], { log } = night.sliders[cut], of = (i) => (factor ? values[i] / factor[i] : values[i]);
  let [low, high] = night.bounds[cut];
  const far = term.column === "peak" || term.column === "snr"; // they have no upper end
  if (far) for (let i = 0; i < t.n; i++) if (Number.isFinite(of(i))) high = Math.max(high, of(i));
  const scale = log || far ? (v) => Math.log(v / low) / Math.log(high / low) : (v) => (v - low) / (high - low);
  return { label: named(night.sliders[cut]).replace(/ ≥$/, ""), of, low, high, at: (v) => Math.min(1, Math.max(0, v > 0 ? scale(v) : 0)), logarithmic: log || far };
}

// All leaders over the criterion's first two cuts, those that pass in colour; what lies beyond an axis stands on its end.
function scatter(night, onPick) {
  const map = pointMap("Leaders over the two cuts; those that pass are orange", SCATTER.W, SCATTER.H, onPick), { left, right, top, bottom } = SCATTER;
  const injections = night.show === "injections", t = night.shown;
  let drawn = -1, axes = [], lines = [];
  const X = (v) => left + (right - left) * axes[0].at(v), Y = (v) => bottom - (bottom - top) * axes[1].at(v);
  const axis = (svg, a, along) => {
    for (const v of a.logarithmic ? logTicks(a.low, a.high) : [0, 0.25, 0.5, 0.75, 1].map((f) => a.low + f * (a.high - a.low))) {
      const place = along ? { x: X(v), y: bottom + 16, "text-anchor": "middle" } : { x: left - 6, y: Y(v) + 4, "text-anchor": "end" };
      draw(svg, "line", along ? { x1: X(v), x2: X(v), y1: top, y2: bottom, class: "sla1-grid" } : { x1: left, x2: right, y1: Y(v), y2: Y(v), class: "sla1-grid" });
      draw(svg, "text", { ...place, class: "sla1-axis" }, v > 0 && v < 1e-3 ? v.toExponential(0) : number(v));
    }
    const middle = (top + bottom) / 2;
    draw(svg, "text", along ? { x: (left + right) / 2, y: SCATTER.H - 6, "text-anchor": "middle", class: "sla1-axis" }
      : { x: 12, y: middle, "text-anchor": "middle", class: "sla1-axis", transform: `rotate(-90 12 ${middle})` }, a.label);
  };
  return [map.node, (s, rows, picked) => {
    const { cuts } = night.criteria[s.criterion];
    map.node.hidden = cuts.length < 2;
    if (cuts.length < 2) return;
    if (drawn !== s.criterion) {
      drawn = s.criterion;
      axes = cuts.slice(0, 2).map((cut) => axisOf(night, s.criterion, cut));
      map.svg.replaceChildren();
      axes.forEach((a, k) => axis(map.svg, a, k === 0));
      lines = axes.map(() => draw(map.svg, "line", { class: "sla1-budget" }));
      const all = Array.from({ length: t.n }, (_, i) => i).filter((i) => (injections || t.held[i] === night.own) && axes.every((a) => Number.isFinite(a.of(i))));
      map.ground(all, (i) => [X(axes[0].of(i)), Y(axes[1].of(i))]);
    }
    const at = [X(cutOf(night, s, cuts[0])), Y(cutOf(night, s, cuts[1]))];
    [{ x1: at[0], x2: at[0], y1: top, y2: bottom }, { x1: left, x2: right, y1: at[1], y2: at[1] }].forEach((ends, k) => {
      for (const [name, v] of Object.entries(ends)) lines[k].setAttribute(name, v);
    });
    map.show(rows.filter((i) => axes.every((a) => Number.isFinite(a.of(i)))), picked);
  }];
}

// Where on the chip the selection lies; a click picks the nearest.
function chipMap(night, onPick) {
  const [ny, nx] = night.shape, scale = 160 / Math.max(nx, ny), W = nx * scale + 8, H = ny * scale + 8, t = night.shown;
  const map = pointMap("Where on the chip the selection lies", W, H, onPick), where = (i) => [4 + (t.x[i] + 0.5) * scale, 4 + (ny - t.y[i] - 0.5) * scale];
  draw(map.svg, "rect", { x: 4, y: 4, width: nx * scale, height: ny * scale, class: "sla1-chip" });
  map.node.classList.add("sla1-chip-map");
  return [map.node, (rows, picked) => {
    map.ground(rows.filter((i) => t.x[i] >= 0), where);
    map.show(rows, picked);
  }];
}
