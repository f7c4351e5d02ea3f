"use strict";
const list = document.getElementById("flashes");
const flashes = Array.from(list.children);
const [order, verdict, tally] = ["sort", "verdict", "tally"].map((name) => document.getElementById(name));

// What was not measured comes last, whichever way the rest is sorted.
function key(flash) {
  const value = flash.dataset[order.value];
  return value === "" ? Infinity : (order.value === "snr" ? -1 : 1) * Number(value);
}

function show() {
  flashes.sort((a, b) => (key(a) === key(b) ? a.dataset.row - b.dataset.row : key(a) < key(b) ? -1 : 1));
  for (const flash of flashes) flash.hidden = verdict.value !== "" && flash.dataset.name !== verdict.value;
  list.append(...flashes);
  tally.textContent = `${flashes.filter((flash) => !flash.hidden).length} of ${flashes.length} shown`;
}

for (const control of [order, verdict]) control.addEventListener("input", show);
show();
