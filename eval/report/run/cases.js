// The list of cases with its filter and order, the keys, and the case that is shown.

const CASES = readJson("cases-data");
const whole = new Promise((resolve) => document.addEventListener("DOMContentLoaded", resolve)); // the file is read
const view = { order: [], current: -1, hypothesis: 0, content: null };

const ORDERS = { // smaller comes first; cases without a value come last
  spearman: (item) => item.spearman,
  excess_mm: (item) => (item.excess_mm === null ? null : -item.excess_mm),
  dispersion: (item) => -item.dispersion,
  best: (item) => item.best,
};

function compare(order, a, b) {
  if (order === "title") return CASES[a].title.localeCompare(CASES[b].title, "en", { numeric: true });
  const [x, y] = [ORDERS[order](CASES[a]), ORDERS[order](CASES[b])];
  return (x === null) - (y === null) || (x ?? 0) - (y ?? 0) || a - b;
}

function matching() {
  const words = at("filter").value.toLowerCase().split(/\s+/).filter(Boolean), flag = at("flag").value;
  const fits = (item) => words.every((word) => item.text.includes(word)) && (!flag || item.flags.includes(flag));
  return CASES.map((item, index) => index).filter((index) => fits(CASES[index])).sort((a, b) => compare(at("order").value, a, b));
}

function entry(index) {
  const item = CASES[index];
  const value = item.errors_mm === null ? `${fixed(item.dispersion, 2)} ranks` : item.spearman === null ? "none" : fixed(item.spearman, 2);
  return make("li", {}, make("button", { type: "button", "data-case": index, onclick: () => show(index) },
    make("span", { class: "entry-title" }, item.title), make("span", { class: "entry-value" }, value)));
}

function list() {
  view.order = matching();
  at("case-list").replaceChildren(...view.order.map(entry));
  at("count").textContent = `${view.order.length} of ${CASES.length} cases; the number is ${
    CASES[0].errors_mm === null ? "the rank dispersion" : "Spearman's correlation of scores and truth"}`;
  if (view.order.length && !view.order.includes(view.current)) show(view.order[0]);
  mark();
}

function mark() {
  for (const button of at("case-list").querySelectorAll("button")) {
    const isCurrent = Number(button.dataset.case) === view.current;
    button.setAttribute("aria-current", String(isCurrent));
    if (isCurrent) keepInView(button);
  }
  const place = view.order.indexOf(view.current);
  at("position").textContent = place < 0 ? "not in the list" : `${place + 1} of ${view.order.length}`;
  at("previous").disabled = place <= 0;
  at("next").disabled = place < 0 || place === view.order.length - 1;
}

function keepInView(button) { // without scrolling the page
  const frame = at("case-list"), box = button.getBoundingClientRect(), bounds = frame.getBoundingClientRect();
  if (box.top < bounds.top) frame.scrollTop += box.top - bounds.top;
  else if (box.bottom > bounds.bottom) frame.scrollTop += box.bottom - bounds.bottom;
}

async function show(index, hypothesis = null) {
  view.current = index;
  mark();
  if (!at(`case-data-${index}`)) await whole;
  const { text, ...pictures } = readJson(`case-data-${index}`);
  const content = { ...pictures, ...(await unpack(text)) };
  if (view.current === index) draw(CASES[index], content, hypothesis); // unless another case was chosen meanwhile
}

function draw(case_, content, hypothesis) {
  view.content = content;
  view.hypothesis = hypothesis ?? byScore(case_.scores)[0];
  const chart = case_.errors_mm === null ? null : make("div", { class: "chart", id: "case-chart" });
  at("case").replaceChildren(
    make("div", { class: "case-head" }, make("h3", {}, case_.title), facts(case_, content),
      make("p", {}, ...content.tags.map((tag) => make("span", { class: "tag" }, tag)))),
    make("div", { id: "chosen" }),
    make("h4", {}, "The group, best score first", make("span", { class: "quiet small" }, case_.errors_mm === null ? "" : " (\u2605 smallest true error)")),
    groupGrid(case_, content, view.hypothesis, choose),
    make("div", { class: "columns" },
      make("div", {}, make("h4", {}, "Evidence"), make("div", { id: "evidence" })),
      make("div", {}, chart === null ? null : make("h4", {}, "Score against true error"), chart, reflection(content))),
    background(content));
  choose(view.hypothesis);
  document.documentElement.dataset.ready = "yes"; // for whoever measures the time of opening
  if (at("all-scores")) redraw(at("all-scores"));
}

