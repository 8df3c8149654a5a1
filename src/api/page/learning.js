// What learning does and did. Asks every two seconds; draws from the answers alone, so a reload loses nothing.
// Invariant: everything from the service is set as text or attribute, never as HTML.
"use strict";

const PAUSE = 2_000;          // between two looks, in ms
const LANE = 26;              // width of a lane of the tree, in px
const HEIGHT = 20;            // of a student's dot below the top of its row, in px
const STAGES = {
  snapshot: "Freeze the data", train: "Train", distill: "Distill", examine: "Examine", shadow: "Shadow run",
  approval: "Approval", paused: "Resting", done: "Done",
};
const DOES = {
  snapshot: "freezes the data", train: "trains", distill: "distills", examine: "examines the candidate",
  shadow: "scores live items beside what serves", approval: "waits for approval", paused: "rests: the line ran late",
  done: "is done",
};
const ENDS = { promoted: "promoted", held: "held", stopped: "stopped", failed: "failed" };
const at = (id) => document.getElementById(id);
const percent = (share) => `${(share * 100).toFixed(1)} %`;
const when = (text) => new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "short", hour12: false });

let me = { name: "local", role: "viewer" };
const open = new Set();       // students and rounds that were unfolded
let drawn = "";               // the answers that are drawn

function html(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function svg(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

async function ask(path, options) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (answer.status === 401) location.href = "/?next=learning"; // log in there and come back
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.detail ?? `the service answered ${answer.status}`);
  return body;
}

function banner(words) {
  at("banner").hidden = !words;
  at("banner").textContent = words ?? "";
}

const may = (role) => ["viewer", "labeler", "operator", "admin"].indexOf(me.role)
  >= ["viewer", "labeler", "operator", "admin"].indexOf(role);

// Every order is asked back: it changes what judges the belt.
function order(path, question, consequence, { why = false, harm = false } = {}) {
  const local = me.name === "local";
  at("question").textContent = question;
  at("consequence").textContent = consequence;
  at("name-row").hidden = !local;
  at("name").required = local;
  at("name").value = local ? localStorage.getItem("labeler") ?? "" : me.name;
  at("why-row").hidden = !why;
  at("why").value = "";
  at("yes").className = harm ? "harm" : "";
  const sure = at("sure");
  sure.returnValue = "no";
  sure.onclose = async () => {
    if (sure.returnValue !== "yes") return;
    const by = at("name").value.trim();
    if (local) localStorage.setItem("labeler", by); // the labeling page asks for it too
    const said = { by, ...(why ? { why: at("why").value.trim() } : {}) };
    try {
      await ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(said) });
      banner();
    } catch (error) {
      banner(error.message);
    }
    draw();
  };
  sure.showModal();
}

function present(now) {
  const runs = now.round !== null;
  at("stage").textContent = runs ? `Round ${now.round} ${DOES[now.stage] ?? "begins"}` : "No round runs";
  const place = now.steps.indexOf(now.stage);
  at("steps").replaceChildren(...now.steps.map((stage, i) => {
    const step = html("li", i < place ? "past" : i === place ? "at" : "", STAGES[stage]);
    if (i === place) step.setAttribute("aria-current", "step");
    return step;
  }));
  at("progress").hidden = now.progress === null;
  at("progress").value = now.progress ?? 0;
  const left = now.seconds_left === null ? "" : ` · ${Math.ceil(now.seconds_left / 60)} min left`;
  const words = runs ? `started by ${now.trigger ?? "…"}` : `${now.labels} labeled items, ${now.new_labels} of them new`;
  at("left").textContent = words + (now.progress === null ? "" : ` · ${percent(now.progress)}`) + left;
  at("start").hidden = runs || !may("operator");
  at("stop").hidden = !runs || !may("operator");
  at("approve").hidden = now.stage !== "approval" || !may("admin");
}

