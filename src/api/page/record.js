// Lots of the record, and what waits for a person. Asks every two seconds; draws from the answers alone, so a reload
// loses nothing but a half-written remark.
"use strict";

const $ = (id) => document.getElementById(id);
const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};
const when = (text) => new Date(text).toLocaleString();
const PAGE = 25;
let shown = PAGE;

const by = $("by");
by.value = localStorage.getItem("name") || "";
by.addEventListener("change", () => localStorage.setItem("name", by.value.trim()));

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) location.href = "/"; // the live page asks for the token
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(problem.detail || answer.statusText);
  }
  return answer;
}
const read = async (path) => (await ask(path)).json();

function banner(words) {
  $("banner").hidden = !words;
  $("banner").textContent = words || "";
}

// Asks for a change in the name of whoever sits here; true when it is done.
async function change(path, body, key = "by") {
  const name = by.value.trim();
  if (!name) {
    by.focus();
    banner("Say who you are: the name stands in the record.");
    return false;
  }
  let done = true;
  try {
    const headers = { "content-type": "application/json" };
    await ask(path, { method: "POST", headers, body: JSON.stringify({ ...body, [key]: name }) });
    banner("");
  } catch (error) {
    banner(error.message);
    done = false;
  }
  await draw();
  return done;
}

$("opening").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await change("/lots", { name: $("new").value.trim() })) $("new").value = "";
});
// A challenge test is announced now, and the piece sent through.
const order = (camera, piece, kind) => change("/challenges", { camera, piece, class: kind });
$("test").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await order($("test-camera").value, $("test-piece").value.trim(), null)) $("test-piece").value = "";
});
$("close").addEventListener("click", () => confirm("Close this lot?") && change("/lots/close", {}));
$("more").addEventListener("click", () => { shown += PAGE; draw(); });

// A row is made anew only when what it shows has changed, so that nobody's typing is disturbed.
const made = new Map();
function row(key, state, make) {
  const text = JSON.stringify(state);
  if (made.get(key)?.text !== text) made.set(key, { text, row: make() });
  return made.get(key).row;
}
function fill(list, rows) {
  for (const child of [...list.children]) if (!rows.includes(child)) child.remove();
  rows.forEach((one, i) => { if (list.children[i] !== one) list.insertBefore(one, list.children[i] || null); });
}

function counts(into, report) {
  into.replaceChildren();
  if (!report) return into;
  const { verdicts, accept, divert, reject } = report.counts;
  into.append(element("span", `${verdicts} items`), element("span", `✓ ${accept}`, "accept"),
    element("span", `? ${divert}`, "divert"), element("span", `✕ ${reject}`, "reject"));
  return into;
}

function flaws(report) {
  if (!report) return [];
  const tell = (n, one, many) => (n ? [`${n} ${n === 1 ? one : many}`] : []);
  return [
    ...tell(report.outages.length, "interval not fully inspected", "intervals not fully inspected"),
    ...tell(report.removed?.verdicts, "verdict removed by retention", "verdicts removed by retention"),
    ...tell(report.not_recorded, "verdict not recorded", "verdicts not recorded"),
    ...tell(report.eject_late, "late command to a gate", "late commands to a gate"),
    ...tell(report.rejects_missed, "reject not seen to leave", "rejects not seen to leave"),
    ...tell(report.told_later.length, "of these told later, after the lot was closed", "of these told later, after the lot was closed"),
    ...tell(report.challenges.filter((c) => c.found === false).length, "challenge test missed", "challenge tests missed"),
  ];
}

