// A page that was sent alone has no neighbours: its links become text, and it says where the others are.
for (const nav of document.querySelectorAll("nav[data-alone]")) {
  const here = decodeURIComponent(location.pathname).split("/").slice(0, -1).join("/");
  const dead = [...nav.querySelectorAll("a")].filter((link) => !here.endsWith(`/${link.dataset.needs}`));
  for (const link of dead) link.replaceWith(link.textContent);
  if (dead.length) nav.append(document.createElement("br"), nav.dataset.alone);
}
