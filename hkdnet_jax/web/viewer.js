// Runs once for the component that shows results; `element` stays when its content changes.
const viewer = (event) => event.target.closest(".hk-viewer");

const split = (view, percent) => {
  const value = Math.round(Math.min(100, Math.max(0, percent)));
  view.style.setProperty("--split", `${value}%`);
  const range = view.querySelector(".hk-split");
  range.value = value;
  range.setAttribute("aria-valuetext", `${value} % before`);
};

element.addEventListener("input", (event) => {
  const view = viewer(event);
  if (view && event.target.matches(".hk-split")) split(view, Number(event.target.value));
});

element.addEventListener("change", (event) => {
  const view = viewer(event);
  if (!view || !event.target.matches(".hk-zoom")) return;
  view.dataset.zoom = event.target.value;
  view.style.setProperty("--zoom", event.target.value === "fit" ? 1 : event.target.value);
});

// A mouse or a finger on the pictures moves the line; the wheel and the keys scroll.
const drag = (event) => {
  const stack = event.target.closest(".hk-stack");
  if (!stack || event.buttons !== 1) return;
  const box = stack.getBoundingClientRect();
  split(viewer(event), (100 * (event.clientX - box.left)) / box.width);
};
element.addEventListener("pointerdown", drag);
element.addEventListener("pointermove", drag);
element.addEventListener("dragstart", (event) => event.preventDefault());
