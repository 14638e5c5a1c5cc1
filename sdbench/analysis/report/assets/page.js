// The page's behaviour: filter and sort tables, show the figures' numbers, show prompts token by token.
"use strict";

const tip = document.getElementById("tip");
const filter = document.getElementById("filter");
const shown = document.getElementById("shown");
const scheme = document.getElementById("theme");
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// ---- light and dark

const SCHEMES = ["system", "light", "dark"];
scheme.addEventListener("click", () => {
  const now = document.documentElement.dataset.scheme ?? SCHEMES[0];
  const next = SCHEMES[(SCHEMES.indexOf(now) + 1) % SCHEMES.length];
  if (next === SCHEMES[0]) delete document.documentElement.dataset.scheme;
  else document.documentElement.dataset.scheme = next;
  scheme.textContent = `Scheme: ${next}`;
});

// ---- tips

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = !text;
  if (!text) return;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(x + 12, innerWidth - width - 6))}px`;
  tip.style.top = `${y - height - 10 < 6 ? y + 16 : y - height - 10}px`;
}

document.addEventListener("pointermove", (event) => {
  const described = event.target.closest?.("[data-tip]");
  showTip(described?.dataset.tip ?? "", event.clientX, event.clientY);
});
document.addEventListener("scroll", () => showTip(""), { passive: true, capture: true });

// Within `host` the arrow keys go from mark to mark and show the tip of each.
function readByArrows(host, marksOf) {
  let here = null;
  const leave = () => {
    here?.classList.remove("here");
    here = null;
    showTip("");
  };
  host.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    const marks = marksOf();
    if (!marks.length) return;
    const next = here ? marks.indexOf(here) + step : step > 0 ? 0 : -1;
    leave();
    here = marks.at(next % marks.length);
    here.classList.add("here");
    here.scrollIntoView({ block: "nearest" });
    const showHere = () => {
      const box = here?.getBoundingClientRect();
      if (box) showTip(here.dataset.tip, box.x + box.width / 2, box.y);
    };
    showHere();
    requestAnimationFrame(showHere); // scrolling removes tips
  });
  host.addEventListener("blur", leave);
}

// ---- figures

function prepareFigure(svg) {
  for (const mark of all(".mark", svg)) {
    const title = mark.querySelector(":scope > title");
    mark.dataset.tip = title.textContent;
    title.remove();
  }
  // An interval and its point have the same text: the arrow keys stop at one of them.
  readByArrows(svg, () => [...new Map(all(".mark:not(.dim)", svg).map((mark) => [mark.dataset.tip, mark])).values()]);
}

// ---- tables

// The text of a heading becomes a button.
function makeButton(head, properties = {}) {
  const button = element("button", { type: "button", ...properties }, ...head.childNodes);
  head.replaceChildren(button);
  return button;
}

function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].textContent.trim();
  heads.forEach((head, column) => {
    makeButton(head).addEventListener("click", () => {
      const numeric = head.classList.contains("number");
      const orders = numeric ? ["descending", "ascending", null] : ["ascending", "descending", null];
      const order = orders[(orders.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order) head.setAttribute("aria-sort", order);
      const sign = order === "descending" ? -1 : 1;
      const compare = (one, other) => {
        const [a, b] = [value(one, column), value(other, column)];
        if (!numeric) return sign * a.localeCompare(b);
        const [x, y] = [parseFloat(a), parseFloat(b)];
        return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : sign * (x - y);
      };
      body.append(...(order ? [...original].sort(compare) : original));
    });
  });
}

// ---- the filter by arm: any of the words, separated by commas or blanks, in the arm's name

const wanted = (arm) => {
  const words = filter.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
  return !words.length || words.some((word) => arm.toLowerCase().includes(word));
};

function applyFilter() {
  for (const element of all("tr[data-row], article[data-arm]")) {
    element.hidden = !wanted(element.dataset.row ?? element.dataset.arm);
  }
  for (const mark of all("figure .mark[data-arm]")) mark.classList.toggle("dim", !wanted(mark.dataset.arm));
  const rows = all(".summary tr[data-row]");
  shown.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} arms`;
}

// ---- prompts

const ORIGINS = Object.fromEntries(
  all(".legend .token").map((item) => [item.className.at(-1), item.textContent.trim()]),
);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// "f|d3c" -> for each token its origin and its round (0: prefill)
function decode(code) {
  return code.split("|").flatMap((part, round) =>
    [...part.matchAll(/([a-z])(\d*)/g)].flatMap(([, letter, count]) =>
      Array.from({ length: Number(count || 1) }, () => ({ letter, round })),
    ),
  );
}

const fixed = (value, digits, unit = "") => (value == null ? null : `${value.toFixed(digits)}${unit}`);

