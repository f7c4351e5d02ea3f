// What the explorer saves: the setting as parameters, the selection as a table, as regions, as a sheet of cutouts.

function saveBlob(name, blob) {
  const link = make("a", { download: name, href: URL.createObjectURL(blob) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const saveText = (name, text) => saveBlob(name, new Blob([text], { type: "text/plain;charset=utf-8" }));

// The criterion and its cuts, nothing that names a night: a file to be layered over any night's.
function yamlText(payload, s) {
  const { name, cuts } = payload.criteria[s.criterion], spell = (v) => String(v).replace(/^(-?\d+)e/, "$1.0e");
  return [`criterion: "${name}"`, ...cuts.map((cut) => `${cut}: ${spell(cutOf(payload, s, cut))}`), ""].join("\n");
}

// A table that astropy reads, its setting in the header.
function ecsvText(night, s, rows) {
  const t = night.shown, whole = new Set(["x", "y", "dq"]);
  const quote = (text) => (/^[\w.:+-]+$/.test(text) ? text : `"${text.replaceAll('"', '""')}"`);
  const value = (v) => (Number.isFinite(v) ? String(v) : Number.isNaN(v) ? "nan" : v > 0 ? "inf" : "-inf");
  const stated = night.show === "injections" ? [["flux_true", "electron", (i) => value(night.trials.flux[i])]] : [];
  const columns = [["frame", "", (i) => quote(night.frames[t.frame[i]] ?? "")], ["time", "", (i) => quote(night.times[t.frame[i]] ?? "")], ...stated,
    ...Object.entries(night.units).map(([name, unit]) => [name, unit, (i) => (whole.has(name) && Number.isNaN(t[name][i]) ? '""' : value(t[name][i]))]),
    ["best_rival", "", (i) => quote(t.rivals[t.rival[i]] ?? "")]];
  const kind = (name) => (["frame", "time", "best_rival"].includes(name) ? "string" : whole.has(name) ? "int32" : "float64");
  const header = ["%ECSV 1.0", "---", "datatype:", ...columns.map(([name, unit]) => `- {name: ${name}, ${unit && `unit: ${unit}, `}datatype: ${kind(name)}}`),
    "meta:", ...yamlText(night, s).trim().split("\n").map((line) => `  ${line}`), "schema: astropy-2.0"].map((line) => `# ${line}`);
  return [...header, columns.map(([name]) => name).join(" "), ...rows.map((i) => columns.map(([, , of]) => of(i)).join(" ")), ""].join("\n");
}

// Circles for DS9, frame by frame; image coordinates count from 1, and a group of one tag is chosen with a click.
function regionText(night, rows) {
  const t = night.shown, plain = (text) => text.replace(/[^A-Za-z0-9._+-]/g, "_");
  const lines = ["# Region file format: DS9", "image"];
  let last = -1;
  for (const i of rows.filter((row) => t.x[row] >= 0).sort((a, b) => t.frame[a] - t.frame[b])) {
    const frame = plain(night.frames[t.frame[i]] ?? "");
    if (t.frame[i] !== last) lines.push(`# frame ${frame}`);
    last = t.frame[i];
    lines.push(`circle(${t.x[i] + 1},${t.y[i] + 1},4) # text={${frame} ${Math.round(t.peak[i])} e-} tag={${frame}}`);
  }
  return [...lines, ""].join("\n");
}

const SHEET = 240; // cutouts at most

function saveSheet(night, s, now, rows) {
  const shown = rows.slice(0, SHEET), across = Math.min(8, Math.max(shown.length, 1)), side = 110, wide = 170, high = side + 50, top = 34;
  const sheet = make("canvas", { width: across * wide, height: top + Math.max(Math.ceil(shown.length / across), 1) * high }), cutout = make("canvas");
  const context = sheet.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.imageSmoothingEnabled = false;
  const say = (text, x, y) => { context.fillStyle = "#1c2126"; context.fillText(text, x, y, wide - 8); };
  context.font = "13px system-ui, sans-serif";
  context.fillStyle = "#1c2126";
  context.fillText(`${night.criteria[s.criterion].name}, ${cutWords(night, s)}: ${shown.length} of ${number(rows.length)}`, 6, 20);
  context.font = "12px system-ui, sans-serif";
  shown.forEach((i, k) => {
    const x = (k % across) * wide + 6, y = top + Math.floor(k / across) * high;
    paint(cutout, night, i, 0);
    context.drawImage(cutout, x, y, side, side);
    captionLines(night, now, s, i).forEach((line, n) => say(line, x, y + side + 14 + 15 * n));
  });
  sheet.toBlob((blob) => saveBlob("cutouts.png", blob));
}
