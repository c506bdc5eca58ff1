// The page: one address for each view, updates in place, and nothing is drawn anew that has not changed.

import { Refused, Stream, download, get, send, setToken, ueUrl } from "./api.js";
import { Chart } from "./charts.js";
import { Ladder } from "./ladder.js";

const $ = (id) => document.getElementById(id);
const LIMIT = 25;
const PROBLEMS = 50;
const SAMPLES = 600;
const KINDS = "problem,sample";

let view = null;
let stream = null;
let hello = null;
let samples = [];

const text = (name, className, words) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = words;
  return made;
};

// Write only what is different, so that selections and the screen stay still.
const put = (element, words) => {
  if (element.textContent !== String(words)) element.textContent = words;
};

const seconds = (value) => {
  if (value === null || value === undefined) return "–";
  const left = Math.max(0, Math.round(value));
  if (left < 120) return `${left} s`;
  if (left < 7200) return `${Math.floor(left / 60)} min`;
  if (left < 172800) return `${Math.floor(left / 3600)} h`;
  return `${Math.floor(left / 86400)} d`;
};

const clock = (epoch) => new Date(epoch * 1000).toLocaleTimeString([], { hour12: false });
const numberOf = (uris) => {
  const found = uris.map((each) => /(?:sips?|tel):([^@;>]+)/.exec(each)).find((each) => each && /^\+?\d+$/.test(each[1]));
  return found ? found[1] : "";
};

let noticeTimer = 0;
const notice = (words) => {
  put($("notice"), words);
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => put($("notice"), ""), 6000);
};

// Anything that fails is said; a token that is refused is asked for.
const guarded = async (work) => {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Refused && error.status === 401) login(error.message);
    else notice(error instanceof Refused ? error.message : "the P-CSCF does not answer");
    return undefined;
  }
};

const login = (why) => {
  put($("login-error"), sessionStorage.getItem("token") ? why : "");
  if (!$("login").open) $("login").showModal();
};

$("login").addEventListener("close", () => {
  const given = $("token").value.trim();
  $("token").value = "";
  if (!given) return login("");
  setToken(given);
  begin();
});

const confirmed = (title, words, label) =>
  new Promise((resolve) => {
    put($("confirm-title"), title);
    put($("confirm-text"), words);
    put($("confirm-yes"), label);
    const done = (value) => () => {
      $("confirm").close();
      resolve(value);
    };
    $("confirm-yes").onclick = done(true);
    $("confirm-no").onclick = done(false);
    $("confirm").oncancel = () => resolve(false);
    $("confirm").showModal();
    $("confirm-no").focus();
  });

const inform = (title, ...parts) => {
  put($("info-title"), title);
  $("info-body").replaceChildren(...parts);
  $("info").showModal();
};
$("info-close").onclick = () => $("info").close();

const summarise = (sample) => {
  const sets = Object.entries(sample.sets).map(([state, count]) => `${count} ${state}`);
  const sas = sample.sas === null ? "unknown" : sample.sas;
  put($("summary"), `${sample.registered} registered · sets: ${sets.join(", ") || "none"} · ${sas} SAs, ${sample.believed} believed`);
  $("fault").hidden = !sample.fault;
  put($("fault"), sample.fault ? `Protected ports are not served: ${sample.fault}` : "");
};

// Views. Each has `close`, `on(type, payload)` and `refresh`.

class Overview {
  stream = { kinds: KINDS };

  constructor(main) {
    main.replaceChildren($("overview").content.cloneNode(true));
    document.title = "P-CSCF";
    this.charts = [...main.querySelectorAll(".chart")].map((figure) => new Chart(figure));
    this.offset = 0;
    this.rows = new Map();
    this.timer = 0;
    this.listed = 0;
    this.seconds = 0;
    $("search").addEventListener("input", () => this.again());
    $("state").addEventListener("change", () => this.again());
    $("previous").addEventListener("click", () => this.turn(-LIMIT));
    $("next").addEventListener("click", () => this.turn(LIMIT));
    this.every = setInterval(() => this.list(), 5000);
    this.refresh();
  }

