"use strict";
(() => {
  const FIRST = 6;
  const figures = [...document.querySelectorAll(".picture")].map((figure) => ({
    figure,
    svg: figure.querySelector("svg"),
    tags: JSON.parse(figure.dataset.tags),
    masks: [...figure.querySelectorAll("path")].map((path) => ({
      path,
      iou: path.dataset.iou === undefined ? null : Number(path.dataset.iou),
      tags: JSON.parse(path.dataset.tags || "[]"),
    })),
  }));
  const tip = document.getElementById("tip");
  const tag = document.getElementById("tag");
  const iou = document.getElementById("iou");
  const more = document.getElementById("more");
  let expanded = false;
  let looked = null;

  function leave() {
    if (looked) {
      looked.classList.remove("on");
      looked.parentNode.classList.remove("looking");
    }
    looked = null;
    tip.hidden = true;
  }

  function line(text, bold) {
    const part = document.createElement(bold ? "b" : "div");
    part.textContent = text;
    tip.append(part);
  }

  function look(path, x, y) {
    if (looked !== path) {
      leave();
      looked = path;
      path.classList.add("on");
      path.parentNode.classList.add("looking");
      tip.replaceChildren();
      const { tag: tags, caption, iou: score, stability, area } = path.dataset;
      if (tags) line(tags, true);
      if (caption) line(caption);
      if (score !== undefined) line("predicted IoU " + score);
      if (stability !== undefined) line("stability " + stability);
      line("area " + Number(area).toLocaleString("en") + " px");
      tip.hidden = false;
    }
    const box = tip.getBoundingClientRect();
    const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
    tip.style.left = Math.max(4, Math.min(left, innerWidth - box.width - 4)) + "px";
    tip.style.top = Math.max(4, Math.min(y + 14, innerHeight - box.height - 4)) + "px";
  }

  function step(masks, by) {
    const there = masks.map((mask) => mask.path).filter((path) => !path.classList.contains("off"));
    if (!there.length) return;
    const at = there.indexOf(looked);
    const next = there[at < 0 ? (by > 0 ? 0 : there.length - 1) : (at + by + there.length) % there.length];
    const box = next.getBoundingClientRect();
    look(next, box.left + box.width / 2, box.top + box.height / 2);
  }

  for (const { svg, masks } of figures) {
    svg.addEventListener("pointermove", (event) => {
      if (event.target.tagName === "path") look(event.target, event.clientX, event.clientY);
      else leave();
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (by) {
        step(masks, by);
        event.preventDefault();
      } else if (event.key === "Escape") leave();
    });
  }
  addEventListener("scroll", leave, { passive: true });

  function apply() {
    const wanted = tag ? tag.value : "";
    const least = Number(iou.value);
    document.getElementById("iou-value").textContent = least.toFixed(2);
    leave();
    let numMasks = 0, numAll = 0, numFigures = 0;
    for (const { figure, masks, tags } of figures) {
      let left = 0;
      for (const mask of masks) {
        const tagged = !wanted || tags.includes(wanted) || mask.tags.includes(wanted);
        const shown = tagged && (least === 0 || (mask.iou !== null && mask.iou >= least));
        mask.path.classList.toggle("off", !shown);
        left += shown;
      }
      numMasks += left;
      numAll += masks.length;
      const matches = left > 0 || (!wanted && least === 0) || (least === 0 && tags.includes(wanted));
      numFigures += matches;
      figure.hidden = !matches || (!expanded && numFigures > FIRST);
    }
    document.getElementById("shown").textContent =
      numMasks.toLocaleString("en") + " of " + numAll.toLocaleString("en") + " masks, in " + numFigures +
      (numFigures === 1 ? " picture" : " pictures");
    more.hidden = expanded || numFigures <= FIRST;
    more.textContent = "Show all " + numFigures + " pictures";
  }

  if (!figures.length) return;
  if (tag) tag.addEventListener("change", apply);
  iou.addEventListener("input", apply);
  more.addEventListener("click", () => { expanded = true; apply(); });
  apply();
})();
