// The live page of one camera (`?camera=`, else the first): a token where one is asked for, then what /live,
// /verdicts/stream, /readyz and /cameras tell, drawn as it comes. With several cameras only its own verdicts are shown.
// Invariant: everything from the service is set as text or attribute, never as HTML.
"use strict";

const KEPT = 20;              // verdicts in the list
const MINUTE = 60_000;        // the window of the rates, in ms
const SILENT = 5_000;         // a picture older than this, in ms, is shown as stale
const MARKS = { accept: "✓", divert: "?", reject: "✕" };
const NAMES = { accept: "Accept", divert: "Divert", reject: "Reject" };
const REASONS = {
  accepted: "sure enough", wrong_class: "wrong kind", unsure: "unsure",
  low_score: "too doubtful", several: "may be several that touch", partial: "was never seen whole",
  unknown: "unlike all it has learned", fault: "could not be judged",
};
const at = (id) => document.getElementById(id);
const percent = (p) => `${Math.floor(p * 100)} %`;   // rounded down: 99.6 % is not 100 %

const recent = new Map();     // id → {time, action, ms}: the last minute
const shown = new Map();      // id → verdict: the list
let cameras = [];             // {name, state, why}
let camera;                   // the name of the one that is shown
let lastPicture = 0;
let skew = 0;                 // the service's clock minus ours, in ms
const broken = new Set();     // sources that are down

function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function html(name, className, text) {
  const element = document.createElement(name);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function drawFrame({ width, height, jpeg, items }) {
  lastPicture = Date.now();
  const picture = at("picture");
  picture.src = `data:image/jpeg;base64,${jpeg}`;
  picture.hidden = false;
  const boxes = at("boxes");
  boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const size = Math.max(14, width / 36);
  boxes.replaceChildren(...items.map(({ region, verdict }) => {
    const action = verdict.action;
    const words = `${MARKS[action]} ${verdict.class ?? "fault"} ${percent(verdict.scores[0]?.probability ?? 0)}`;
    const wide = words.length * size * 0.64 + size * 0.6;
    const x = Math.max(0, Math.min(region.x, width - wide));
    const y = region.y >= size * 1.5 ? region.y - size * 1.5 : region.y;
    const group = svg("g", {});
    group.append(
      svg("rect", { ...region, class: `box ${action}` }),
      svg("rect", { x, y, width: wide, height: size * 1.5, class: `tag ${action}` }),
      svg("text", { x: x + size * 0.3, y: y + size * 1.1, "font-size": size, class: "label" }, words),
    );
    return group;
  }));
  drawStale();
}

function item(verdict) {
  const action = verdict.action;
  const row = html("li", action);
  if (verdict.frame) {
    const thumb = html("img", "thumb");
    thumb.src = `/frames/${encodeURIComponent(verdict.frame)}`;
    thumb.alt = "";
    thumb.loading = "lazy";
    row.append(thumb);
  } else {
    row.append(html("span", "thumb", "not kept"));
  }
  const words = html(verdict.frame ? "a" : "div", "words");
  if (verdict.frame) words.href = `/label#item=${verdict.uid}`;
  const best = verdict.scores[0];
  const kind = best ? `${best.class} ${percent(best.probability)}` : "no scores";
  words.append(html("p", "what", `${MARKS[action]} ${NAMES[action]} · ${kind}`));
  const time = new Date(verdict.time).toLocaleTimeString([], { hour12: false });
  const why = verdict.fault ?? REASONS[verdict.reason];
  words.append(html("p", "why", `${time} · ${verdict.timings.total_ms.toFixed(1)} ms · ${why}`));
  row.append(words);
  return row;
}

function take(verdicts) {
  for (const verdict of verdicts) {
    if (cameras.length > 1 && verdict.camera !== camera) continue;
    shown.set(verdict.id, verdict);
    const time = Date.parse(verdict.time) - skew;
    recent.set(verdict.id, { time, action: verdict.action, ms: verdict.timings.total_ms });
  }
  const newest = [...shown.keys()].sort((a, b) => b - a);
  newest.slice(KEPT).forEach((id) => shown.delete(id));
}

// Elements that are already there stay, so that thumbnails do not flicker.
const rows = new Map();
function drawList() {
  const ids = [...shown.keys()].sort((a, b) => b - a);
  for (const id of rows.keys()) if (!shown.has(id)) { rows.get(id).remove(); rows.delete(id); }
  const list = at("verdicts");
  ids.forEach((id, place) => {
    if (!rows.has(id)) rows.set(id, item(shown.get(id)));
    if (list.children[place] !== rows.get(id)) list.insertBefore(rows.get(id), list.children[place] ?? null);
  });
  at("none").hidden = ids.length > 0;
}

function drawRates() {
  const since = Date.now() - MINUTE;
  for (const [id, { time }] of recent) if (time < since) recent.delete(id);
  const all = [...recent.values()];
  const share = (action) => all.filter((v) => v.action === action).length / all.length;
  at("items").textContent = all.length;
  for (const action of Object.keys(NAMES)) {
    at(action).textContent = all.length ? `${Math.round(share(action) * 100)} %` : "–";
  }
  const times = all.map((v) => v.ms).sort((a, b) => a - b);
  const quantile = (q) => times.length ? `${times[Math.ceil(q * times.length) - 1].toFixed(1)} ms` : "–";
  at("p50").textContent = quantile(0.5);
  at("p99").textContent = quantile(0.99);
}

function drawStale() {
  const stale = Date.now() - lastPicture > SILENT;
  at("stage").classList.toggle("stale", stale);
  at("dark").hidden = !stale;
  const frozen = cameras.some(({ name, state }) => name === camera && state === "frozen");
  if (frozen) at("dark").textContent = "The camera is frozen: it sends the same picture over and over";
  else if (lastPicture) at("dark").textContent = "The camera is silent: this picture is old";
  if (stale) at("boxes").replaceChildren();
}

function source(name, up) {
  up ? broken.delete(name) : broken.add(name);
  const banner = at("banner");
  const lost = broken.size > 0;
  if (banner.hidden === lost) {
    banner.hidden = !lost;
    banner.textContent = lost ? "Connection to the service is lost. What you see is old; trying again…" : "";
  }
}

async function askReady() {
  try {
    const answer = await fetch("/readyz", { cache: "no-store" });
    const state = await answer.json();
    at("model").textContent = `${state.model} · ${state.precision} on ${state.provider}`
      + (state.unknown_from == null ? " · accepts unknown things that look sure" : "");
    pill(state.ready ? "Ready" : "Not ready", state.ready ? "on" : "off");
    source("ready", true);
  } catch {
    pill("Not connected", "off");
    source("ready", false);
  }
}

async function askCameras() {
  const answer = await fetch("/cameras", { cache: "no-store" });
  if (answer.ok) cameras = await answer.json();
}

// Which camera is shown, and a choice where there are several.
function choose() {
  const wanted = new URLSearchParams(location.search).get("camera");
  camera = (cameras.find(({ name }) => name === wanted) ?? cameras[0])?.name;
  const choice = at("camera");
  choice.replaceChildren(...cameras.map(({ name }) => new Option(name, name, false, name === camera)));
  choice.hidden = cameras.length < 2;
}

function pill(words, className) {
  const element = at("ready");
  element.className = `pill ${className}`;
  if (element.textContent !== words) element.textContent = words;
}

// What was recorded before the page opened, or while the connection was lost.
async function catchUp() {
  const answer = await fetch("/verdicts?limit=500", { cache: "no-store" });
  skew = (Date.parse(answer.headers.get("date")) || Date.now()) - Date.now();
  take((await answer.json()).verdicts);
  drawList();
  drawRates();
}

// Whether the service lets us in; if it asks for a token, so does the page.
async function letIn() {
  const answer = await fetch("/whoami", { cache: "no-store" });
  const asked = !at("login").hidden;
  at("login").hidden = answer.status !== 401;
  if (answer.status === 401 && !asked) at("token").focus();
  const caller = answer.ok ? await answer.json() : { name: "local" };
  at("out").hidden = caller.name === "local";    // nobody is asked, so nobody is logged in
  at("out").textContent = `Log out ${caller.name}`;
  return answer.ok;
}

async function logIn(event) {
  event.preventDefault();
  const answer = await fetch("/login", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ token: at("token").value }),
  });
  at("token").value = "";
  at("refused").textContent = answer.ok ? "" : (await answer.json()).detail;
  const next = new URLSearchParams(location.search).get("next");
  if (answer.ok) location.href = ["label", "learning"].includes(next) ? `/${next}` : "/";
}