function serving(models, now) {
  at("serving").textContent = models.serving;
  const last = models.history.at(-1);
  const told = last?.version === models.serving
    ? `since ${when(last.at)}, ${last.change === "rollback" ? "brought back" : "promoted"} by ${last.by}${last.why ? `: ${last.why}` : ""}`
    : "since the service was set up: no student was promoted yet";
  at("since").textContent = now.probation === models.serving ? `on probation · ${told}` : told;
  at("rollback").hidden = models.before === null || !may("operator");
  at("rollback").textContent = `Roll back to ${models.before}`;
}

function drift(now) {
  const row = (name, value, words, off) => {
    const line = html("div", off ? "off" : "");
    line.append(html("dt", "", name), html("dd", "", value));
    if (words) line.append(html("dd", "", words));
    return line;
  };
  const novelty = now.novelty === null ? "not known yet" : now.novelty.toFixed(2);
  const beside = (name, what) => {
    if (!what) return row(name, "not known yet");
    if (!what.learned) return row(name, what.now.toFixed(3), "what was learned is not known");
    const { mean, deviation } = what.learned;
    const away = Math.abs(what.now - mean) / deviation;
    return row(name, what.now.toFixed(3), `learned: ${mean.toFixed(3)} ± ${deviation.toFixed(3)}`, away > 1);
  };
  at("drift").replaceChildren(
    row("Novelty", novelty, "1: the edge of what was learned", now.novelty > 1),
    beside("Brightness", now.brightness),
    beside("Sharpness", now.sharpness),
    row("New labels", now.new_labels, "since the last round began"),
    row("Labeled items", now.labels),
  );
}

// Lays out students newest first, each below those that came of it: a column for each line of descent, as in a
// version history. Gives, for each row, its lane, the lanes that end in it, and those that pass by.
function lanes(nodes) {
  const waits = []; // by lane, the student that comes next in it
  return nodes.map((node) => {
    const ends = waits.flatMap((id, lane) => (id === node.id ? [lane] : []));
    const free = waits.findIndex((id) => id === undefined);
    const lane = ends[0] ?? (free < 0 ? waits.length : free);
    for (const end of ends) waits[end] = undefined;
    const past = waits.flatMap((id, other) => (id === undefined ? [] : [other]));
    waits[lane] = node.parent ?? undefined;
    return { node, lane, ends, past };
  });
}

// The students of all folders, the candidates that do not serve, and teachers that never served, with their parents: a
// student's parent is its teacher where it has one of its own, else the student that served before it.
function students(models, rounds) {
  const nodes = new Map();
  let before = models.versions.some((v) => v.version === models.first) ? models.first : null;
  const first = before;
  const promoted = new Map();
  const back = new Map();
  for (const entry of models.history) {
    if (entry.change === "rollback") back.set(before, entry);
    else if (!promoted.has(entry.version)) promoted.set(entry.version, { ...entry, before });
    if (entry.change === "promote") back.delete(entry.version);
    before = entry.version;
  }
  const add = (version, kind, above) => {
    if (!nodes.has(version.version)) nodes.set(version.version, { id: version.version, kind, version, above });
  };
  for (const version of models.versions) {
    const entry = promoted.get(version.version);
    const round = rounds.find((r) => r.candidate?.version === version.version);
    const kind = version.version === models.serving ? "serves" : back.has(version.version) ? "taken-back"
      : entry || version.version === first ? "served" : "spare";
    add(version, kind, round?.incumbent ?? entry?.before);
    Object.assign(nodes.get(version.version), { entry, round, back: back.get(version.version) });
  }
  for (const round of rounds) {
    if (round.candidate && round.end !== "promoted") {
      add(round.candidate, round.end ? "held" : "candidate", round.incumbent);
      nodes.get(round.candidate.version).round = round;
    }
  }
  for (const node of [...nodes.values()]) {
    const teacher = node.version.lineage.teacher;
    if (teacher && teacher !== node.id) {
      if (!nodes.has(teacher)) nodes.set(teacher, { id: teacher, kind: "teacher", above: node.above, of: node });
      node.parent = teacher;
    }
  }
  for (const node of nodes.values()) node.parent ??= nodes.has(node.above) && node.above !== node.id ? node.above : null;
  // A student comes before its parent; otherwise the newest first.
  const made = (node) => Date.parse((node.version ?? node.of.version).created);
  const left = [...nodes.values()].sort((a, b) => made(b) - made(a));
  const order = [];
  while (left.length) {
    const next = left.findIndex((node) => !left.some((other) => other.parent === node.id));
    order.push(...left.splice(Math.max(next, 0), 1)); // a ring, which only a hand can make, is cut anywhere
  }
  return order;
}

