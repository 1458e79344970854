// One case: the picture with the body of the chosen hypothesis, the group by score, and the reasons of the critic.

function byScore(scores) {
  const order = scores.map((score, index) => index);
  return order.sort((a, b) => (scores[b] ?? -1) - (scores[a] ?? -1) || a - b);
}

function ranksOf(values, isBetter) {
  return values.map((value) => (value === null ? null : 1 + values.filter((other) => other !== null && isBetter(other, value)).length));
}

const ranksByScore = (case_) => ranksOf(case_.scores, (other, value) => other > value);
const ranksByError = (case_) => ranksOf(case_.errors_mm, (other, value) => other < value);

function overlay(content, index, alt) {
  return make("div", { class: "overlay", role: "img", "aria-label": alt },
    picture(content.photo, ""), picture(content.layers[index], "", "layer"));
}

function badge(case_, content, index) {
  return make("span", { class: "score", style: `background: ${content.hypotheses[index].color}` }, fixed(case_.scores[index]));
}

function facts(case_, content) {
  const truth = case_.errors_mm === null ? [] : [
    ["Spearman, scores and truth", case_.spearman === null ? "none" : fixed(case_.spearman, 2)],
    ["error of the pick above the smallest", case_.excess_mm === null ? "none" : `${fixed(case_.excess_mm)} mm`],
  ];
  const all = [...truth, ["rank dispersion", `${fixed(case_.dispersion, 2)} ranks`], ["trace", content.trace || "none"]];
  return make("dl", { class: "facts" }, ...all.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function groupGrid(case_, content, chosen, choose) {
  const errorRanks = case_.errors_mm === null ? null : ranksByError(case_);
  const cards = byScore(case_.scores).map((index) => make("button",
    { type: "button", class: "member", "data-hypothesis": index, "aria-pressed": String(index === chosen), onclick: () => choose(index) },
    overlay(content, index, `Hypothesis ${index}`), badge(case_, content, index),
    make("span", { class: "member-text" }, `h${index}`,
      errorRanks === null ? null : make("span", { class: errorRanks[index] === 1 ? "truth-best" : "quiet" },
        ` ${fixed(case_.errors_mm[index])} mm${errorRanks[index] === 1 ? " \u2605" : ""}`))));
  return make("div", { class: "group" }, ...cards);
}

function verdict(case_, content, index) {
  const hypothesis = content.hypotheses[index], count = case_.scores.length, lines = [];
  const rank = ranksByScore(case_)[index];
  lines.push(rank === null ? "no score" : `rank ${rank} of ${count} by score`);
  if (case_.errors_mm !== null) {
    lines.push(`true MPJPE ${fixed(case_.errors_mm[index])} mm, rank ${ranksByError(case_)[index]} by truth`);
  }
  if (hypothesis.expected_mm !== null) {
    const [expected, low, high] = hypothesis.expected_mm;
    lines.push(`expected by the critic: ${fixed(expected)} mm (${fixed(low)} to ${fixed(high)})`);
  }
  return make("div", { class: "verdict" },
    make("div", {}, badge(case_, content, index), " ", make("strong", {}, `h${index}`), ` \u00b7 ${lines.join(" \u00b7 ")}`),
    make("p", { class: "comment" }, hypothesis.comment || "no comment"));
}

function evidenceBar(item, index) {
  const known = item.values.filter((value) => value !== null);
  const high = Math.max(...known, 0) || 1, low = Math.min(...known, 0);
  const place = (value) => (100 * (value - low)) / (high - low);
  const value = item.values[index], rank = ranksOf(item.values, (other, mine) => other < mine)[index];
  const ticks = known.map((other) => make("i", { style: `left: ${place(other)}%` }));
  const bar = value === null ? null : make("b", { style: `width: ${place(value)}%` });
  const sentence = item.sentences.length === 1 ? item.sentences[0] : item.sentences[index];
  return make("div", { class: "evidence" },
    make("div", { class: "evidence-head" }, make("span", {}, make("code", {}, item.metric), item.is_repeated ? " reobserved" : ""),
      make("span", {}, item.texts[index], make("span", { class: "quiet" }, value === null ? "" : ` \u00b7 rank ${rank}`))),
    make("div", { class: "track" }, bar, ...ticks),
    make("div", { class: "small quiet" }, sentence));
}

function evidence(content, index) {
  const bars = content.evidence.map((item) => evidenceBar(item, index));
  const missing = content.missing.map((item) => make("div", { class: "small quiet" }, make("code", {}, item.name), ` is missing: ${item.text}`));
  return make("div", {}, make("p", { class: "small quiet" },
    "Lower is better. The bar is this hypothesis, the lines are its group."), ...bars, ...missing);
}

function rules(content) {
  const names = ["cosine", "tags", "success", "bonus"];
  const largest = Math.max(...content.rules.map((rule) => rule.terms[4]), 0.01);
  const bar = (rule) => make("div", { class: "terms", title: names.map((name, k) => `${name} ${rule.terms[k]}`).join(", ") },
    ...names.map((name, k) => make("i", { class: name, style: `width: ${(100 * Math.max(rule.terms[k], 0)) / largest}%` })));
  const rows = content.rules.map((rule) => [make("div", {}, rule.text, bar(rule)),
    ...rule.terms.map((term) => fixed(term, 2)), `${rule.uses} \u00b7 ${rule.successes}`]);
  const head = (name) => [make("span", {}, make("i", { class: `term-key ${name}` }), name), "number"];
  return make("div", {}, make("p", { class: "small quiet" },
    "\u03a8 is the sum: cosine of the texts and shared tags (R), rate of success and the bonus of exploration (U)."),
    table([["rule", ""], ...names.map(head), ["\u03a8", "number"], ["used \u00b7 right", "number"]], rows));
}

function prototypes(content) {
  return table([["cosine", "number"], ["score", "number"], ["rationale", ""]],
    content.prototypes.map((item) => [fixed(item.similarity, 2), fixed(item.score), item.text]));
}

function revisions(content) {
  return make("ul", { class: "changes" }, ...content.revisions.map((item) => make("li", {}, item.text,
    item.evidence_used.length ? make("span", { class: "quiet" }, ` after ${item.evidence_used.join(", ")}`) : null, make("br"),
    ...item.hypotheses.map((index, k) => make("span", { class: "tag" }, `h${index}: ${fixed(item.before[k])} \u2192 ${fixed(item.after[k])}`)))));
}

function replies(content) {
  return make("div", {}, ...content.replies.map((item) => foldout(item.name, item.result, make("div", {},
    make("p", { class: "small quiet" }, item.about),
    item.thinking ? foldout("Thinking", `${item.thinking.length} characters`, make("pre", {}, item.thinking)) : null,
    item.text ? make("pre", {}, item.text) : null))));
}

function named(items) {
  return make("ul", { class: "changes" }, ...items.map((item) => make("li", {},
    item.name ? make("span", { class: "tag" }, item.name) : null, item.text)));
}

function reflection(content) {
  return make("div", {}, make("h4", {}, "Changed by reflection"),
    content.revisions.length ? revisions(content) : make("p", { class: "quiet small" }, "nothing"));
}

function background(content) {
  const parts = [
    ["Rules used", content.rules, rules],
    ["Prototypes recalled", content.prototypes, prototypes], ["Raw replies", content.replies, replies],
    ["Without a score", content.reasons, () => named(content.reasons.map((text) => ({ name: "", text })))],
    ["Questions without an answer", content.failures, () => named(content.failures)],
  ];
  return make("div", {}, ...parts.map(([title, items, render]) => (items.length
    ? foldout(title, items.length, render(content))
    : title === "Without a score" || title === "Questions without an answer" ? null
      : make("p", { class: "none small" }, title, " ", make("span", { class: "quiet" }, "none")))));
}
