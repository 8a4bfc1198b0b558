// The page is whole without this: here charts answer to pointer and keys, and pairs of pictures open large.
"use strict";
document.documentElement.classList.add("js");
const tip = document.getElementById("tip");

function hide() {
  tip.hidden = true;
  document.querySelectorAll(".chart .on").forEach((mark) => mark.classList.remove("on"));
}

// Marks at one x are read together, as the curves of a training are; marks of a row share its tip.
function show(chart, mark) {
  hide();
  const near = chart.marks.filter((m) => m === mark || (chart.curves && visible(m) && m.dataset.x === mark.dataset.x));
  near.forEach((m) => m.classList.add("on"));
  tip.textContent = [...new Set(near.map((m) => m.dataset.tip))].join("\n");
  tip.hidden = false;
  const at = mark.querySelector("circle").getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left + at.width / 2 - tip.offsetWidth / 2), innerWidth - tip.offsetWidth - 8);
  const above = at.top - tip.offsetHeight - 10;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : at.bottom + 10}px`;
}

const visible = (mark) => !mark.closest(".off");

function nearest(chart, event) {
  const matrix = chart.getScreenCTM().inverse();
  const here = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix);
  let best = null, least = chart.curves ? 60 : 40;
  for (const mark of chart.marks.filter(visible)) {
    const across = Math.abs(mark.dataset.x - here.x), up = Math.abs(mark.dataset.y - here.y);
    const away = chart.byRow ? 3 * up + across / 20 : Math.hypot(across, up);
    if (away < least) [best, least] = [mark, away];
  }
  return best;
}

for (const chart of document.querySelectorAll(".chart")) {
  chart.marks = [...chart.querySelectorAll(".mark")];
  for (const mark of chart.marks) {
    const title = mark.querySelector("title");
    mark.dataset.tip = title.textContent;
    title.remove(); // else the browser shows it as well
  }
  chart.byRow = !chart.querySelector(".series");
  chart.curves = chart.querySelector("polyline") !== null && chart.marks.length > 8;
  chart.addEventListener("pointermove", (event) => {
    const mark = nearest(chart, event);
    mark ? show(chart, mark) : hide();
  });
  chart.addEventListener("pointerdown", (event) => nearest(chart, event) && show(chart, nearest(chart, event)));
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.tabIndex = 0;
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return event.key === "Escape" && hide();
    event.preventDefault();
    const marks = chart.marks.filter(visible);
    if (!marks.length) return hide(); // all of them are taken off in the legend
    chart.place = ((chart.place ?? (step > 0 ? -1 : 0)) + step + marks.length) % marks.length;
    show(chart, marks[chart.place]);
  });
}
addEventListener("scroll", hide, { passive: true });

for (const item of document.querySelectorAll(".legend li")) {
  const drawn = [...item.closest("figure").querySelectorAll(".series")].filter((s) => s.dataset.name === item.dataset.name);
  if (!drawn.length) continue;
  const button = document.createElement("button");
  button.textContent = item.textContent;
  button.setAttribute("aria-pressed", "true");
  button.addEventListener("click", () => {
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", pressed);
    drawn.forEach((series) => series.classList.toggle("off", !pressed));
  });
  item.replaceChildren(button);
}

const controls = document.querySelector(".controls");
if (controls) {
  controls.hidden = false;
  const score = document.getElementById("score"), large = document.getElementById("large");
  score.addEventListener("input", () => {
    const least = Number(score.value);
    controls.querySelector("output").textContent = least.toFixed(2);
    for (const box of document.querySelectorAll(".box")) {
      const [shown, other] = [Number(box.dataset.score) >= least, Number(box.dataset.other) >= least];
      const object = box.classList.contains("object");
      box.classList.toggle("off", !object && !shown);
      box.classList.toggle("missed", object && !shown);
      box.classList.toggle("same", shown === other);
    }
    for (const pane of document.querySelectorAll(".pane")) {
      const count = (look) => pane.querySelectorAll(`.box.${look}:not(.off)`).length;
      const counts = pane.querySelector("b.right") ? ["right", "wrong", "missed"] : ["unjudged", "unjudged:not(.same)"];
      pane.querySelectorAll("figcaption b span").forEach((number, i) => (number.textContent = count(counts[i])));
      pane.classList.toggle("few", count("right") + count("wrong") + count("unjudged") <= 6);
    }
  });
  document.getElementById("changed").addEventListener("change", (event) =>
    document.body.classList.toggle("only-changed", event.target.checked));
  for (const panes of document.querySelectorAll(".panes")) {
    panes.tabIndex = 0;
    panes.setAttribute("role", "button");
    panes.setAttribute("aria-label", `Enlarge ${panes.closest(".pair").querySelector("h3").textContent}`);
    const open = () => {
      const copy = panes.cloneNode(true);
      ["role", "tabindex", "aria-label"].forEach((name) => copy.removeAttribute(name));
      copy.querySelectorAll("image").forEach((image) => image.removeAttribute("id")); // ids stay unique
      large.querySelector("div").replaceChildren(copy);
      large.showModal();
    };
    panes.addEventListener("click", open);
    panes.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open();
    });
  }
  large.addEventListener("click", (event) => event.target === large && large.close());
}
document.documentElement.dataset.ready = "yes"; // the test waits for this
