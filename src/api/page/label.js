// The labeling page: a queue with one key a class, a gallery, and a dialog for one item.
// Invariants: everything from the service is set as text or attribute, never as HTML; what the student thinks is not
// shown in the queue, because it would lead the labeler; labels are sent one after the other, in the order they are given;
// an item goes by its uid, so that a store put in another's place gets no label that was meant for that one's item.
"use strict";

const AHEAD = 8;              // items asked for at a time
const LATEST = 12;            // labels in the strip
const PAGE = 60;              // tiles of the gallery a page
const EMPTY_PAUSE = 4_000;    // how long an empty queue waits before it asks again, in ms
const RESERVED = "uw";        // keys that mean something else
const MARKS = { accept: "✓", divert: "?", reject: "✕" };
const at = (id) => document.getElementById(id);

let me = localStorage.getItem("labeler") ?? "";
let classes = [];             // [{name, letter}]
let queue = [];               // verdicts; the first is shown
let given = [];               // labels of this person that stand, newest first
let shown = null;             // verdict in the dialog
const unsent = new Set();     // items whose label is still on its way
let sending = Promise.resolve();

function html(name, className, text) {
  const element = document.createElement(name);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const picture = (uid) => `/items/${uid}.jpg`;
const words = (label) => label.class?.replaceAll("_", " ") ?? "can’t tell";

async function ask(path, options) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (answer.status === 401) location.href = "/?next=label"; // log in there and come back
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.detail ?? `the service answered ${answer.status}`);
  return body;
}

function complain(why) {
  at("banner").hidden = !why;
  at("banner").textContent = why ? `${why.message ?? why} — nothing was lost: try again.` : "";
}

// The first letter of a class that nothing else uses yet, or none.
function letters(names) {
  const used = new Set(RESERVED);
  return names.map((name) => {
    const letter = [...name.toLowerCase()].find((c) => /[a-z]/.test(c) && !used.has(c)) ?? "";
    used.add(letter);
    return { name, letter };
  });
}

function classButton({ name, letter }, place, choose) {
  const button = html("button", "");
  button.dataset.class = name;
  if (place < 9) button.append(html("kbd", "", place + 1));
  const label = html("span", "");
  const text = name.replaceAll("_", " ");
  const i = letter ? text.toLowerCase().indexOf(letter) : -1;
  if (i < 0) label.textContent = text;
  else label.append(text.slice(0, i), html("u", "", text[i]), text.slice(i + 1));
  button.append(label);
  button.onclick = () => choose(name);
  return button;
}

/* The queue */

function drawItem() {
  const verdict = queue[0];
  document.querySelector(".look").classList.toggle("without", !verdict);
  at("empty").hidden = Boolean(verdict);
  for (const button of document.querySelectorAll(".answers .classes button, #cant")) button.disabled = !verdict;
  if (!verdict) return delete at("item").dataset.verdict;
  const whole = at("whole").getAttribute("aria-pressed") === "true";
  at("item").src = whole ? `/frames/${encodeURIComponent(verdict.frame)}` : picture(verdict.uid);
  at("item").dataset.verdict = verdict.id;
  const time = new Date(verdict.time).toLocaleTimeString([], { hour12: false });
  const why = { unsure: "the student is unsure", wrong_class: "rejected", low_score: "the student doubts",
                several: "several may touch", partial: "never seen whole",
                unknown: "unlike all it has learned", fault: "could not be judged", accepted: "let through" }[verdict.reason];
  const novel = verdict.novelty > 1 ? " · unlike what it has learned" : "";
  at("why").textContent = `No. ${verdict.id} · ${time} · ${why}${novel}`;
  if (queue[1]) new Image().src = picture(queue[1].uid);   // so that the next one is there at once
}

function drawGiven() {
  at("given").replaceChildren(...given.slice(0, LATEST).map((label) => {
    const row = html("li", "");
    row.append(tile(label.uid, "", html("span", "", words(label))));
    return row;
  }));
  at("no-given").hidden = given.length > 0;
  at("undo").disabled = given.length === 0;
}

async function refill() {
  if (!me) return;
  const path = `/labels/queue?by=${encodeURIComponent(me)}&limit=${AHEAD}${order()}`;
  const [work, agreement] = await Promise.all([ask(path), ask("/labels/agreement")]);
  // The item that somebody is looking at stays; one that was answered meanwhile does not come back.
  const first = queue[0];
  const fresh = work.items.filter((v) => v.uid !== first?.uid && !unsent.has(v.uid));
  queue = first ? [first, ...fresh] : fresh;
  drawItem();
  const kappa = agreement.kappa === null ? "" : ` · κ ${agreement.kappa.toFixed(2)} (${agreement.items} twice)`;
  at("progress").replaceChildren(html("b", "", work.done), " done · ", html("b", "", work.waiting), ` to go${kappa}`);
  complain();
}

