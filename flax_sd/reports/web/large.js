// Shows an image large: each link of class "large", by a click or Enter. ← and → go to the image
// beside it, Escape closes.
"use strict";
const large = { at: null };

// The part of a grid that is one image: [left, top, width, height, label] of its size in pixels.
function crop(file, size, [left, top, width, height, label], step) {
  const frame = document.createElement("span"), image = new Image();
  frame.className = "crop";
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.style.setProperty("--pixels", width);
  image.loading = "lazy";
  image.alt = `${label}, step ${step}`;
  image.style.width = `${(100 * size[0]) / width}%`;
  image.style.transform = `translate(${(-100 * left) / size[0]}%, ${(-100 * top) / size[1]}%)`;
  image.src = file;
  frame.append(image);
  return frame;
}

function showLarge(link) {
  const shown = link.firstElementChild.cloneNode(true);
  for (const image of [shown, ...shown.querySelectorAll("img")]) image.loading = "eager";
  const title = document.createElement("p");
  title.textContent = (shown.querySelector("img") || shown).alt;
  large.box.querySelector("div").replaceChildren(title, shown);
  large.at = link;
  if (!large.box.open) large.box.showModal();
}

function moveLarge(way) {
  const all = [...large.at.closest(".frames, .row, p, main").querySelectorAll("a.large")];
  const next = all[all.indexOf(large.at) + way];
  if (next) showLarge(next);
}

addEventListener("DOMContentLoaded", () => {
  large.box = document.createElement("dialog");
  large.box.className = "large";
  large.box.setAttribute("aria-label", "image");
  large.box.innerHTML = '<button type="button">close (Esc)</button><div></div>';
  large.box.querySelector("button").onclick = () => large.box.close();
  large.box.onclick = (event) => event.target === large.box && large.box.close();
  document.querySelector("main").append(large.box);
});
addEventListener("click", (event) => {
  const link = event.target.closest("a.large");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  showLarge(link);
});
