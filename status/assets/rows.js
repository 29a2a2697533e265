// Fills the rows that the server's templates made. Everything that comes from
// outside goes in as text: nothing here makes markup of it.
import * as w from "./words.js";

// field finds the element that a template marked with data-f.
export function field(root, name) { return root.querySelector(`[data-f="${name}"]`); }

export function text(root, name, value) {
  const el = field(root, name), words = String(value ?? "");
  if (el && el.textContent !== words) el.textContent = words;
}

function show(root, name, on) {
  const el = field(root, name);
  if (el) el.hidden = !on;
}

function time(root, name, value, now) {
  const el = field(root, name), ms = w.millis(value);
  if (!el) return;
  if (!ms) { el.removeAttribute("datetime"); el.textContent = ""; return; }
  el.setAttribute("datetime", new Date(ms).toISOString());
  text(root, name, w.clockWords(ms, now));
}

// make copies a template's one element.
export function make(name) {
  const content = document.getElementById(`t-${name}`).content;
  return (content.querySelector("[data-key]")).cloneNode(true);
}

// keyed makes the children of parent those of items, in their order: children
// whose key stays are kept and filled, not made again.
export function keyed(parent, items, key, template, fill) {
  const rows = [...parent.children].filter((el) => "key" in el.dataset); // not the head of a table
  const old = new Map(rows.map((el) => [el.dataset.key, el]));
  let place = rows[0] || null;
  for (const item of items) {
    const k = key(item);
    let el = old.get(k);
    if (el) old.delete(k);
    else { el = make(template); el.dataset.key = k; }
    fill(el, item);
    if (el === place) place = place.nextElementSibling;
    else parent.insertBefore(el, place);
  }
  for (const el of old.values()) el.remove();
}

function ref(el, host, name, reference) {
  text(el, "host", host);
  text(el, "name", name);
  text(el, "reference", reference);
}

function link(el, name, id) { field(el, name)?.setAttribute("href", `/push/${encodeURIComponent(id)}`); }

// fillPush fills a card of a push in flight, or the head of its page.
export function fillPush(el, p, now, most = Infinity) {
  el.dataset.state = p.state;
  ref(el, p.upstream, p.repository, w.referenceWords(p));
  link(el, "link", p.id);
  link(el, "morelink", p.id);
  text(el, "state", p.state);
  text(el, "summary", w.summaryWords(p.blobs));
  text(el, "who", p.principal);
  text(el, "agent", p.agent);
  text(el, "why", p.why);
  show(el, "why", p.why);
  fillTook(el, p, now);
  fillSum(el, p);
  fillBlobs(field(el, "blobs"), p.blobs.slice(0, most), now);
  show(el, "more", p.blobs.length > most);
  text(el, "morecount", p.blobs.length - most);
}

export function fillTook(el, p, now) {
  const began = w.millis(p.started), ended = w.millis(p.finished);
  text(el, "took", ended ? w.spanWords(ended - began) : w.secondsWords(now - began));
}

function fillSum(el, p) {
  text(el, "existed", w.countWords(p.sum.existed, p.sum.existed_bytes));
  text(el, "mounted", w.countWords(p.sum.mounted, p.sum.mounted_bytes));
  text(el, "sent", w.countWords(p.sum.uploaded, p.sum.sent_bytes));
  text(el, "saved", p.sum.saved_ms > 0 ? w.spanWords(p.sum.saved_ms) : "–");
  text(el, "requests", p.sum.requests);
}

// fillBlobs fills the rows of a push's blobs. A blob that gets a digest keeps the
// row that it had as an upload.
function fillBlobs(list, blobs, now) {
  const rows = new Map([...list.children].map((el) => [el.dataset.digest, el]));
  for (const b of blobs) {
    const el = b.digest && rows.get(b.digest);
    if (el) el.dataset.key = b.upload || b.digest;
  }
  keyed(list, blobs, (b) => b.upload || b.digest, "blob", (el, b) => fillBlob(el, b, now));
}

function fillBlob(el, b, now) {
  el.className = `blob ${w.slug(b.state)}`;
  el.dataset.digest = b.digest || "";
  text(el, "short", w.shortDigest(b.digest) || "…");
  field(el, "short").title = b.digest || "";
  text(el, "kind", w.kindWords(b.media_type));
  text(el, "state", b.state);
  text(el, "detail", w.detailWords(b, now));
  fillBar(el, b);
}