function numbersOf(values, arm, baseline) {
  if (!values) return "no usable sequence";
  const [speed, speedup, score, tokens, calls] = values;
  return [
    arm === baseline ? null : fixed(speedup, 2, `× ${baseline}`),
    fixed(speed, 1, " tok/s"),
    score == null ? null : `score ${+score.toFixed(3)}`,
    `${+tokens.toFixed(1)} tokens`,
    `${+calls.toFixed(1)} target calls`,
  ].filter(Boolean).join(" · ");
}

// Where two texts part: the index of the first token that differs, or null.
function parting(ours, theirs) {
  if (!theirs) return null;
  const index = ours.findIndex((token, place) => token !== theirs[place]);
  return index >= 0 ? index : theirs.length > ours.length ? ours.length : null;
}

function tokensOf(data, ids, code, leaves) {
  const origins = decode(code);
  const text = element("p", { className: "tokens", tabIndex: 0 });
  readByArrows(text, () => all(".token", text));
  ids.forEach((id, place) => {
    const { letter, round } = origins[place];
    const token = element("span", { className: `token o-${letter}`, textContent: data.pieces[id] });
    if (place === leaves) token.classList.add("leaves");
    token.dataset.round = round;
    const when = letter === "u" ? "" : round ? `, round ${round}` : "";
    token.dataset.tip = letter === "u" ? ORIGINS.u ?? "origin not recorded" : `token ${place + 1}${when}: ${ORIGINS[letter]}`;
    text.append(token);
  });
  return text;
}

// ---- token trees: each depth is a column; the kept path is thick

const SVG = "http://www.w3.org/2000/svg";
const [COLUMN, ROW, MARGIN] = [88, 24, 20];

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Where each node stands, node 0 first: its depth, and its row; a parent stands between its first and its last child.
function placed(parents) {
  const children = [[], ...parents.map(() => [])];
  parents.forEach((parent, index) => children[parent].push(index + 1));
  const depth = [0];
  parents.forEach((parent) => depth.push(depth[parent] + 1));
  const row = [];
  let rows = 0;
  const descend = (node) => {
    children[node].forEach(descend);
    const below = children[node];
    row[node] = below.length ? (row[below[0]] + row[below.at(-1)]) / 2 : rows++;
  };
  descend(0);
  return { depth, row, rows };
}

function drawTree(data, [round, end, shape, labels]) {
  const parents = data.shapes[shape];
  const { depth, row, rows } = placed(parents);
  const kept = new Set([0]);
  for (let node = end; node; node = parents[node - 1]) kept.add(node);
  const [x, y] = [(node) => MARGIN + depth[node] * COLUMN, (node) => MARGIN + row[node] * ROW];
  const width = MARGIN + (Math.max(...depth) + 1) * COLUMN;
  const accepted = kept.size - 1;
  const said = `Round ${round + 1}: ${parents.length} nodes, ${accepted} kept`;
  const svg = drawn("svg", {
    width, height: 2 * MARGIN + (rows - 1) * ROW, class: "tree", tabindex: 0, role: "group", "aria-label": said,
  });
  parents.forEach((parent, index) => {
    const node = index + 1;
    const line = `M${x(parent)},${y(parent)}C${x(parent) + 24},${y(parent)},${x(node) - 24},${y(node)},${x(node)},${y(node)}`;
    svg.append(drawn("path", { d: line, class: kept.has(node) ? "kept" : "" }));
  });
  for (let node = 0; node <= parents.length; node++) {
    const text = node ? data.pieces[labels[node - 1]] : "";
    const short = [...text.replaceAll("\n", "↵").replaceAll(" ", "␣")];
    const group = drawn("g", { class: kept.has(node) ? "node kept" : "node" }, drawn("circle", { cx: x(node), cy: y(node), r: 4 }));
    if (node) {
      group.append(drawn("text", { x: x(node) + 7, y: y(node) - 5 }, short.length > 9 ? `${short.slice(0, 8).join("")}…` : short.join("")));
    }
    group.dataset.tip = node ? `node ${node} behind ${parents[node - 1]}: ${JSON.stringify(text)}${kept.has(node) ? ", kept" : ""}` : "the last decided token";
    svg.append(group);
  }
  readByArrows(svg, () => all(".node", svg));
  return [element("p", { className: "note", textContent: said }), element("div", { className: "scroll" }, svg)];
}