  close() {
    clearInterval(this.every);
    clearTimeout(this.timer);
  }

  again() {
    this.offset = 0;
    this.list();
  }

  turn(by) {
    this.offset = Math.max(0, this.offset + by);
    this.list();
  }

  async refresh() {
    await guarded(async () => {
      samples = await get("/api/samples");
      this.draw();
      const problems = await get("/api/journal", { kind: "problem", newest: true, limit: PROBLEMS });
      for (const row of problems.reverse()) this.problem(row);
      await Promise.all([this.list(), this.hops()]);
    });
  }

  draw() {
    if (samples.length) summarise(samples.at(-1));
    for (const each of this.charts) each.show(samples);
  }

  on(type, payload) {
    if (type === "sample") {
      this.draw();
      this.seconds += 1;
      if (this.seconds % 3 === 0) this.hops();
    } else if (type === "record") {
      this.problem(payload);
    } else if (type === "changed") {
      if (!this.timer) this.timer = setTimeout(() => this.list(), Math.max(100, this.listed + 1000 - Date.now()));
    }
  }

  async list() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.listed = Date.now();
    const asked = { search: $("search").value.trim(), state: $("state").value, offset: this.offset, limit: LIMIT };
    const page = await guarded(() => get("/api/registrations", asked));
    if (!page || view !== this || asked.search !== $("search").value.trim()) return;
    put($("total"), page.total);
    const first = page.items.length ? page.offset + 1 : 0;
    put($("place"), `${first}–${page.offset + page.items.length} of ${page.total}`);
    $("previous").disabled = !page.offset;
    $("next").disabled = page.offset + page.items.length >= page.total;
    $("nobody").hidden = page.items.length > 0;
    put($("nobody"), asked.search || asked.state ? "Nobody fits." : "Nobody has registered yet.");
    const body = document.querySelector("#registrations tbody");
    const wanted = new Set(page.items.map((each) => each.ue));
    for (const [ue, row] of this.rows) {
      if (!wanted.has(ue)) {
        row.remove();
        this.rows.delete(ue);
      }
    }
    page.items.forEach((each, place) => {
      const row = this.row(each);
      if (body.children[place] !== row) body.insertBefore(row, body.children[place] || null);
    });
  }

  row(each) {
    let row = this.rows.get(each.ue);
    if (!row) {
      row = document.createElement("tr");
      const link = text("a", "", each.impi);
      link.title = each.impi;
      link.href = `#/ue/${encodeURIComponent(each.ue)}`;
      const cell = document.createElement("td");
      cell.append(link);
      row.append(cell, ...["", "mono", "", "", "number"].map((name) => text("td", name, "")));
      this.rows.set(each.ue, row);
    }
    const [, number, address, states, algorithms, left] = row.children;
    put(number, numberOf(each.associated_uris) || "–");
    put(address, each.address);
    const words = each.in_clear ? ["in clear"] : each.states;
    if (states.textContent !== words.join("")) states.replaceChildren(...words.map((word) => text("span", `state ${word}`, word)));
    put(algorithms, each.algorithms || "–");
    put(left, each.registered ? seconds(each.expires_in) : "waiting");
    return row;
  }

  async hops() {
    const found = await guarded(() => get("/api/hops"));
    if (!found || view !== this) return;
    const list = $("hops");
    if (!found.hops.length) {
      list.replaceChildren(text("li", "empty", "None is known yet: nothing has been sent to the core."));
      return;
    }
    for (const each of list.querySelectorAll(".empty")) each.remove();
    const names = new Set(found.hops.map((each) => each.name));
    for (const each of [...list.children]) if (!names.has(each.dataset.hop)) each.remove();
    for (const each of found.hops) {
      let item = [...list.children].find((known) => known.dataset.hop === each.name);
      if (!item) {
        item = document.createElement("li");
        item.dataset.hop = each.name;
        const button = text("button", "", "");
        button.type = "button";
        button.addEventListener("click", () => this.switch(item.dataset.hop, item.dataset.state !== "disabled"));
        item.append(text("span", "mono", each.name), " ", text("span", "state", ""), " ", button, text("p", "muted", ""));
        list.append(item);
      }
      item.dataset.state = each.state;
      const [, state, button, words] = item.children;
      put(state, each.state);
      state.className = `state ${each.state}`;
      put(button, each.state === "disabled" ? "Enable" : "Disable");
      put(words, `${each.answered} answered, ${each.failed} failed${each.words ? `; ${each.words}` : ""}`);
    }
  }

  async switch(name, off) {
    const question = off
      ? await confirmed(`Disable ${name}?`, "Nothing is sent there any more until it is enabled again.", "Disable")
      : true;
    if (!question) return;
    await guarded(() => send("PUT", `/api/hops/${encodeURIComponent(name)}`, { enabled: !off }));
    await this.hops();
  }

  // The newest first. What the stream brings may be newer than the list that was asked for before it.
  problem(row) {
    const list = $("problems");
    const older = [...list.children].find((each) => Number(each.dataset.number) <= row.number);
    if (older && Number(older.dataset.number) === row.number) return;
    $("no-problems").hidden = true;
    const item = document.createElement("li");
    item.dataset.number = row.number;
    item.append(text("time", "", clock(row.record.at + (hello ? hello.epoch : 0))));
    const whose = row.record.impi.split("@")[0] || (row.record.flow && row.record.flow[4]);
    if (whose) item.append(text("strong", "", whose), " ");
    item.append(row.record.detail);
    list.insertBefore(item, older || null);
    while (list.children.length > PROBLEMS) list.lastChild.remove();
  }
}

