// The twin of view_words.go and of what it uses of text.go: the same words for the same JSON.

export function bytesWords(n) {
  if (n < 1000) return `${Math.max(n, 0)} B`;
  let unit = 1000, at = 0;
  while (Math.floor(n / unit) >= 1000 && at < 4) { unit *= 1000; at++; }
  const name = ["kB", "MB", "GB", "TB", "PB"][at];
  const whole = Math.floor(n / unit);
  if (whole < 10) return `${whole}.${String(Math.floor(n / (unit / 100)) % 100).padStart(2, "0")} ${name}`;
  if (whole < 100) return `${whole}.${Math.floor(n / (unit / 10)) % 10} ${name}`;
  return `${whole} ${name}`;
}

export function spanWords(ms) {
  ms = Math.max(Math.floor(ms), 0);
  const s = Math.floor(ms / 1000);
  if (s < 1) return `${ms} ms`;
  if (s < 60 && ms % 1000 < 100) return `${s} s`;
  if (s < 60) return `${s}.${Math.floor(ms / 100) % 10} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

// secondsWords is spanWords without parts of a second, for what is growing.
export function secondsWords(ms) { return spanWords(Math.max(Math.floor(ms / 1000), 1) * 1000); }

// millis reads a time of the JSON; 0 where there is none.
export function millis(time) {
  const ms = time ? Date.parse(time) : 0;
  return ms > 0 ? ms : 0;
}

const two = (n) => String(n).padStart(2, "0");

export function clockWords(ms, now) {
  const t = new Date(ms), n = new Date(now);
  const time = `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
  if (t.toDateString() === n.toDateString()) return time;
  return `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())} ${time}`;
}

export function shortDigest(d) {
  const colon = (d || "").indexOf(":");
  return (d || "").slice(colon + 1, colon + 13);
}

export function kindWords(mediaType) {
  const kinds = [["image.index", "index"], ["manifest.list", "index"], ["manifest", "manifest"], ["config", "config"],
    ["container.image.v1", "config"], ["layer", "layer"], ["rootfs.diff", "layer"]];
  const kind = kinds.find(([part]) => (mediaType || "").includes(part));
  return kind ? kind[1] : "blob";
}

export function detailWords(b, now) {
  switch (b.state) {
    case "Layer already exists": return sizeWords(b);
    case "Mounted from": return joinWords(b.from, sizeWords(b));
    case "Pushed": {
      const began = millis(b.send_began), took = millis(b.send_ended) - began;
      if (began && took > 0) return joinWords(`${sizeWords(b)} in ${spanWords(took)}`, rateWords(b.size, took), againWords(b));
      return joinWords(sizeWords(b), againWords(b));
    }
    case "Failed": return b.why || "";
    case "Retrying": return joinWords(retryWords(b, now), movedWords(b));
  }
  return joinWords(movedWords(b), againWords(b));
}

function movedWords(b) {
  const parts = [];
  if (b.received > 0 && b.received === b.size) parts.push(`received ${bytesWords(b.received)}`);
  else if (b.received > 0 || b.state === "Receiving") parts.push(`received ${ofWords(b.received, b.size)}`);
  if (b.sent > 0 || b.state === "Pushing") parts.push(`upstream ${ofWords(b.sent, b.size)}`);
  return joinWords(...parts);
}

function retryWords(b, now) {
  const left = millis(b.retry_at) - now;
  return (left > 0 ? `in ${secondsWords(left + 999)}` : "now") + (b.why ? ` because ${b.why}` : "");
}

function againWords(b) {
  if (!b.again || b.again <= 0) return "";
  return b.again === 1 ? "sent again" : `sent again ${b.again} times`;
}

export function ofWords(n, of) {
  return of < 0 ? bytesWords(n) : `${bytesWords(n)} of ${bytesWords(of)}`;
}

function sizeWords(b) { return b.size < 0 ? "" : bytesWords(b.size); }

function rateWords(n, ms) {
  return n <= 0 || ms < 10 ? "" : `at ${bytesWords(Math.trunc(n / (ms / 1000)))}/s`;
}

export function countWords(n, bytes) { return n ? `${n} · ${bytesWords(bytes)}` : "–"; }

export function joinWords(...parts) { return parts.filter(Boolean).join(" · "); }

export function plural(n, one) { return n === 1 ? `1 ${one}` : `${n} ${one}s`; }

export function referenceWords(p) {
  const tags = p.tags || [];
  if (tags.length > 3) return `:${tags.slice(0, 3).join(", ")} and ${tags.length - 3} more`;
  if (tags.length > 0) return `:${tags.join(", ")}`;
  return p.digest ? `@${shortDigest(p.digest)}` : "";
}

const there = ["Pushed", "Layer already exists", "Mounted from"];

export function summaryWords(blobs) {
  const n = blobs.filter((b) => there.includes(b.state)).length;
  return blobs.length === 1 ? `${n} of 1 blob is upstream` : `${n} of ${blobs.length} blobs are upstream`;
}

export function slug(state) {
  return { Receiving: "receiving", Pushing: "pushing", Retrying: "retrying", Pushed: "pushed", "Layer already exists": "exists",
    "Mounted from": "mounted", Failed: "failed" }[state] || "waiting";
}
