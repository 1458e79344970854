// Elements are made here and text is inserted as text: comments, rules and replies are foreign.

const at = (id) => document.getElementById(id);
const readJson = (id) => JSON.parse(at(id).textContent);

async function unpack(base64) { // gzipped JSON
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") element.style.cssText = value;
    else if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function fixed(value, digits = 0) {
  return value === null ? "none" : value.toFixed(digits).replace("-", "\u2212");
}

function picture(base64, alt, kind = null) {
  return make("img", { src: `data:image/webp;base64,${base64}`, alt, class: kind, draggable: "false" });
}

function foldout(title, count, content, open = false) {
  return make("details", { open }, make("summary", {}, title, " ", make("span", { class: "quiet" }, count)), content);
}

const nameOf = (title) => (typeof title === "string" ? title : title.textContent);

function table(columns, rows) {
  const cell = (kind, value, index) => make(kind, { class: columns[index][1] || null, "data-label": columns[index][1] ? nameOf(columns[index][0]) : null }, value);
  return make("div", { class: "scroll" }, make("table", { class: "rules stack" },
    make("thead", {}, make("tr", {}, ...columns.map(([name], index) => cell("th", name, index)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value, index) => cell("td", value, index)))))));
}
