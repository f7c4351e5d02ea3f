// A page that was sent alone has no neighbours: its links become text, and it says where the others are.
for (const nav of document.querySelectorAll("nav[data-alone]")) {
  const here = decodeURIComponent(location.pathname).split("/").slice(0, -1).join("/");
  const dead = [...nav.querySelectorAll("a")].filter((link) => !here.endsWith(`/${link.dataset.needs}`));
  for (const link of dead) link.replaceWith(link.textContent);
  if (dead.length) nav.append(document.createElement("br"), nav.dataset.alone);
}
// What is wider than its place says so, and can be moved by the keyboard.
const watched = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    target.classList.toggle("scrolls", target.scrollWidth > target.clientWidth + 1);
    if (target.matches(".scrolls")) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  }
});
for (const box of document.querySelectorAll(".wide, figure")) watched.observe(box);
// A figure opens at its full size, to be moved about; another tap or Escape closes it.
for (const button of document.querySelectorAll("button.zoom")) {
  button.addEventListener("click", () => {
    const whole = document.createElement("dialog");
    whole.className = "whole";
    whole.ariaLabel = "The figure at full size";
    whole.append(button.firstChild.cloneNode());
    whole.addEventListener("click", () => whole.close());
    whole.addEventListener("close", () => whole.remove());
    document.body.append(whole);
    whole.showModal();
  });
}