const order = () => new URLSearchParams(location.search).get("order") === "random" ? "&order=random" : "";

// Does `work` after everything that is still being sent; a failure is told and ends nothing.
function send(work) {
  sending = sending.then(work).catch(complain);
  return sending;
}

async function post(uid, name) {
  const body = JSON.stringify({ verdict: uid, class: name, by: me });
  const label = await ask("/labels", { method: "POST", headers: { "content-type": "application/json" }, body });
  given = [label, ...given.filter((g) => g.uid !== uid)];
  drawGiven();
}

function flash(name) {
  const button = name === null ? at("cant") : [...at("classes").children].find((b) => b.dataset.class === name);
  button?.classList.add("flash");
  setTimeout(() => button?.classList.remove("flash"), 180);
}

function label(name) {
  const verdict = queue.shift();
  if (!verdict) return;
  unsent.add(verdict.uid);
  flash(name);
  drawItem();
  send(async () => {
    try {
      await post(verdict.uid, name).finally(() => unsent.delete(verdict.uid));
    } catch (why) {
      queue.unshift(verdict);
      drawItem();
      throw why;
    }
    await refill();
  });
}

function undo() {
  send(async () => {
    const last = given[0];
    if (!last) return;
    await ask(`/labels/${last.id}?by=${encodeURIComponent(me)}`, { method: "DELETE" });
    const { items } = await ask(`/items?verdict=${last.uid}`);
    await readGiven();
    queue = [...items.map((i) => i.verdict), ...queue.filter((v) => v.uid !== last.uid)];
    await refill();
  });
}

async function readGiven() {
  const { labels } = await ask(`/labels?by=${encodeURIComponent(me)}&current=true&limit=${LATEST}`);
  given = labels;
  drawGiven();
}

/* The gallery */

function tile(uid, className, caption) {
  const button = html("button", `tile ${className}`);
  const image = html("img", "");
  image.src = picture(uid);
  image.alt = "";
  image.loading = "lazy";
  button.append(image, caption);
  button.dataset.verdict = uid;
  button.onclick = () => { location.hash = `item=${uid}`; };
  return button;
}

function galleryTile({ verdict, labels }) {
  const said = [...new Set(labels.map(words))];
  const guess = `${MARKS[verdict.action]} ${(verdict.class ?? "fault").replaceAll("_", " ")}`;
  const caption = said.length ? html("span", said.length > 1 ? "dispute" : "", said.join(" / ")) : html("span", "guess", guess);
  const row = html("li", "");
  row.append(tile(verdict.uid, verdict.action, caption));
  return row;
}

let next = null;
let turn = 0;                 // of several answers on their way only the last asked for is drawn
async function drawGallery(more) {
  const mine = ++turn;
  const wanted = new URLSearchParams({ limit: PAGE });
  for (const [key, value] of new FormData(at("filter"))) if (value.trim()) wanted.set(key, value.trim());
  if (more && next) wanted.set("before", next);
  const page = await ask(`/items?${wanted}`);
  if (mine !== turn) return;
  next = page.next;
  const tiles = page.items.map(galleryTile);
  more ? at("tiles").append(...tiles) : at("tiles").replaceChildren(...tiles);
  at("no-tiles").hidden = at("tiles").children.length > 0;
  at("more").hidden = !next;
}

/* One item */