function listen(name, url, event, draw, opened) {
  const events = new EventSource(url);
  events.addEventListener(event, (e) => draw(JSON.parse(e.data)));
  events.onopen = () => { source(name, true); opened?.(); };
  events.onerror = () => {
    source(name, false);
    // Left to itself the browser asks for all since its last event, a night's verdicts too: here the newest are enough.
    events.close();
    letIn().catch(() => {});
    setTimeout(() => listen(name, url, event, draw, opened), 2_000);
  };
}

let drawing = false;          // many verdicts, one drawing a screen refresh
function arrived(verdict) {
  take([verdict]);
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; drawList(); drawRates(); });
}

async function begin() {
  try {
    if (!await letIn()) return;    // logging in loads the page anew
    await askCameras();
  } catch {
    source("ready", false);
    setTimeout(begin, 2_000);
    return;
  }
  choose();
  setInterval(() => askCameras().catch(() => {}), 2_000);
  if (camera !== undefined) listen("live", `/live?camera=${encodeURIComponent(camera)}`, "frame", drawFrame);
  listen("verdicts", "/verdicts/stream", "verdict", arrived, () => catchUp().catch(() => source("ready", false)));
}

at("login").addEventListener("submit", (event) => logIn(event).catch(() => source("ready", false)));
at("camera").addEventListener("change", () => { location.search = new URLSearchParams({ camera: at("camera").value }); });
at("out").addEventListener("click", () => fetch("/logout", { method: "POST" }).then(() => location.reload(), () => {}));
begin();
askReady();
setInterval(askReady, 5_000);
setInterval(() => { drawRates(); drawStale(); }, 1_000);
setInterval(() => {
  const words = (id) => at(id).textContent;
  at("summary").textContent = `Last minute: ${words("items")} items, ${words("accept")} accepted, ` +
    `${words("divert")} diverted, ${words("reject")} rejected.`;
}, 30_000);
