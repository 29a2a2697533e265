// The page of one push: its bars as they move; its explanation and time line as
// the server draws them, fetched anew while the push goes on.
import { clock, ended, follow, framed, teller } from "./live.js";
import * as rows from "./rows.js";
import { referenceWords } from "./words.js";

const el = document.getElementById("push");
const tell = teller(document.getElementById("told"));
let push = null, over = ended({ state: el.dataset.state }), timer = 0, asked = 0;

const draw = framed(() => { if (push) rows.fillPush(el, push, clock.now()); });

// refresh puts the server's own explanation and time line in the place of those
// that are shown. What an XMLHttpRequest parses runs no script.
function refresh() {
  timer = 0;
  asked = Date.now();
  const request = new XMLHttpRequest();
  request.open("GET", location.pathname);
  request.responseType = "document";
  request.onload = () => {
    for (const id of ["timeline", "explanation"]) {
      const fresh = request.response?.getElementById(id), old = document.getElementById(id);
      if (!fresh || fresh.isEqualNode(old)) continue;
      const open = old.querySelector("details")?.open;
      old.replaceChildren(...document.importNode(fresh, true).childNodes);
      if (open) old.querySelector("details").open = true;
    }
  };
  request.send();
}

function refreshSoon() {
  if (!timer) timer = setTimeout(refresh, Math.max(50, asked + 2000 - Date.now()));
}

function take(p) {
  if (p.id !== el.dataset.key) return;
  push = p;
  draw();
  if (over && ended(p)) return;
  refreshSoon();
  if (ended(p)) tell(`${p.repository}${referenceWords(p)}: ${p.state}.`);
  over = ended(p); // a push that ended may go on after all
}

follow((name, data) => {
  if (name === "push") take(data);
  if (name !== "snapshot") return;
  clock.set(data.now);
  for (const p of [...data.pushes, ...data.finished]) take(p);
});

setInterval(() => { if (push && !over) draw(); }, 1000);
