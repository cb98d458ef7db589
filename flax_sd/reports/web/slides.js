// Pictures over steps: each element of class "slides" has a slider, pictures, and the JSON of what
// each picture is at each place of the slider. The arrow keys move all sliders of the page. A page
// that reloads itself comes back as it was; a slider at its end stays at its end.
"use strict";

function slides(element) {
  const { names, places } = JSON.parse(element.querySelector("script").textContent);
  const slider = element.querySelector("input");
  const kept = `${location.pathname} slides`;
  function show() {
    const place = places[slider.value];
    element.querySelector("output").textContent = `step ${place.step}`;
    slider.setAttribute("aria-valuetext", `step ${place.step}`);
    element.querySelectorAll("figure").forEach((figure, i) => {
      const picture = place.pictures[i];
      const image = figure.querySelector("img");
      image.parentElement.hidden = !picture;
      if (picture) {
        image.parentElement.href = image.src = picture.file;
        image.alt = `${names[i]} samples at step ${picture.step}`.trim();
      }
      const other = picture && picture.step !== place.step;
      figure.querySelector(".step").textContent = !picture ? "nothing yet" : other ? `step ${picture.step}` : "";
    });
    for (const near of [+slider.value - 1, +slider.value + 1])
      for (const picture of (places[near] || { pictures: [] }).pictures)
        if (picture) new Image().src = picture.file; // ready when it is wanted
    if (slider.value === slider.max) sessionStorage.removeItem(kept);
    else sessionStorage.setItem(kept, slider.value);
  }
  slider.value = sessionStorage.getItem(kept) ?? slider.max;
  slider.oninput = show;
  show();
}

addEventListener("DOMContentLoaded", () => document.querySelectorAll(".slides").forEach(slides));
addEventListener("keydown", (event) => {
  const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const own = event.target.closest("input[type=range], select, .wide-table, pre"); // have them too
  if (!way || own || event.altKey || event.metaKey) return;
  if (large.box.open) return moveLarge(way);
  for (const slider of document.querySelectorAll(".slides input")) {
    slider.value = +slider.value + way;
    slider.oninput();
  }
  event.preventDefault();
});

// Where the reader was, for a page that loads itself again; not while an image is shown large.
addEventListener("pagehide", () => sessionStorage.setItem(`${location.pathname} scroll`, scrollY));
addEventListener("load", () => scrollTo(0, sessionStorage.getItem(`${location.pathname} scroll`) || 0));
addEventListener("DOMContentLoaded", () => {
  const box = document.querySelector("input.reload");
  if (!box) return;
  const kept = `${location.pathname} reload`;
  box.checked = sessionStorage.getItem(kept) !== "false";
  box.onchange = () => sessionStorage.setItem(kept, box.checked);
  setInterval(() => box.checked && !large.box.open && location.reload(), 1000 * box.dataset.seconds);
});
