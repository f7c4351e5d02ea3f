// What the candidate explorer knows: the two tables, the selections on them, and the live numbers.
// Measure once, select many. `drawing.js` and `explorer.js` follow in the same module.

const CLOSER = 3 * 15 ** 2;

// ---- the tables ----

async function unzip(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function unpack(column) {
  const Kind = { u1: Uint8Array, u2: Uint16Array, i4: Int32Array, f4: Float32Array, f8: Float64Array }[column.type];
  return new Kind(await unzip(column.zip));
}

async function unpackAll(table) {
  if (!table) return null;
  const entries = Object.entries(table).map(async ([name, v]) => [name,
    v && v.zip !== undefined ? await unpack(v) : name === "leaders" ? await unpackAll(v) : v]);
  return Object.fromEntries(await Promise.all(entries));
}

function order(n, key) {
  const score = Float64Array.from({ length: n }, (_, i) => { const v = key(i); return Number.isNaN(v) ? -Infinity : v; });
  return Uint32Array.from({ length: n }, (_, i) => i).sort((a, b) => score[b] - score[a] || a - b);
}

// For every leader the better ones within `reach` px in the same frame against the same reference: one star can lead
// twice, and a criterion with a column `best` counts it once.
function findRivals(t, best, reach) {
  const value = t[best], placed = [];
  for (let i = 0; i < t.n; i++) if (!Number.isNaN(value[i])) placed.push(i);
  const sky = (i) => t.frame[i] * 2 + t.held[i];
  placed.sort((a, b) => sky(a) - sky(b) || t.y[a] - t.y[b] || t.x[a] - t.x[b]);
  const better = new Map();
  const add = (low, high) => (better.get(low) ?? better.set(low, []).get(low)).push(high);
  placed.forEach((a, k) => {
    for (let j = k + 1; j < placed.length; j++) {
      const b = placed[j];
      if (sky(b) !== sky(a) || t.y[b] - t.y[a] > reach) break;
      if (Math.abs(t.x[b] - t.x[a]) > reach) continue;
      if (value[a] > value[b] || (value[a] === value[b] && a < b)) add(b, a); else add(a, b);
    }
  });
  return { better, crowded: order(t.n, (i) => value[i]).filter((i) => better.has(i)) };
}

// ---- selections: the terms of sla1tools.candidates.criteria, which the payload carries, to the bit ----

const COMPARE = {
  ">": (v, bound) => v > bound, ">=": (v, bound) => v >= bound, "<": (v, bound) => v < bound, "<=": (v, bound) => v <= bound,
  "has no bit of": (v, bits) => (v & bits) === 0,
};

function cutOf(night, s, name) {
  const { opens } = night.sliders[name];
  return opens && s[name] <= night.bounds[name][0] ? 0 : s[name];
}

// A test of one row for one term at one setting.
function testOf(night, term, t, s) {
  const v = t[term.column], compare = COMPARE[term.comparison], factor = t[term.factor];
  const bound = typeof term.bound === "string" ? cutOf(night, s, term.bound) : term.bound;
  return factor ? (i) => compare(v[i], bound * factor[i]) : (i) => compare(v[i], bound);
}

function passing(night, t, s) {
  const mask = new Uint8Array(t.n).fill(1);
  for (const term of night.criteria[s.criterion].terms) {
    const holds = testOf(night, term, t, s);
    for (let i = 0; i < t.n; i++) if (mask[i] && !holds(i)) mask[i] = 0;
  }
  return mask;
}

function select(night, s) {
  const mask = passing(night, night.leaders, s), rivals = night.rivals[s.criterion];
  if (rivals) for (const i of rivals.crowded) if (mask[i] && rivals.better.get(i).some((j) => mask[j])) mask[i] = 0;
  return mask;
}

// A star is found where a leader near it passes, and none did without it: rows without it follow those with it.
function found(night, s) {
  const { n, leaders } = night.trials, mask = passing(night, leaders, s), out = new Uint8Array(n);
  for (let i = 0; i < leaders.n; i++) if (mask[i]) out[leaders.star[i]] = leaders.before[i] ? 0 : 1;
  return out;
}

// Of a star with a leader above the floors: a candidate was there before, else the first term that its brightest fails.
function missReason(night, s, star) {
  const { first, leaders: t } = night.trials, terms = night.criteria[s.criterion].terms;
  const fails = (i) => terms.find((term) => !testOf(night, term, t, s)(i));
  for (let i = first[star]; i < first[star + 1]; i++) if (t.before[i] && !fails(i)) return night.already;
  return fails(first[star])?.miss ?? "";
}

function upperLimit(count, listed) {
  if (count < listed.length) return listed[count];
  const k = 2 * count + 2, h = 2 / (9 * k);
  return (k * (1 - h + 1.6448536269514722 * Math.sqrt(h)) ** 3) / 2;
}

function wilson(hits, n) {
  const z = 1.959963984540054, p = hits / n, w = 1 + (z * z) / n, mid = (p + (z * z) / (2 * n)) / w;
  const half = (z / w) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
  return [Math.max(0, mid - half), Math.min(1, mid + half)];
}

function binOf(flux, edges) {
  let k = 0;
  while (k < edges.length - 2 && flux >= edges[k + 1]) k++;
  return k;
}

// Isotonic regression up to the highest point, constant from there: the same sums in the same order as rates.crossings.
function rising(curve) {
  const top = Math.max(...curve), peak = curve.indexOf(top), m = curve.length, total = [0];
  for (let i = 0; i < m; i++) total.push(total[i] + (i > peak ? top : curve[i]));
  const out = new Array(m).fill(-Infinity);
  for (let j = 0; j < m; j++) {
    let lowest = Infinity;
    for (let k = m - 1; k >= j; k--) {
      lowest = Math.min(lowest, (total[k + 1] - total[j]) / (k - j + 1));
      out[k] = Math.max(out[k], lowest);
    }
  }
  return out;
}

function halfFlux(hits, all, edges) {
  const bins = Array.from(all.keys()).filter((k) => all[k]);
  if (!bins.length) return null;
  const x = bins.map((k) => Math.log(Math.sqrt(edges[k] * edges[k + 1]))), y = rising(bins.map((k) => hits[k] / all[k]));
  for (let i = 1; i < y.length; i++) {
    if (y[i - 1] < 0.5 && y[i] >= 0.5) return Math.exp(x[i - 1] + ((x[i] - x[i - 1]) * (0.5 - y[i - 1])) / (y[i] - y[i - 1]));
  }
  return null;
}

function measure(night, s) {
  const mask = select(night, s), held = night.leaders.held;
  let heldOut = 0, inSample = 0;
  for (let i = 0; i < mask.length; i++) if (mask[i]) held[i] ? heldOut++ : inSample++;
  const n = night.frames.length, alarms = night.own ? heldOut : inSample;
  const out = {
    mask, heldOut, inSample, alarms, rate: n ? alarms / n : null, limit: n ? upperLimit(alarms, night.limits) / n : null,
    completeness: null, low: null, high: null, found: null, injected: null, flux_50: null, trialMask: null,
  };
  if (!night.trials) return out;
  const { edges, bin, n: stars } = night.trials, hits = new Uint32Array(edges.length - 1);
  out.trialMask = found(night, s);
  for (let i = 0; i < stars; i++) hits[bin[i]] += out.trialMask[i];
  const k = binOf(s.flux, edges);
  Object.assign(out, { bin: k, found: hits[k], injected: night.injected[k], flux_50: halfFlux(hits, night.injected, edges) });
  if (out.injected) {
    out.completeness = out.found / out.injected;
    [out.low, out.high] = wilson(out.found, out.injected);
  }
  return out;
}

// What a star shows is its leader's; a star without one has no place and no measures.
function starRows({ n, frame, flux, leader, leaders }) {
  const rows = { n, frame, flux, rivals: leaders.rivals };
  for (const [name, v] of Object.entries(leaders)) {
    if (ArrayBuffer.isView(v)) rows[name] = Float64Array.from(leader, (i) => (i < 0 ? (name === "x" || name === "y" ? -1 : NaN) : v[i]));
  }
  return rows;
}

async function loadNight(payload) {
  const [leaders, trials, cutouts, histories] = await Promise.all(
    [payload.leaders, payload.trials, payload.cutouts, payload.histories].map(unpackAll));
  const night = { ...payload, leaders, trials, cutouts, histories };
  night.rivals = night.criteria.map(({ best }) => best && findRivals(leaders, best, night.same_star));
  if (trials) {
    night.injected = new Uint32Array(trials.edges.length - 1);
    for (const k of trials.bin) night.injected[k]++;
    trials.first = new Uint32Array(trials.n + 1);
    for (const star of trials.leaders.star) trials.first[star + 1]++;
    for (let k = 0; k < trials.n; k++) trials.first[k + 1] += trials.first[k];
  }
  const shown = payload.show === "injections" ? (trials ? starRows(trials) : { n: 0 }) : leaders;
  night.shown = shown;
  night.cutoutOf = new Map(Array.from(cutouts.rows, (row, k) => [row, k]));
  cutouts.closer ??= new Uint8Array(0);
  night.closerOf = new Map(Array.from(cutouts.rows.slice(0, cutouts.closer.length / CLOSER), (row, k) => [row, k]));
  night.historyOf = new Map(Array.from(cutouts.rows.slice(0, histories?.shown ?? 0), (row, k) => [row, histories.sigmas.subarray(2 * k * night.frames.length, 2 * (k + 1) * night.frames.length)]));
  night.orders = [];
  return night;
}

// Rows by one of SORTS, each sorted when it is first asked for.
function orderOf(night, sort) {
  const { shown: t } = night, by = [t.peak, t.snr, t.flux, t.p_value, t.rival_margin][sort];
  return (night.orders[sort] ??= by ? order(t.n, (i) => by[i]) : Uint32Array.from({ length: t.n }, (_, i) => i).sort(
    (a, b) => t.frame[a] - t.frame[b] || t.y[a] - t.y[b] || t.x[a] - t.x[b]));
}
