// What the explorer says: numbers, captions, sentences. All text reaches the page as text, never as markup.

const number = (v, digits = 3) => {
  if (v === null || v === undefined || Number.isNaN(v)) return "–";
  if (!Number.isFinite(v)) return v > 0 ? "∞" : "−∞";
  if (v !== 0 && Math.abs(v) < 1e-3) return v.toExponential(1);
  return Math.abs(v) >= 1000 || Number.isInteger(v) ? Math.round(v).toLocaleString("en-US") : String(Number(v.toPrecision(digits)));
};
const chance = (p) => (p < 1e-45 ? "< 1e-45" : number(p, 2)); // as chance_text
const percent = (v) => `${Math.round(100 * v)} %`;
const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
const fluxText = ({ zero_point }, v) => `${number(v)} e-${zero_point !== null && v > 0 ? ` (${(zero_point - 2.5 * Math.log10(v)).toFixed(2)} mag)` : ""}`;
const named = ({ label, unit }) => (unit ? `${label} (${unit})` : label);
const unbroken = (text) => text.replaceAll(" ", "\u00a0");

function classNames(dq, classes) {
  return classes.filter(([bit]) => dq & bit).map(([, name]) => name);
}

// A frame counts as its file does: by the last digits of its name.
const frameNumber = (night, k) => /(\d+)\D*$/.exec(night.frames[k])?.[1].replace(/^0+(?=\d)/, "") ?? k + 1;

// The two lines under a cutout.
function captionLines(night, now, s, i) {
  const t = night.shown, frame = night.frames[t.frame[i]] ?? "";
  const head = night.show === "injections"
    ? `${fluxText(night, night.trials.flux[i])}: ${now.trialMask[i] ? "found" : `missed, ${missReason(night, s, i)}`}`
    : `${frame} · ${unbroken(`${number(t.peak[i])} e-`)}`;
  return [head, Number.isNaN(t.snr[i]) ? "not fitted" : `S/N ${number(t.snr[i])} · ${unbroken(`p ${chance(t.p_value[i])}`)}`];
}

// All that is measured of it.
function around(night, i) {
  const { x, y, peak } = night.shown, [ny, nx] = night.shape;
  const span = (v, top) => `${Math.max(v - 2, 0)}:${Math.min(v + 2, top - 1)}`;
  return `x=${span(x[i], nx)}, y=${span(y[i], ny)} around (x=${x[i]}, y=${y[i]}, ${number(peak[i])}\u00a0e-)`;
}

function measures(night, i) {
  const t = night.shown, margin = t.rival_margin[i], rival = t.rivals[t.rival[i]];
  const parts = [`ratio ${number(t.neighbor_min[i] / t.peak[i], 2)}`, ...(Number.isNaN(t.snr[i]) ? [`not fitted: S/N not above ${number(night.carried.floors.snr)}, or its centre is flagged`]
    : [`S/N ${number(t.snr[i])}`, `p ${chance(t.p_value[i])}`, `flux ${fluxText(night, t.flux[i])}`])];
  if (rival) parts.push(`${rival} fits ${margin > 0 ? "better" : "worse"}: χ² ${margin > 0 ? "−" : "+"}${number(Math.abs(margin))}`);
  return parts.map(unbroken).join(" · ");
}

function facts(night, i) {
  const t = night.shown, names = classNames(t.dq[i], night.classes), time = night.times[t.frame[i]];
  return [around(night, i), measures(night, i), names.length ? `pixel classes: ${names.join(", ")}` : "in no pixel class: a good pixel in every test",
    ...(time ? [`exposure began ${time} UTC`] : [])];
}

const cutWords = (night, s, cuts = night.criteria[s.criterion].cuts) => cuts.map((cut) => {
  const { label, unit } = night.sliders[cut];
  return `${label} ${number(s[cut])} ${unit}`.trim();
}).join(", ");

// Along a curve the first cut varies, the others stay where they are set.
function variesWords(night, s, { name, cuts: [first, ...rest] }) {
  return `${name}: ${night.sliders[first].label} varies${rest.length ? `, ${cutWords(night, s, rest)}` : ""}`;
}

function emptyWords(night, s, now) {
  if (night.show === "injections") return night.trials ? "No injected star falls under this choice." : "No star was injected: not tested.";
  if (now.limit === null) return `No candidate, and no frame was searched: not tested.`;
  if (now.alarms > 0) return `No candidate under this choice; ${plural(now.alarms, "candidate")} in all.`;
  return `No leader passes ${night.criteria[s.criterion].name} at ${cutWords(night, s)}. None seen in ${plural(night.frames.length, "frame")} still allows ${number(now.limit)} a frame (95 %).`;
}

function endWords(night, s) {
  return night.criteria[s.criterion].cuts.map((cut) => [cut, night.bounds[cut].indexOf(s[cut])]).filter(([, end]) => end >= 0)
    .map(([cut, end]) => `${night.sliders[cut].label} ${number(s[cut])}: ${["lowest", "highest"][end]} here`).join("; ");
}

// A report says before anybody moves there which cutouts it lacks; in JupyterLab the kernel sends them.
function cutoutWords(night) {
  const { rows, possible } = night.cutouts;
  if (rows.length >= possible) return "";
  return night.show === "injections" ? `This page carries the cutouts of ${number(rows.length)} stars, spread evenly over the ${number(possible)} that led.`
    : `Of the ${number(possible)} leaders that some setting shows this page carries the cutouts of the ${number(rows.length)} nearest to the night's own setting; far from it candidates are counted, and lack a cutout.`;
}

function carriedWords({ rows, total, complete, floors }) {
  if (rows === total) return "";
  const rest = complete ? `the sliders start at ${number(floors.peak)} e- and S/N ${number(floors.snr)}, and every count above is exact`
    : "the others are fainter, and counts are lower limits";
  return `This page carries ${number(rows)} of the night's ${number(total)} leaders: ${rest}.`;
}