function lotRow(lot, report, blocking) {
  const signed = lot.signed_off[0];
  const withdrawn = !signed && lot.withdrawn[0];
  const kind = !lot.closed ? "open" : blocking.length ? "blocked" : signed ? "signed" : withdrawn ? "withdrawn" : "closed";
  const item = element("li", undefined, kind);
  item.dataset.lot = lot.lot;
  const head = element("div");
  head.append(element("h3", lot.name));
  head.append(element("p", `No. ${lot.lot}, ${when(lot.opened)} – ${lot.closed ? when(lot.closed) : "still open"}`, "soft"));
  const people = [lot.opened_by && `opened by ${lot.opened_by}`, lot.closed_by && `closed by ${lot.closed_by}`];
  head.append(element("p", people.filter(Boolean).join(", "), "soft"));
  const found = element("div");
  found.append(counts(element("p", undefined, "counts"), report));
  for (const flaw of flaws(report)) found.append(element("p", flaw, "flaw"));
  const review = element("div");
  for (const one of lot.signed_off) {
    review.append(element("p", `Signed off by ${one.name}, ${when(one.time)}${one.remark ? ": " + one.remark : ""}`));
  }
  for (const one of lot.withdrawn) {
    review.append(element("p", `${one.name} signed off ${when(one.time)}; withdrawn ${when(one.withdrawn)}: ${one.why}`, signed ? "soft" : "flaw"));
  }
  if (blocking.length) {
    review.append(element("p", `Corrective action ${blocking.join(", ")} is open: no sign-off before it is closed.`, "flaw"));
  } else if (lot.closed && !signed) {
    const form = element("form");
    const remark = element("input");
    remark.placeholder = "Remark";
    remark.setAttribute("aria-label", `Remark about lot ${lot.name}`);
    form.append(remark, element("button", withdrawn ? "Sign off again" : "Sign off"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      change(`/lots/${lot.lot}/sign-off`, { remark: remark.value.trim() }, "name");
    });
    review.append(form);
  }
  const links = element("p", undefined, "links");
  for (const [words, end] of [["Print", "html"], ["CSV", "csv"]]) {
    const link = element("a", words);
    link.href = `/lots/${lot.lot}/export.${end}`;
    if (end === "html") link.target = "_blank";
    links.append(link);
  }
  item.append(head, found, review, links);
  return item;
}

function actionRow(action, lots) {
  const item = element("li", undefined, "action");
  item.append(element("p", `Corrective action ${action.action}${lots.length ? ", lots " + lots.join(", ") : ""}: ${action.cause}`));
  const good = action.last_good ? `last found ${when(action.last_good)}` : "never found before";
  item.append(element("p", `Since ${when(action.opened)}; a challenge test was ${good}`, "soft"));
  if (!action.retest) {
    const where = action.camera ? ` on ${action.camera}` : "";
    item.append(element("p", `It can be closed after a challenge test${where} is found: order one below.`, "flaw"));
    return item;
  }
  const form = element("form");
  const done = element("input");
  done.placeholder = "What was done";
  done.required = true;
  done.maxLength = 500;
  done.setAttribute("aria-label", `What was done for corrective action ${action.action}`);
  form.append(done, element("button", "Close it"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change(`/corrective-actions/${action.action}/close`, { done: done.value.trim() });
  });
  item.append(form);
  return item;
}

function challengeRow(one) {
  const item = element("li", undefined, "challenge");
  const wanted = one.class ? `, to be taken for ${one.class}` : "";
  item.append(element("p", `Challenge test ${one.challenge} on ${one.camera}: ${one.piece}${wanted}`));
  item.append(element("p", `Sent by ${one.by || "somebody"}, ${when(one.announced)}; it passes within ${one.within_s} s`, "soft"));
  return item;
}

function dueRow(one) {
  const item = element("li", undefined, one.overdue ? "due overdue" : "due");
  const wanted = one.class ? `, to be taken for ${one.class}` : "";
  item.append(element("p", `${one.piece || "Any known wrong piece"} on ${one.camera}${wanted}`));
  item.append(element("p", one.overdue ? `overdue since ${when(one.due)}` : `due ${when(one.due)}`, one.overdue ? "flaw" : "soft"));
  item.append(element("p", one.last_found ? `last found ${when(one.last_found)}` : "never found yet", "soft"));
  if (one.piece) {
    const button = element("button", "Order");
    button.type = "button";
    button.addEventListener("click", () => order(one.camera, one.piece, one.class));
    item.append(button);
  }
  return item;
}

// Why retention leaves what is over its time; where it is the clock, an admin may vouch for it.
function heldRow(why) {
  const item = element("li", `Retention holds back: ${why}`);
  if (why.includes("vouches")) {
    const button = element("button", "The clock is right");
    button.type = "button";
    const now = () => new Date().toLocaleString();
    button.addEventListener("click", () => confirm(`Is it ${now()} where you are? Age then decides what is removed.`) && change("/clock/confirm", {}));
    item.append(button);
  }
  return item;
}

// How a challenge test ended, and what failed.
function testRow(one) {
  const item = element("li", undefined, "test");
  const proof = one.acknowledged === null ? "by the verdict alone: no gate" : one.confirmed ? "gate and sensor" : "gate acknowledged";
  const result = one.found ? `found (${proof})` : `missed: ${one.why || "it was not taken off"}`;
  item.append(element("p", `${when(one.announced)}, ${one.camera}: ${one.piece}${one.class ? `, to be taken for ${one.class}` : ""}: ${result}`, one.found ? "soft" : "flaw"));
  return item;
}