const BADGES = {
  serves: "serves", served: "served", candidate: "candidate", "taken-back": "taken back", teacher: "teacher only",
};

function student({ node, lane, ends, past }, wide, serves) {
  const row = html("li", node.kind);
  row.dataset.version = node.id;
  row.style.paddingLeft = `${wide * LANE + 8}px`;
  const x = (of) => of * LANE + LANE / 2;
  const graph = svg("svg", { width: wide * LANE, "aria-hidden": "true" });
  for (const other of past) graph.append(svg("line", { x1: x(other), y1: 0, x2: x(other), y2: "100%" }));
  for (const end of ends) {
    const [from, to] = [x(end), x(lane)];
    graph.append(svg("path", { d: `M ${from} 0 C ${from} ${HEIGHT * 0.7} ${to} ${HEIGHT * 0.3} ${to} ${HEIGHT}` }));
  }
  if (node.parent) graph.append(svg("line", { x1: x(lane), y1: HEIGHT, x2: x(lane), y2: "100%", class: "own" }));
  graph.append(svg("circle", { cx: x(lane), cy: HEIGHT, r: 7 }));
  row.append(graph);

  const card = html("details");
  card.open = open.has(node.id);
  card.addEventListener("toggle", () => (card.open ? open.add(node.id) : open.delete(node.id)));
  const head = html("summary");
  head.append(html("b", "", node.id));
  const badge = node.kind === "held" ? ENDS[node.round.end] : BADGES[node.kind];
  if (badge) head.append(html("em", "badge", badge));
  const v = node.version;
  if (!v) {
    head.append(html("span", "", `taught ${node.of.id}; it never served`));
    card.append(head);
    row.append(card);
    return row;
  }
  const worth = v.scorecard ? ` · ${percent(v.scorecard.accuracy)} right` : "";
  head.append(html("span", "", `${v.lineage.method || "method not known"} · ${v.lineage.labeled} labels${worth} · ${when(v.created)}`));
  card.append(head);
  const facts = html("dl");
  const fact = (name, words) => words && facts.append(html("dt", "", name), html("dd", "", words));
  fact("Teacher", v.lineage.teacher ?? "none: it learned from labels");
  fact("Came after", node.above);
  fact("Round", node.round && `${node.round.number}, started by ${node.round.trigger} ${when(node.round.started)}`);
  fact("Let serve", node.entry && `by ${node.entry.by}, ${when(node.entry.at)}${node.entry.why ? `: ${node.entry.why}` : ""}`);
  fact("Taken back", node.back && `by ${node.back.by}, ${when(node.back.at)}${node.back.why ? `: ${node.back.why}` : ""}`);
  fact("Why not", node.kind === "held" && node.round.why);
  fact("Labels", `${v.lineage.labeled} pictures of ${v.classes.map((c) => c.replaceAll("_", " ")).join(", ")}`);
  fact("Data", v.lineage.data_sha256 && `snapshot sha256 ${v.lineage.data_sha256}`);
  fact("Net", `${v.lineage.net}, serves in ${v.precision}, seed ${v.lineage.seed}`);
  fact("Made by", v.lineage.command);
  const s = v.scorecard;
  fact("Scorecard", s && `${s.pictures} held-out pictures: accuracy ${s.accuracy.toFixed(4)}, AUC ${s.auc.toFixed(4)}, recall at 1 % false accepts ${s.recall_at_1pct_false_accepts.toFixed(4)}, calibration error ${s.calibration_error.toFixed(4)}`);
  card.append(facts);
  if (!["serves", "held", "candidate"].includes(node.kind) && may("operator")) {
    const promote = html("button", "small promote", `Let ${node.id} serve`);
    promote.addEventListener("click", () => order(
      `/models/${encodeURIComponent(node.id)}/promote`, `Let ${node.id} serve?`,
      `It judges the belt from then on, instead of ${serves}, without the gate's checks and without probation.`, { why: true },
    ));
    card.append(promote);
  }
  row.append(card);
  return row;
}

