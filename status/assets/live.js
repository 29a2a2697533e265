// The stream of changes, and what the top of the page says about it.
import { clockWords } from "./words.js";

// follow listens to /v1/events for good. take gets the name and the data of each
// event. Where a browser cannot, it says so and leaves the link to reload.
export function follow(take) {
  const state = document.getElementById("live");
  const words = state.querySelector('[data-f="text"]');
  const asOf = words.textContent;
  let last = Date.now(), wait = 1000, source = null, timer = 0;
  const say = (name, text) => { state.dataset.state = name; words.textContent = text; };
  const lost = (more) => say("lost", `Not connected; shown as of ${clockWords(last, Date.now())}.${more}`);
  if (typeof EventSource === "undefined") {
    say("never", `This browser cannot show changes as they happen (it has no EventSource). ${asOf}.`);
    return;
  }
  const close = () => { clearTimeout(timer); source?.close(); source = null; };
  const open = () => {
    close();
    source = new EventSource("/v1/events");
    source.onopen = () => { wait = 1000; say("live", "Live"); };
    source.onerror = () => {
      lost(" Trying again.");
      if (source.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
      timer = setTimeout(open, wait);
      wait = Math.min(wait * 2, 15000);
    };
    for (const name of ["snapshot", "push", "queue", "upstream", "store"]) {
      source.addEventListener(name, (e) => { last = Date.now(); take(name, JSON.parse(e.data)); });
    }
  };
  open();
  // A browser has six connections for one server, and each page would keep one:
  // a page that nobody sees gives its own back, and begins with all of it again.
  addEventListener("pagehide", close);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { close(); lost(""); } else if (!source) open();
  });
  addEventListener("pageshow", (e) => { if (e.persisted && !source) open(); });
}

// clock tells the server's time, which remote browsers may not agree with.
export const clock = {
  ahead: 0,
  set(now) { this.ahead = Date.parse(now) - Date.now(); },
  now() { return Date.now() + this.ahead; },
};

// framed returns a function that runs draw before the next frame, once however
// often it is called; a page that nobody looks at draws nothing.
export function framed(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  };
}

// teller says a few words to screen readers, at most every three seconds.
export function teller(el) {
  let waiting = [], timer = 0;
  const say = () => {
    timer = 0;
    if (!waiting.length) return;
    el.textContent = waiting.length > 3 ? `${waiting.length} pushes have ended.` : waiting.join(" ");
    waiting = [];
    timer = setTimeout(say, 3000);
  };
  return (words) => { waiting.push(words); if (!timer) say(); };
}

export const ended = (p) => ["done", "unchanged", "failed", "stopped"].includes(p.state);