// What the record says about a lot changes little a while after it was closed: what is told later is asked for now and then.
const SETTLED = 60000;
const reports = new Map();
async function report(lot) {
  const state = JSON.stringify(lot);
  const known = reports.get(lot.lot);
  const settled = lot.closed && Date.now() - Date.parse(lot.closed) > 10000;
  if (!settled || known?.state !== state || !known.settled || Date.now() - known.at > SETTLED) {
    reports.set(lot.lot, { settled, state, at: Date.now(), report: await read(`/lots/${lot.lot}`) });
  }
}

async function draw() {
  try {
    const name = $("lot-name").value.trim();
    const [lots, actions, challenges, planned, cameras, ready] =
      await Promise.all(["/lots", "/corrective-actions", "/challenges", "/challenges/due", "/cameras", "/readyz"].map(read));
    const open = lots.find((lot) => !lot.closed);
    const wanted = name ? await read(`/lots?limit=${Math.min(shown + 1, 500)}&name=${encodeURIComponent(name)}`) : lots;
    const listed = wanted.slice(0, shown);
    for (const lot of listed) await report(lot); // one after another: the belt comes first
    const names = new Map(lots.map((lot) => [lot.lot, lot.name]));
    const due = actions.filter((action) => !action.closed);
    const about = (lot) => reports.get(lot.lot)?.report;

    $("open-lot").textContent = open ? `Lot ${open.name}` : "No lot is open";
    $("name").textContent = open ? open.name : "No lot is open";
    $("since").textContent = open ? `since ${when(open.opened)}${open.opened_by ? ", opened by " + open.opened_by : ""}` : "";
    counts($("counts"), open && about(open));
    $("close").hidden = !open;

    fill($("lots"), listed.map((lot) => {
      const blocking = due.filter((action) => action.lots.includes(lot.lot)).map((action) => action.action);
      return row(`lot ${lot.lot}`, [lot, about(lot)?.counts, flaws(about(lot)), blocking], () => lotRow(lot, about(lot), blocking));
    }));
    $("none").textContent = name ? "No lot has such a name." : "No lot was opened yet.";
    $("none").hidden = wanted.length > 0;
    $("more").hidden = wanted.length <= shown;
    const waiting = [
      ...due.map((one) => row(`action ${one.action}`, one, () => actionRow(one, one.lots.map((lot) => names.get(lot) ?? lot)))),
      ...challenges.filter((one) => one.found === null).map((one) => row(`challenge ${one.challenge}`, one, () => challengeRow(one))),
    ];
    fill($("waiting"), waiting);
    $("nothing").hidden = waiting.length > 0;
    fill($("held"), ready.retention_held.map((why) => row(`held ${why}`, why, () => heldRow(why))));
    fill($("due"), planned.map((one) => row(`due ${one.camera} ${one.piece}`, one, () => dueRow(one))));
    $("unplanned").hidden = planned.length > 0;
    const options = cameras.map((one) => row(`camera ${one.name}`, one.name, () => element("option", one.name)));
    fill($("test-camera"), options);
    const ended = challenges.filter((one) => one.found !== null).slice(0, 5);
    fill($("tests"), ended.map((one) => row(`test ${one.challenge}`, one, () => testRow(one))));
  } catch (error) {
    banner("The service does not answer: " + error.message);
  }
}
draw();
setInterval(draw, 2000);
$("lot-name").addEventListener("input", () => { shown = PAGE; draw(); });

// Items by what the form says, a page at a time; the record may take several looks to fill one.
let older = null;
const EMPTY_LOOKS = 20;
async function find(more) {
  const asked = new URLSearchParams({ limit: PAGE });
  for (const [key, value] of new FormData($("find"))) {
    const text = value.trim();
    if (text) asked.set(key, ["from", "to"].includes(key) ? new Date(text).toISOString() : text);
  }
  if (!more) { older = null; $("items").replaceChildren(); }
  let found = 0;
  for (let looks = 0; looks < EMPTY_LOOKS && found === 0; looks += 1) {
    if (older) asked.set("before", older);
    const page = await read(`/verdicts?${asked}`);
    for (const verdict of page.verdicts) $("items").append(itemRow(verdict));
    found += page.verdicts.length;
    older = page.next ?? null;
    if (older === null) break;
  }
  $("older").hidden = older === null;
  $("found").hidden = found > 0;
  $("found").textContent = older === null ? "No more items are like this." : "None so far; older ones may be.";
}

function itemRow(verdict) {
  const item = element("li");
  const { id, time, action, class: kind, camera, source, reason } = verdict;
  item.append(element("span", id), element("span", when(time)), element("b", action, action), element("span", kind ?? "no class"),
    element("span", reason.replace("_", " ")), element("span", camera || source));
  return item;
}

const search = (more) => find(more).catch((error) => banner(error.message));
$("find").addEventListener("submit", (event) => { event.preventDefault(); search(false); });
$("older").addEventListener("click", () => search(true));