function round(one, running) {
  const row = html("li", one.end ?? "running");
  row.dataset.round = one.number;
  const key = `round ${one.number}`;
  const card = html("details");
  card.open = open.has(key) || (running && !open.has(`${key} shut`));
  card.addEventListener("toggle", () => {
    card.open ? open.add(key) : open.delete(key);
    card.open ? open.delete(`${key} shut`) : open.add(`${key} shut`);
  });
  const head = html("summary");
  head.append(html("h3", "", `Round ${one.number}`), html("em", "badge", ENDS[one.end] ?? "runs"));
  const accuracy = one.accuracy && one.pictures ? `${percent(one.accuracy[0])} → ${percent(one.accuracy[1])} right on ${one.pictures} held-out items · ` : "";
  head.append(html("span", "", `${accuracy}started by ${one.trigger}, ${when(one.started)}${one.ended ? `, over ${when(one.ended)}` : ""}`));
  card.append(head);
  const failed = one.checks.filter((check) => !check.passed).map((check) => check.name);
  const reason = one.end === "held" && failed.length ? `Held by: ${failed.join(", ")}` : one.end && one.end !== "promoted" ? one.why : "";
  if (one.checks.length) {
    const scroll = html("div", "scroll");
    const table = html("table");
    const titles = html("tr");
    for (const title of ["", "Check", "Found", "Wanted", ""]) titles.append(html("th", "", title));
    table.append(titles);
    for (const check of one.checks) {
      const line = html("tr", check.passed ? "passed" : "failed");
      const mark = html("td", "", check.passed ? "✓" : "✕");
      mark.setAttribute("aria-label", check.passed ? "passed" : "failed");
      line.append(mark, html("td", "", check.name), html("td", "", check.figure), html("td", "", check.limit), html("td", "", check.found));
      table.append(line);
    }
    scroll.append(table);
    card.append(scroll);
  } else {
    card.append(html("p", "soft", one.end ? "It did not come to an examination." : "The candidate is not examined yet."));
  }
  row.append(card);
  if (reason) row.append(html("p", "reason", reason));
  return row;
}

async function draw() {
  try {
    me = await ask("/whoami");
    at("who").textContent = me.name === "local" ? "" : `${me.name} (${me.role})`;
    const [{ now, rounds }, models] = await Promise.all([ask("/rounds"), ask("/models")]);
    present(now);
    serving(models, now);
    drift(now);
    // What changes rarely is drawn only when it does, so that nothing moves under a finger.
    const all = JSON.stringify([rounds, models, me]);
    if (all === drawn) return;
    drawn = all;
    const laid = lanes(students(models, rounds));
    const wide = Math.max(1, ...laid.map(({ lane, past, ends }) => Math.max(lane, ...past, ...ends) + 1));
    at("tree").replaceChildren(...laid.map((row) => student(row, wide, models.serving)));
    at("rounds").replaceChildren(...rounds.map((one) => round(one, one.number === now.round)));
    at("none").hidden = rounds.length > 0;
    for (const [id, path, question, consequence, options] of [
      ["rollback", "/models/rollback", `Roll back to ${models.before}?`,
        `It judges the belt again within a second, instead of ${models.serving}.`, { why: true, harm: true }],
      ["start", "/rounds", "Start a round?",
        "It freezes the labels there are now, trains a candidate beside the line, and examines it.", {}],
      ["stop", "/rounds/stop", "End the round that runs?", "What it has learned so far is given up.", { harm: true }],
      ["approve", "/rounds/approve", "Let the candidate serve?",
        "It passed every check. It judges the belt from then on, on probation at first.", {}],
    ]) at(id).onclick = () => order(path, question, consequence, options);
  } catch (error) {
    banner(`The service does not answer: ${error.message}. What you see is old; trying again…`);
    drawn = "";
    return;
  }
  if (at("banner").textContent.startsWith("The service does not answer")) banner();
}
draw();
setInterval(draw, PAUSE);