// By uid, or by the number that somebody typed or an older link has.
async function open(name) {
  const [{ items }, { labels }] = await Promise.all([ask(`/items?verdict=${name}`), ask(`/labels?verdict=${name}&limit=50`)]);
  if (!items.length) throw new Error(`the picture of item ${name} was not kept`);
  shown = items[0].verdict;
  const { uid } = shown;
  at("one-picture").src = picture(uid);
  at("one-title").textContent = `No. ${shown.id}`;
  const best = shown.scores[0];
  const guess = best ? `${best.class.replaceAll("_", " ")} ${Math.floor(best.probability * 100)} %` : "no scores";
  const time = new Date(shown.time).toLocaleString([], { hour12: false });
  at("one-verdict").textContent = `The student: ${MARKS[shown.action]} ${shown.action}, ${guess}. ${time}`;
  const mine = labels.find((l) => l.current && l.by === me);
  const buttons = classes.map((c, i) => classButton(c, i, (name) => correct(name)));
  for (const button of buttons) button.classList.toggle("chosen", mine?.class === button.dataset.class);
  at("one-classes").replaceChildren(...buttons);
  at("one-cant").classList.toggle("chosen", Boolean(mine) && mine.class === null);
  at("history").replaceChildren(...labels.map((entry) => {
    const row = html("li", "");
    const when = new Date(entry.at).toLocaleString([], { hour12: false });
    row.append(html("span", entry.current ? "" : "past", `${words(entry)} · ${entry.by} · ${when}`));
    if (entry.current && entry.by === me) {
      const back = html("button", "", "Withdraw");
      back.onclick = () => send(async () => {
        await ask(`/labels/${entry.id}?by=${encodeURIComponent(me)}`, { method: "DELETE" });
        await changed(uid);
      });
      row.append(back);
    }
    return row;
  }));
  if (!labels.length) at("history").append(html("li", "none", "Nothing yet."));
  if (!at("one").open) at("one").showModal();
}

function correct(name) {
  if (!me) return askName();
  const { uid } = shown;
  send(async () => {
    await post(uid, name);
    await changed(uid);
  });
}

// After the dialog changed an item: everything that shows it.
async function changed(uid) {
  queue = queue.filter((v) => v.uid !== uid);
  await Promise.all([readGiven(), refill(), open(uid), at("gallery").hidden ? null : drawGallery()]);
}

/* Keys, names, places */

function keyed(event) {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  if (at("name").open || (at("queue").hidden && !at("one").open)) return;
  const choose = at("one").open ? correct : label;
  const key = event.key.toLowerCase();
  const number = /^[1-9]$/.test(key) ? classes[Number(key) - 1] : undefined;
  const found = number ?? classes.find((c) => c.letter === key);
  if (found) choose(found.name);
  else if (key === " " || key === "?") choose(null);
  else if (key === "u" && !at("one").open) undo();
  else if (key === "w" && !at("one").open) at("whole").click();
  else return;
  event.preventDefault();
}

function askName() {
  at("name-input").value = me;
  at("name").showModal();
}

// Whom the service takes us for: with tokens the token's name stands with every label, without them the one given here.
async function letIn() {
  const { name, role } = await ask("/whoami");
  if (name !== "local" || role !== "admin") {
    me = name;
    at("who").onclick = null;
    at("who").title = "";
  }
}

async function start() {
  at("who").textContent = me || "Your name?";
  if (!me) return askName();
  queue = [];
  await Promise.all([readGiven(), refill()]);
}

function go() {
  const [where, id] = location.hash.slice(1).split("=");
  const gallery = where === "gallery" || (where === "item" && at("queue").hidden);
  at("queue").hidden = gallery;
  at("gallery").hidden = !gallery;
  at("to-queue").classList.toggle("here", !gallery);
  at("to-gallery").classList.toggle("here", gallery);
  if (where === "item") open(id).catch(complain);
  else if (at("one").open) at("one").close();
  if (where === "gallery" && !at("tiles").children.length) drawGallery().catch(complain);
}

at("cant").onclick = () => label(null);
at("one-cant").onclick = () => correct(null);
at("undo").onclick = undo;
at("whole").onclick = () => {
  const pressed = at("whole").getAttribute("aria-pressed") !== "true";
  at("whole").setAttribute("aria-pressed", pressed);
  drawItem();
};
at("close").onclick = () => at("one").close();
at("one").onclose = () => { if (location.hash.startsWith("#item")) location.hash = at("queue").hidden ? "gallery" : ""; };
at("who").onclick = askName;
at("name").onclose = () => {
  me = at("name-input").value.trim();
  localStorage.setItem("labeler", me);
  start().catch(complain);
};
at("filter").onchange = () => drawGallery().catch(complain);
at("filter").onsubmit = (event) => { event.preventDefault(); drawGallery().catch(complain); };
at("more").onclick = () => drawGallery(true).catch(complain);
addEventListener("keydown", keyed);
addEventListener("hashchange", go);
setInterval(() => { if (!queue.length && me && !document.hidden) send(refill); }, EMPTY_PAUSE);

letIn().then(() => ask("/labels/classes")).then((names) => {
  classes = letters(names);
  at("classes").replaceChildren(...classes.map((c, i) => classButton(c, i, label)));
  at("filter").elements.class.append(...names.map((name) => new Option(name.replaceAll("_", " "), name)));
  go();
  return start();
}).catch(complain);