class Ue {
  constructor(main, ue) {
    this.ue = ue;
    this.stream = { kinds: "sample", ue };
    this.samples = 0;
    main.replaceChildren($("ue").content.cloneNode(true));
    document.title = `${ue.split("@")[0]} – P-CSCF`;
    put($("impi"), ue);
    this.ladder = new Ladder($("ladder"), $("ladder-frame"), ue, $("follow"));
    this.sets = new Map();
    $("deregister").onclick = () => this.act("deregister", "Deregister this UE?",
      "Its SAs and calls end here at once. Neither the UE nor the core is told: what the UE sends is dropped until it registers again.", "Deregister");
    $("reauthenticate").onclick = () => this.act("reauthenticate", "Have it authenticate again?",
      "The core will hear its next REGISTER as unprotected, and challenge it. When that comes is for the UE to decide.", "Re-authenticate");
    $("traced").onchange = () =>
      guarded(() => send("PUT", `${ueUrl(ue)}/trace-level`, { level: $("traced").checked ? "log" : "normal" }));
    $("pcapng").onclick = () => guarded(() => download(`${ueUrl(ue)}/trace?form=pcapng`));
    $("html").onclick = () => guarded(() => download(`${ueUrl(ue)}/trace?form=html`));
    $("profile").onclick = () => guarded(() => download("/api/keys/profile"));
    this.refresh();
  }

  close() {}

  async act(what, title, words, label) {
    if (!(await confirmed(title, words, label))) return;
    await guarded(async () => {
      await send("POST", `${ueUrl(this.ue)}/${what}`);
      notice(`${label}: done`);
      await this.refresh();
    });
  }

  async refresh() {
    await guarded(() => Promise.all([this.state(), this.explain(), this.ladder.update()]));
  }

  on(type) {
    if (type === "ue") this.refresh();
    else if (type === "sample") {
      if (samples.length) summarise(samples.at(-1));
      this.samples += 1;
      guarded(() => (this.samples % 3 ? this.state() : Promise.all([this.state(), this.explain()])));
    }
  }