function choose(index) {
  const case_ = CASES[view.current], content = view.content;
  view.hypothesis = index;
  at("chosen").replaceChildren(
    make("div", { class: "large" }, overlay(content, index, `Hypothesis ${index} over the photograph`),
      picture(content.sides[index], `Hypothesis ${index} from the side; the camera is at the left`, "side")),
    bodySlider(), verdict(case_, content, index));
  at("evidence").replaceChildren(evidence(content, index));
  for (const member of at("case").querySelectorAll(".member")) {
    member.setAttribute("aria-pressed", String(Number(member.dataset.hypothesis) === index));
  }
  const chart = at("case-chart");
  if (chart) {
    drawn.set(chart, () => drawCaseChart(chart, case_));
    drawn.get(chart)();
  }
}

function bodySlider() {
  const input = make("input", { type: "range", min: "0", max: "100", value: String(view.opacity ?? 90), id: "opacity" });
  input.addEventListener("input", () => setOpacity(Number(input.value)));
  return make("label", { class: "small slider" }, "Body", input, make("span", { class: "quiet" }, "side view: the camera is at the left, 2.4 m across"));
}

function setOpacity(percent) {
  view.opacity = percent;
  at("viewer").style.setProperty("--body-opacity", String(percent / 100));
  if (at("opacity")) at("opacity").value = String(percent);
}

function points(cases, look) {
  const known = cases.flatMap((index) => CASES[index].scores.map((score, hypothesis) => [index, hypothesis, score])).filter(([, , score]) => score !== null);
  return {
    x: known.map(([, , score]) => score), y: known.map(([index, hypothesis]) => CASES[index].errors_mm[hypothesis]),
    customdata: known.map(([index, hypothesis]) => [index, hypothesis]), text: known.map(([index, hypothesis]) => `${CASES[index].title}, h${hypothesis}`),
    type: "scatter", mode: "markers", hovertemplate: "%{text}<br>score %{x:.0f}, error %{y:.0f} mm<extra></extra>", ...look,
  };
}

const scoreAxes = () => layout(axis("score, 0 to 100", { range: [-3, 103] }), axis("true MPJPE (mm)", { rangemode: "tozero" }), { showlegend: false });

function drawCaseChart(element, case_) {
  const isChosen = (item) => item[1] === view.hypothesis;
  const all = points([view.current], { marker: { color: colorOf("series-base"), size: 9 } });
  all.marker = {
    color: all.customdata.map((item) => colorOf(isChosen(item) ? "series-shuffled" : "series-base")),
    symbol: all.customdata.map((item) => (isChosen(item) ? "diamond" : "circle")), size: all.customdata.map((item) => (isChosen(item) ? 14 : 9)),
  };
  const look = scoreAxes();
  look.xaxis.range = null;
  look.yaxis.rangemode = "normal";
  plot(element, [all], look);
  onClick(element, ([, hypothesis]) => choose(hypothesis));
}

function drawAllScores(element) {
  const others = CASES.map((item, index) => index).filter((index) => index !== view.current);
  const faint = { marker: { color: colorOf("quiet"), size: 5, opacity: 0.35 } };
  const bold = { marker: { color: colorOf("series-shuffled"), size: 9, symbol: "diamond" } };
  plot(element, [points(others, faint), points([view.current], bold)], scoreAxes());
  onClick(element, ([index, hypothesis]) => { show(index, hypothesis); at("viewer").scrollIntoView(); });
}

function onClick(element, act) {
  element.removeAllListeners("plotly_click");
  element.on("plotly_click", (event) => act(event.points[0].customdata));
}

function step(by) {
  const next = view.order[view.order.indexOf(view.current) + by];
  if (next !== undefined) show(next);
}

function stepHypothesis(by) {
  const order = byScore(CASES[view.current].scores), next = order[order.indexOf(view.hypothesis) + by];
  if (next !== undefined) choose(next);
}

const KEYS = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  j: () => stepHypothesis(1),
  k: () => stepHypothesis(-1),
  o: () => setOpacity(view.opacity === 0 ? 90 : 0),
  "/": () => at("filter").focus(),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isField = event.target.matches("input, select, textarea");
  if (isField && event.key === "Escape") event.target.blur();
  if (isField || !(event.key in KEYS)) return;
  event.preventDefault();
  KEYS[event.key]();
}

if (CASES.length) {
  for (const id of ["filter", "order", "flag"]) at(id).addEventListener("input", list);
  for (const option of at("flag").options) {
    option.hidden = option.value !== "" && !CASES.some((item) => item.flags.includes(option.value));
  }
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  document.addEventListener("keydown", onKey);
  list();
  if (at("all-scores")) drawWhenSeen(at("all-scores"), () => drawAllScores(at("all-scores")));
}
