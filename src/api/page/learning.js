// What learning does and did. Asks every two seconds; draws from the answers alone, so a reload loses nothing.
"use strict";

const $ = (id) => document.getElementById(id);
const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const percent = (share) => (share * 100).toFixed(1) + " %";
const when = (text) => new Date(text).toLocaleString();
const STAGES = {
  snapshot: "Freezing the data", train: "Training", distill: "Distilling", examine: "Examining the candidate",
  shadow: "Scoring live items beside the serving student", approval: "Waiting for approval",
  paused: "Resting: the line ran late", done: "Done",
};

const by = $("by");
by.value = localStorage.getItem("name") || "";
by.addEventListener("change", () => localStorage.setItem("name", by.value.trim()));

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) {
    location.href = "/"; // the live page asks for the token
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail || answer.statusText);
  }
  return answer;
}

function banner(words) {
  $("banner").hidden = !words;
  $("banner").textContent = words || "";
}

async function order(path, question) {
  const name = by.value.trim();
  if (!name) {
    by.focus();
    banner("Say who you are: the name stands in the record.");
    return;
  }
  if (question && !confirm(question)) return;
  try {
    await ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ by: name }) });
    banner("");
  } catch (error) {
    banner(error.message);
  }
  draw();
}
$("start").addEventListener("click", () => order("/rounds"));
$("stop").addEventListener("click", () => order("/rounds/stop", "End the round that runs?"));
$("approve").addEventListener("click", () => order("/rounds/approve"));
$("rollback").addEventListener("click", () => order("/models/rollback", "Let the student before serve again?"));

function present(now) {
  const seconds = now.seconds_left === null ? "" : `, ${Math.ceil(now.seconds_left / 60)} min left`;
  $("stage").textContent = now.round === null ? "No round runs" : `Round ${now.round}: ${STAGES[now.stage] || "…"}${seconds}`;
  $("progress").hidden = now.progress === null;
  $("progress").value = now.progress || 0;
  $("labels").textContent = now.labels;
  $("new").textContent = now.new_labels;
  $("novelty").textContent = now.novelty === null ? "not known" : now.novelty.toFixed(2);
  $("probation").textContent = now.probation || "nobody";
  $("start").hidden = now.round !== null;
  $("stop").hidden = now.round === null;
  $("approve").hidden = now.stage !== "approval";
}

function round(one) {
  const row = element("li", undefined, one.end || "running");
  row.append(element("h3", `Round ${one.number}: ${one.end || "running"}`));
  const accuracy = one.accuracy && one.pictures ? `; ${percent(one.accuracy[0])} → ${percent(one.accuracy[1])} on ${one.pictures} held-out items` : "";
  row.append(element("p", `Started by ${one.trigger}, ${when(one.started)}${one.ended ? " – " + when(one.ended) : ""}${accuracy}`));
  if (one.end === "failed" || one.end === "stopped") row.append(element("p", one.why));
  const table = element("table");
  for (const check of one.checks) {
    const line = element("tr", undefined, check.passed ? "passed" : "failed");
    line.append(element("td", check.passed ? "✓" : "✕"), element("td", check.name), element("td", check.found));
    table.append(line);
  }
  if (one.checks.length) row.append(table);
  return row;
}

// A student hangs below the one that served when it was promoted, or below its teacher.
function tree(models) {
  const parents = new Map();
  const approved = new Map();
  let before = null;
  for (const entry of models.history) {
    if (entry.change === "promote") {
      if (before && !parents.has(entry.version)) parents.set(entry.version, before);
      approved.set(entry.version, entry);
    }
    before = entry.version;
  }
  const first = models.history.length ? models.versions.find((v) => !approved.has(v.version)) : null;
  const names = new Set(models.versions.map((v) => v.version));
  const parent = (v) => {
    const above = parents.get(v.version) || v.teacher || (first && approved.has(v.version) ? first.version : null);
    return above !== v.version && names.has(above) ? above : null;
  };
  const branch = (of, seen) => {
    const list = element("ul");
    for (const v of models.versions.filter((v) => parent(v) === of && !seen.has(v.version))) {
      seen.add(v.version);
      const row = element("li");
      const card = element("div", undefined, "student" + (v.version === models.serving ? " serves" : ""));
      card.append(element("b", v.version));
      const accuracy = v.accuracy === null ? "" : `, accuracy ${percent(v.accuracy)}`;
      const teacher = v.teacher ? `, taught by ${v.teacher}` : "";
      card.append(element("small", `${v.method} on ${v.labeled} labels, net ${v.net}${teacher}${accuracy}; data ${v.data_sha256.slice(0, 12)}; ${when(v.created)}`));
      const entry = approved.get(v.version);
      if (entry) card.append(element("small", `let serve by ${entry.by}: ${entry.why}`));
      row.append(card);
      const below = branch(v.version, seen);
      if (below.children.length) row.append(below);
      list.append(row);
    }
    return list;
  };
  return branch(null, new Set());
}

async function draw() {
  try {
    const [rounds, models] = await Promise.all([ask("/rounds"), ask("/models")].map(async (answer) => (await answer).json()));
    present(rounds.now);
    $("rounds").replaceChildren(...rounds.rounds.map(round));
    $("none").hidden = rounds.rounds.length > 0;
    $("serving").textContent = `${models.serving} serves`;
    $("rollback").hidden = models.before === null;
    $("rollback").textContent = `Roll back to ${models.before}`;
    $("tree").replaceChildren(...tree(models).children);
  } catch (error) {
    $("stage").textContent = "The service does not answer: " + error.message;
  }
}
draw();
setInterval(draw, 2000);