  async state() {
    const found = await get(ueUrl(this.ue));
    if (view !== this) return;
    const each = found.registration;
    put($("impi"), found.impi);
    const told = each && each.registered
      ? `${each.associated_uris.map((uri) => uri.replace(/[<>]/g, "")).join(", ")} · registered for another ${seconds(each.expires_in)}`
      : "not registered";
    put($("who"), `${found.address} · ${told}${each && each.to_challenge ? " · its next REGISTER will be challenged" : ""}`);
    $("deregister").disabled = !each;
    $("reauthenticate").disabled = !(each && each.registered && !each.in_clear);
    $("profile").hidden = !(hello && hello.key_export && hello.scope === "keys");
    if (document.activeElement !== $("traced")) $("traced").checked = found.traced;
    $("no-sets").hidden = found.sets.length > 0;
    const ids = new Set(found.sets.map((set) => set.id));
    for (const [id, box] of this.sets) {
      if (!ids.has(id)) {
        box.remove();
        this.sets.delete(id);
      }
    }
    for (const set of found.sets) this.set(set);
  }

  set(set) {
    let box = this.sets.get(set.id);
    if (!box) {
      box = text("div", "set", "");
      box.dataset.set = set.id;
      const heads = ["SPI", "Direction", "Ports", "Packets", "Octets", "Replayed", "Bad ICV", "Idle"];
      const table = document.createElement("table");
      const row = table.createTHead().insertRow();
      row.append(...heads.map((head, place) => text("th", place > 2 ? "number" : "", head)));
      table.createTBody();
      const about = document.createElement("p");
      about.append(text("strong", "", `Set ${set.id}`), text("span", "state", ""), text("span", "mono", set.chosen),
        text("span", "muted", ""), text("span", "muted", set.why));
      const frame = text("div", "scroll", "");
      frame.append(table);
      box.append(about, frame);
      this.sets.set(set.id, box);
      $("sets").append(box);
    }
    const [, state, , left] = box.firstChild.children;
    put(state, set.state);
    state.className = `state ${set.state}`;
    put(left, `${seconds(set.expires_in)} left`);
    const body = box.querySelector("tbody");
    while (body.rows.length > set.sas.length) body.lastChild.remove();
    set.sas.forEach((sa, place) => {
      const row = body.rows[place] || body.insertRow();
      const values = [sa.spi, sa.uplink ? "UE → P-CSCF" : "P-CSCF → UE", `${sa.source_port} → ${sa.destination_port}`,
        sa.packets, sa.bytes, sa.replay_drops, sa.integrity_failures, seconds(sa.idle)];
      values.forEach((value, column) => {
        const cell = row.cells[column] || row.insertCell();
        cell.className = column > 2 ? "number" : column ? "" : "mono";
        if (column > 4 && column < 7 && value) cell.classList.add("bad");
        if (cell.textContent !== "" && cell.textContent !== String(value) && column === 3) cell.classList.add("moved");
        put(cell, value);
      });
    });
  }

  async explain() {
    let found;
    try {
      found = await get(`${ueUrl(this.ue)}/explanation`);
    } catch (error) {
      if (error.status !== 404) throw error;
      if (view === this) $("verdict").replaceChildren(text("p", "empty", error.message));
      return;
    }
    if (view !== this) return;
    const parts = found.causes.map((cause) => {
      const made = text("div", `verdict ${cause.verdict}`, "");
      made.dataset.verdict = cause.verdict;
      made.append(text("strong", "", cause.text), text("p", "muted", cause.advice));
      return made;
    });
    const words = found.causes.map((each) => each.text + each.advice).join();
    if (words !== this.words) {
      this.words = words;
      $("verdict").replaceChildren(...parts);
    }
    const steps = found.steps.map((step) => {
      const made = text("li", step.at === null ? "" : "done", step.text);
      if (step.at !== null) made.title = `${step.at.toFixed(3)} s`;
      return made;
    });
    const reached = found.steps.map((step) => step.at).join();
    if (reached !== this.reached) {
      this.reached = reached;
      $("steps").replaceChildren(...steps);
      const pairs = [["offered", found.offered || "–"], ["chosen", found.chosen || "–"], ["why", found.why || "–"],
        ["evidence", found.evidence.join("; ") || "–"]];
      $("choice").replaceChildren(...pairs.flatMap(([name, value]) => [text("dt", "", name), text("dd", "", value)]));
    }
  }
}

