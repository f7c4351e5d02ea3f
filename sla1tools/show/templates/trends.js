"use strict";
const table = document.getElementById("nights");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const words = rows.map((row) => row.textContent.toLowerCase());
const search = document.getElementById("search");
const verdict = document.getElementById("verdict");
const differing = document.getElementById("differing");
const tally = document.getElementById("tally");

function filter() {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  rows.forEach((row, i) => {
    row.hidden = !(
      wanted.every((word) => words[i].includes(word)) &&
      (!verdict.value || row.dataset.verdict === verdict.value) &&
      (!differing.checked || row.classList.contains("differs"))
    );
    shown += !row.hidden;
  });
  tally.textContent = `${shown} of ${rows.length} shown`;
}

function keyOf(row, column) {
  const cell = row.cells[column];
  if (!cell.classList.contains("number")) return (cell.dataset.value ?? cell.textContent).trim().toLowerCase();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

// What was not tested comes last, whichever way the rest is sorted.
function sort(column, direction) {
  const keys = new Map(rows.map((row) => [row, keyOf(row, column)]));
  rows.slice().sort((a, b) => {
    const [left, right] = [keys.get(a), keys.get(b)];
    if (left === null || right === null) return (left === null) - (right === null);
    return direction * (left < right ? -1 : left > right ? 1 : 0);
  }).forEach((row) => body.append(row));
}

Array.from(table.tHead.rows[0].cells).forEach((head, column, heads) => {
  head.querySelector("button").addEventListener("click", () => {
    const ascending = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    sort(column, ascending ? 1 : -1);
  });
});
for (const control of [search, verdict, differing]) control.addEventListener("input", filter);
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
filter();
