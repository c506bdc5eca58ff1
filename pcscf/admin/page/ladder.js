// The ladder of one UE: rows are only ever added, so nothing flickers and what is open stays open.

import { get, ueUrl } from "./api.js";

const LANES = { ue: 0, pcscf: 1, core: 2 };

const make = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

export class Ladder {
  constructor(list, frame, ue, follow) {
    this.list = list;
    this.frame = frame;
    this.ue = ue;
    this.follow = follow;
    this.last = 0;
    this.start = null;
    this.busy = false;
    this.again = false;
  }

  // Fetch what is new and add it. Calls while one is under way make one more, not many.
  async update() {
    if (this.busy) {
      this.again = true;
      return;
    }
    this.busy = true;
    try {
      do {
        this.again = false;
        const rows = await get(`${ueUrl(this.ue)}/ladder`, { after: this.last });
        this.add(rows);
      } while (this.again);
    } finally {
      this.busy = false;
    }
  }

  add(rows) {
    if (!rows.length) return;
    this.start ??= rows[0].at;
    const parts = rows.filter((row) => row.kind !== "attempt").map((row) => this.row(row));
    this.last = rows.at(-1).number;
    this.list.append(...parts);
    if (this.follow.checked) this.frame.scrollTop = this.frame.scrollHeight;
  }

  row(row) {
    const item = make("li", `step ${row.kind}`);
    item.dataset.number = row.number;
    item.append(make("time", "", (row.at - this.start).toFixed(3)));
    item.firstChild.title = new Date(row.at * 1000).toISOString();
    if (row.kind !== "message") {
      item.append(make("p", "remark", row.kind === "problem" ? `! ${row.text}` : row.text));
      return item;
    }
    const right = LANES[row.source] < LANES[row.destination];
    const lane = Math.min(LANES[row.source], LANES[row.destination]);
    const way = row.way === "esp" ? `ESP, SPI ${row.spi}` : "clear";
    const arrow = make("button", `arrow lane${lane} ${right ? "right" : "left"} ${lane ? "mw" : row.way}`);
    arrow.type = "button";
    arrow.disabled = !row.whole;
    arrow.setAttribute("aria-expanded", "false");
    const [first, last] = right ? [row.source_port, row.destination_port] : [row.destination_port, row.source_port];
    const label = make("span", "label", row.text);
    label.append(make("span", "way", lane ? row.transport : `${row.transport} ${way}`));
    arrow.append(make("span", "port", first || "any"), make("span", "shaft"), make("span", "port", last || "any"), label);
    arrow.setAttribute(
      "aria-label",
      `${row.text} from ${row.source} port ${row.source_port} to ${row.destination} port ${row.destination_port}, ${way}`,
    );
    arrow.addEventListener("click", () => this.open(item, arrow, row.number));
    item.append(arrow);
    return item;
  }

  async open(item, arrow, number) {
    const shown = item.querySelector("pre");
    if (shown) {
      shown.remove();
      arrow.setAttribute("aria-expanded", "false");
      return;
    }
    const text = make("pre", "whole", "…");
    item.append(text);
    arrow.setAttribute("aria-expanded", "true");
    try {
      text.textContent = (await get(`${ueUrl(this.ue)}/messages/${number}`)).text;
    } catch (error) {
      text.textContent = error.message;
    }
  }
}
