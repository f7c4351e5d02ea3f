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

function paint(canvas, shades, k) {
  const context = canvas.getContext("2d"), image = context.createImageData(5, 5), cells = new Uint32Array(image.data.buffer);
  for (let j = 0; j < 25; j++) cells[j] = GREYS[k === undefined ? 255 : shades[25 * k + 20 - 5 * Math.floor(j / 5) + (j % 5)]];
  context.putImageData(image, 0, 0);
}

function logTicks(low, high) {
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
    for (const m of high / low > 50 ? [1] : [1, 2, 5]) if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) ticks.push(m * 10 ** e);
  return ticks;
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

function drawHistory(svg, night, sigmas, frame) {
  svg.replaceChildren();
  const W = 460, H = 170, left = 44, right = 450, top = 12, bottom = 132;
  const finite = sigmas.filter(Number.isFinite), low = Math.min(-3, ...finite), high = Math.max(5, ...finite);
  const X = (k) => left + ((right - left) * (k + 0.5)) / sigmas.length, Y = (v) => bottom - ((bottom - top) * (v - low)) / (high - low);
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1e4, 1e5].find((s) => (high - low) / s <= 6) ?? 1e6;
  for (let v = Math.ceil(low / step) * step + 0; v <= high; v += step) {
    draw(svg, "line", { x1: left, x2: right, y1: Y(v), y2: Y(v), class: v === 0 ? "sla1-zero" : "sla1-grid" });
    draw(svg, "text", { x: left - 6, y: Y(v) + 4, "text-anchor": "end", class: "sla1-axis" }, number(v + 0));
  }
  Array.from(sigmas).forEach((v, k) => {
    if (!Number.isFinite(v)) return;
    const mark = draw(svg, "circle", { cx: X(k), cy: Y(v), r: k === frame ? 5.5 : Math.min(4, 120 / sigmas.length + 1.5), class: k === frame ? "sla1-this" : "sla1-other" });
    draw(mark, "title", {}, `${night.frames[k]}: ${number(v)} σ`);
  });
  const every = Math.ceil(sigmas.length / 12);
  for (let k = 0; k < sigmas.length; k += every) draw(svg, "text", { x: X(k), y: bottom + 16, "text-anchor": "middle", class: "sla1-axis" }, k + 1);
  draw(svg, "text", { x: (left + right) / 2, y: H - 4, "text-anchor": "middle", class: "sla1-axis" }, "frame of the night, in order");
  draw(svg, "text", { x: 12, y: (top + bottom) / 2, "text-anchor": "middle", class: "sla1-axis", transform: `rotate(-90 12 ${(top + bottom) / 2})` }, "residual (σ)");
}

function drawChip(svg, [ny, nx], x, y) {
  const scale = 110 / Math.max(nx, ny);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `-4 -4 ${nx * scale + 8} ${ny * scale + 8}`);
  draw(svg, "rect", { x: 0, y: 0, width: nx * scale, height: ny * scale, class: "sla1-chip" });
  const cx = (x + 0.5) * scale, cy = (ny - y - 0.5) * scale;
  draw(svg, "line", { x1: cx, x2: cx, y1: 0, y2: ny * scale, class: "sla1-grid" });
  draw(svg, "line", { x1: 0, x2: nx * scale, y1: cy, y2: cy, class: "sla1-grid" });
  draw(svg, "circle", { cx, cy, r: 4, class: "sla1-this" });
}