// fillBar moves the bars of a blob. They go back only when the bytes really are
// sent, or received, again: a message that is late does not move them.
function fillBar(el, b) {
  show(el, "track", b.state !== "Layer already exists" && b.state !== "Mounted from");
  const [received, sent] = el.querySelectorAll("progress");
  const most = Math.max(b.size, 1), done = b.state === "Pushed", again = String(b.again || 0);
  const anew = el.dataset.again !== undefined && el.dataset.again !== again;
  el.dataset.again = again;
  received.max = sent.max = most;
  if (b.size < 0 && !done) { // nobody knows how long it is: a bar would be a guess
    received.removeAttribute("value");
    sent.value = 0;
  } else {
    const grown = (bar, n) => anew ? n : Math.max(bar.value, n); // its value is 0 while it has none
    received.value = done ? 0 : grown(received, b.received);
    sent.value = done ? most : grown(sent, b.sent);
  }
  sent.setAttribute("aria-label", `upstream ${w.ofWords(b.sent, b.size)}`);
}

export function fillFinished(el, p, now) {
  el.dataset.state = p.state;
  ref(el, p.upstream, p.repository, w.referenceWords(p));
  link(el, "link", p.id);
  text(el, "state", p.state);
  text(el, "why", p.why);
  show(el, "whybox", p.why);
  time(el, "finished", p.finished, now);
  fillTook(el, p, now);
  fillSum(el, p);
}

export function fillJob(el, j, now) {
  const reference = j.reference.includes(":") ? `@${w.shortDigest(j.reference)}` : `:${j.reference}`;
  el.dataset.state = j.state;
  ref(el, j.upstream, j.repository, reference);
  if (j.push) link(el, "link", j.push);
  for (const action of ["retry", "drop"]) {
    field(el, action).setAttribute("action", `/v1/jobs/${encodeURIComponent(j.id)}/${action}`);
    text(el, `${action}name`, j.repository + reference);
  }
  text(el, "state", j.state);
  text(el, "tries", j.tries);
  text(el, "why", j.why);
  show(el, "why", j.why);
  text(el, "bytes", w.bytesWords(j.bytes));
  time(el, "since", j.since, now);
  time(el, "next", j.next_try, now);
}

export function fillUpstream(el, u, now) {
  el.dataset.state = u.reachable;
  text(el, "host", u.host);
  text(el, "reachable", u.reachable);
  text(el, "why", u.why);
  show(el, "whybox", u.why);
  text(el, "credential", u.credential || "none");
  for (const [name, value] of [["since", u.since], ["expires", u.expires], ["paused", u.paused_until]]) {
    time(el, name, value, now);
    show(el, `${name}box`, w.millis(value));
  }
  const busy = u.uploading > 0 || u.waiting > 0;
  text(el, "now", busy ? `${u.uploading} uploading, ${u.waiting} waiting, ${w.bytesWords(u.rate)}/s` : "idle");
  text(el, "asked", `${w.plural(u.requests, "request")}, ${w.plural(u.failures, "failure")}`);
  for (const [name, list] of [["limits", u.limits || []], ["quirks", u.quirks || []]]) {
    show(el, `${name}box`, list.length);
    const items = list.map((words) => { const li = document.createElement("li"); li.textContent = words; return li; });
    field(el, name).replaceChildren(...items);
  }
}

export function fillStore(el, s, now) {
  for (const [name, n] of [["live", s.live_bytes], ["disk", s.disk_bytes], ["free", s.free_bytes]]) text(el, name, w.bytesWords(n));
  text(el, "blobs", s.blobs);
  text(el, "quota", s.quota > 0 ? w.bytesWords(s.quota) : "none");
  text(el, "readonly", s.read_only);
  show(el, "readonly", s.read_only);
  time(el, "oldest", s.oldest, now);
  show(el, "oldestbox", w.millis(s.oldest));
  const meter = field(el, "meter");
  meter.hidden = !(s.quota > 0);
  meter.max = Math.max(s.quota, 1);
  meter.value = Math.min(s.live_bytes, s.quota);
}