function treesOf(data, trees) {
  const shown = element("div");
  const pick = element("select", {}, ...trees.map(([round], index) => element("option", { value: index, textContent: round + 1 })));
  const show = () => shown.replaceChildren(...drawTree(data, trees[Number(pick.value)]));
  pick.addEventListener("change", show);
  const details = element("details", { className: "trees" }, element("summary", { textContent: "Token trees" }));
  details.append(element("label", {}, "Round ", pick), shown);
  details.addEventListener("toggle", () => details.open && show());
  return { details, jump: (round) => {
    const index = trees.findIndex((tree) => tree[0] + 1 === round);
    if (index < 0) return;
    pick.value = String(index);
    details.open = true;
    show();
  } };
}

function prepareRun(section) {
  const data = JSON.parse(section.querySelector("script.data").textContent);
  const category = section.querySelector(".pick-category");
  const pick = section.querySelector(".pick-prompt");
  const [back, forth] = [section.querySelector(".previous"), section.querySelector(".next")];
  const panel = section.querySelector(".drilldown");
  const showing = section.querySelector(".showing");
  const colours = Object.fromEntries(
    all(".summary tbody tr", section).map((row) => [row.dataset.row, row.querySelector(".swatch").style.background]),
  );
  const base = data.arms.indexOf(data.baseline);
  category.parentElement.hidden = data.categories.length < 2;

  function card(prompt, arm, index) {
    const article = element("article", {}, element("h3", { textContent: arm }));
    article.dataset.arm = arm;
    article.style.setProperty("--arm", colours[arm]);
    article.append(
      element("p", { className: "figures-of-arm", textContent: numbersOf(prompt.numbers[index], arm, data.baseline) }),
    );
    const given = prompt.arms?.[index];
    if (!given) return article;
    const ids = prompt.texts[given[0]];
    const theirs = prompt.arms[base] && prompt.texts[prompt.arms[base][0]];
    const leaves = index === base ? null : parting(ids, theirs);
    if (index !== base && theirs) {
      article.lastChild.append(
        leaves == null ? ` · same tokens as ${data.baseline}` : ` · leaves ${data.baseline} at token ${leaves + 1}`,
      );
    }
    const text = tokensOf(data, ids, given[1], leaves);
    article.append(text);
    if (given[2]) {
      const { details, jump } = treesOf(data, given[2]);
      text.addEventListener("click", (event) => jump(Number(event.target.dataset.round)));
      article.append(details);
    }
    return article;
  }

  function show() {
    const prompt = data.prompts[Number(pick.value)];
    panel.replaceChildren();
    showing.textContent = prompt ? `Prompt ${pick.selectedIndex + 1} of ${pick.length}: ${prompt.id}` : "";
    if (!prompt) return;
    const question = element("div", { className: "question" }, element("h3", { textContent: `Prompt ${prompt.id}` }));
    if (prompt.prompt != null) question.append(element("pre", { textContent: prompt.prompt }));
    else if (prompt.texts) question.append(element("p", { className: "note", textContent: "This run did not record the prompt's text." }));
    else question.append(element("p", { className: "note", textContent: "Its texts are not in this page, to keep it small; they are in sequences.parquet." }));
    if (prompt.reference != null) {
      question.append(element("h3", { textContent: "Reference" }), element("pre", { textContent: prompt.reference }));
    }
    panel.append(question, element("div", { className: "texts" }, ...data.arms.map((arm, index) => card(prompt, arm, index))));
    back.disabled = pick.selectedIndex <= 0;
    forth.disabled = pick.selectedIndex >= pick.length - 1;
    applyFilter();
  }

  function list() {
    const chosen = data.prompts
      .map((prompt, index) => ({ prompt, index }))
      .filter(({ prompt }) => category.value === "" || prompt.category === Number(category.value));
    pick.replaceChildren(
      ...chosen.map(({ prompt, index }) =>
        element("option", { value: index, textContent: prompt.texts ? prompt.id : `${prompt.id} (numbers only)` }),
      ),
    );
    show();
  }

  const step = (by) => {
    pick.selectedIndex += by;
    show();
  };
  back.addEventListener("click", () => step(-1));
  forth.addEventListener("click", () => step(1));
  pick.addEventListener("change", show);
  category.addEventListener("change", list);
  for (const table of all(".breakdown table", section)) {
    all("thead th.number", table).forEach((head, index) => {
      makeButton(head, { className: "category" }).addEventListener("click", () => {
        category.value = String(index);
        list();
        pick.scrollIntoView({ block: "center" });
        pick.focus();
      });
    });
  }
  const measure = section.querySelector(".measure");
  measure?.addEventListener("change", () => {
    for (const part of all(".breakdown", section)) part.hidden = part.dataset.measure !== measure.value;
  });
  list();
}

all("figure svg").forEach(prepareFigure);
all("table.sortable").forEach(sortable);
filter.addEventListener("input", applyFilter);
all(".run").forEach(prepareRun);
applyFilter();
