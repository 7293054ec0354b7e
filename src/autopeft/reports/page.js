"use strict";
// Two points of a picture, chosen by a click or the Enter key, side by side with their differences.
for (const figure of document.querySelectorAll("figure.marked")) {
  const panel = figure.nextElementSibling;
  const chosen = [];
  const cell = (row, tag, text) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (tag === "td") made.className = "n";
    row.append(made);
  };
  const difference = (one, other) => {
    if (typeof one !== "number" || typeof other !== "number") return one === other ? "same" : "";
    const value = Number((other - one).toPrecision(4));
    return (value > 0 ? "+" : "") + value;
  };
  const show = () => {
    panel.hidden = chosen.length === 0;
    panel.replaceChildren();
    const told = chosen.map((point) => JSON.parse(point.dataset.point));
    const table = document.createElement("table");
    const caption = table.createCaption();
    caption.textContent = told.length === 2 ? "Two points compared" : "Choose a second point to compare";
    for (const name of Object.keys(told[0] || {})) {
      const row = table.insertRow();
      cell(row, "th", name);
      for (const one of told) cell(row, "td", String(one[name]));
      if (told.length === 2) cell(row, "td", difference(told[0][name], told[1][name]));
    }
    panel.append(table);
  };
  const choose = (point) => {
    const place = chosen.indexOf(point);
    if (place >= 0) chosen.splice(place, 1);
    else if (chosen.push(point) > 2) chosen.shift();
    for (const other of figure.querySelectorAll(".chosen")) other.classList.remove("chosen");
    for (const one of chosen) one.classList.add("chosen");
    show();
  };
  for (const point of figure.querySelectorAll(".point")) {
    point.addEventListener("click", () => choose(point));
  }
}
