// The page with all pushes: what has changed goes into the rows that are there.
import { clock, ended, follow, framed, teller } from "./live.js";
import * as rows from "./rows.js";
import { referenceWords } from "./words.js";

const mostBlobs = 40, mostFinished = 50;
const $ = (id) => document.getElementById(id);
const first = $("done").dataset.first === "yes"; // the newest are listed, and all of them
const pushes = new Map(), done = new Map(), upstreams = new Map();
let queue = [], store = null, later = 0;
const changed = { pushes: new Set(), done: false, queue: false, upstreams: false, store: false, all: false };
const tell = teller($("told"));

function drawPushes(now) {
  const el = $("pushes"), fill = (card, p) => {
    if (changed.all || changed.pushes.has(p.id)) rows.fillPush(card, p, now, mostBlobs);
  };
  rows.keyed(el, [...pushes.values()], (p) => p.id, "push", fill);
  $("pushes-count").textContent = pushes.size;
  $("pushes-empty").hidden = pushes.size > 0;
}

function drawDone(now) {
  const list = [...done.values()].sort((a, b) => Date.parse(b.finished) - Date.parse(a.finished)).slice(0, mostFinished);
  rows.keyed($("done"), list, (p) => p.id, "finished", (el, p) => rows.fillFinished(el, p, now));
  $("done").hidden = !list.length;
  $("done-empty").hidden = list.length > 0;
  done.clear();
  for (const p of list) done.set(p.id, p);
}

function drawQueue(now) {
  rows.keyed($("queue"), queue, (j) => j.id, "job", (el, j) => rows.fillJob(el, j, now));
  $("queue-count").textContent = queue.length;
  $("queue-section").hidden = !queue.length;
}

function drawUpstreams(now) {
  rows.keyed($("upstreams"), [...upstreams.values()], (u) => u.host, "upstream", (el, u) => rows.fillUpstream(el, u, now));
  $("upstreams-empty").hidden = upstreams.size > 0;
}

const draw = framed(() => {
  const now = clock.now();
  if (changed.all || changed.pushes.size) drawPushes(now);
  if (first && (changed.all || changed.done)) drawDone(now);
  if (changed.all || changed.queue) drawQueue(now);
  if (changed.all || changed.upstreams) drawUpstreams(now);
  if (store && $("store") && (changed.all || changed.store)) rows.fillStore($("store"), store, now);
  $("done-more").hidden = first || !later;
  $("done-more-count").textContent = later;
  Object.assign(changed, { pushes: new Set(), done: false, queue: false, upstreams: false, store: false, all: false });
});

function takeSnapshot(s) {
  clock.set(s.now);
  for (const m of [pushes, done, upstreams]) m.clear();
  for (const p of s.pushes) pushes.set(p.id, p);
  for (const p of s.finished) done.set(p.id, p);
  for (const u of s.upstreams) upstreams.set(u.host, u);
  queue = s.queue;
  store = s.store;
  changed.all = true;
}

function takePush(p) {
  changed.pushes.add(p.id);
  if (!ended(p)) {
    pushes.set(p.id, p);
    if (done.delete(p.id)) changed.done = true; // it goes on after all
    return;
  }
  if (pushes.delete(p.id)) {
    later++;
    tell(`${p.repository}${referenceWords(p)}: ${p.state}.`);
  }
  done.set(p.id, p);
  changed.done = true;
}

follow((name, data) => {
  switch (name) {
    case "snapshot": takeSnapshot(data); break;
    case "push": takePush(data); break;
    case "queue": queue = data; changed.queue = true; break;
    case "upstream": upstreams.set(data.host, data); changed.upstreams = true; break;
    case "store": store = data; changed.store = true; break;
  }
  draw();
});

// What counts seconds goes on between events.
setInterval(() => {
  for (const p of pushes.values()) changed.pushes.add(p.id);
  if (pushes.size) draw();
}, 1000);