// The one stream, the address, the keyboard.

const listen = () => {
  if (stream) stream.close();
  stream = new Stream(
    view.stream,
    (type, payload) => {
      if (type === "hello") {
        const anew = hello && hello.started !== payload.started;
        hello = payload;
        if (anew) notice("the P-CSCF was started anew");
        if (anew) show();
        return;
      }
      if (type === "lost") return void view.refresh();
      if (type === "sample") samples = [...samples, payload].slice(-SAMPLES);
      view.on(type, payload);
    },
    (live, why, status) => {
      put($("link"), live ? "live" : why);
      $("link").classList.toggle("live", live);
      if (status === 401) login(why);
      if (live) view.refresh();
    },
  );
};

const show = () => {
  if (view) view.close();
  const place = /^#\/ue\/(.+)$/.exec(location.hash);
  view = place ? new Ue($("main"), decodeURIComponent(place[1])) : new Overview($("main"));
  listen();
};

const begin = () => {
  const given = /token=([\w-]+)/.exec(location.hash);
  if (given) {
    setToken(given[1]);
    history.replaceState(null, "", "#/");
  }
  if (!sessionStorage.getItem("token")) return login("");
  show();
};

window.addEventListener("hashchange", () => {
  show();
  $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});

const theme = (name) => {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
};
const dark = matchMedia("(prefers-color-scheme: dark)");
const chosen = localStorage.getItem("theme");
document.documentElement.dataset.theme = chosen || (dark.matches ? "dark" : "light");
dark.addEventListener("change", () => {
  if (!localStorage.getItem("theme")) document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
});
$("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");

$("more").onclick = () =>
  guarded(async () => {
    const [status, configuration] = await Promise.all([get("/api/status"), get("/api/configuration")]);
    const about = text("p", "", `Version ${status.version}, process ${status.pid}, since ${new Date(status.started * 1000).toLocaleString()}; ${status.backend} ESP (${status.reason})`);
    const reload = text("button", "", "Reload the configuration file");
    reload.type = "button";
    reload.onclick = () =>
      guarded(async () => {
        const done = await send("POST", "/api/reload");
        $("info").close();
        notice(`taken: ${done.taken.join(", ") || "nothing has changed"}${done.needs_restart.length ? `; needs a restart: ${done.needs_restart.join(", ")}` : ""}`);
      });
    inform("Instance", about, text("pre", "whole", JSON.stringify(configuration, null, 2)), reload);
  });

const KEYS = [["/", "search"], ["↑ ↓", "from one registration to the next"], ["Enter", "open it"], ["Escape", "back to all"],
  ["t", "light or dark"], ["i", "instance and configuration"], ["?", "this"]];
$("keyboard").onclick = () => {
  const list = document.createElement("dl");
  list.append(...KEYS.flatMap(([key, words]) => [text("dt", "mono", key), text("dd", "", words)]));
  inform("Keyboard", list);
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (location.hash.startsWith("#/ue/")) location.hash = "#/";
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const links = [...document.querySelectorAll("#registrations a")];
    if (!links.length || event.target.tagName === "SELECT") return;
    const place = links.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    if (place >= 0 && place < links.length) {
      links[place].focus();
      event.preventDefault();
    }
  } else if (!typing) {
    const wanted = { "/": () => $("search")?.focus(), t: $("theme").onclick, i: $("more").onclick, "?": $("keyboard").onclick }[event.key];
    if (wanted) {
      event.preventDefault();
      wanted();
    }
  }
});

begin();
