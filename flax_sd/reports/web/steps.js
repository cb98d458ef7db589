// One prompt at all steps, side by side: below each element of class "slides" whose grids say where
// their single images are. A row is a run, a link opens an image large.
"use strict";

function besides(element) {
  const { names, places } = JSON.parse(element.querySelector("script").textContent);
  const rows = names.map((name, i) => ({
    name,
    grids: places.map((place) => place.pictures[i]).filter((grid, k) => grid?.images.length && grid.step === places[k].step),
  }));
  const labels = [];
  for (const { grids } of rows)
    for (const grid of grids)
      for (const [, , , , label] of grid.images) if (!labels.includes(label)) labels.push(label);
  if (!labels.length) return;

  const title = document.createElement("h3"), choice = document.createElement("p");
  title.textContent = "Steps side by side";
  const label = document.createElement("label"), select = document.createElement("select");
  label.append("prompt ", select);
  choice.append(label);
  for (const each of labels) select.add(new Option(each));
  const table = document.createElement("div");
  element.after(title, choice, table);
  const kept = `${location.pathname} prompt`;
  select.value = sessionStorage.getItem(kept) ?? labels[0];
  if (select.selectedIndex < 0) select.selectedIndex = 0;
  function show() {
    table.replaceChildren(...rows.map((row) => rowOf(row, select.value)));
    sessionStorage.setItem(kept, select.value);
  }
  select.onchange = show;
  show();
}

function rowOf({ name, grids }, label) {
  const row = document.createElement("div"), title = document.createElement("b");
  row.className = "row";
  title.textContent = name;
  if (name) row.append(title);
  for (const grid of grids)
    for (const image of grid.images.filter((each) => each[4] === label)) {
      const figure = document.createElement("figure"), link = document.createElement("a");
      link.className = "large";
      link.href = grid.file;
      link.title = "show it large";
      link.append(crop(grid.file, grid.size, image, grid.step));
      figure.append(link, `step ${grid.step}`);
      row.append(figure);
    }
  return row;
}

addEventListener("DOMContentLoaded", () => document.querySelectorAll(".slides").forEach(besides));
