// Small charts of the last minutes, ten at most: lines, the value at their end, and what was there under the pointer.

const WIDTH = 320;
const HEIGHT = 90;
const LONGEST = 600;
const SHORTEST = 60;
const SVG = "http://www.w3.org/2000/svg";

const svg = (name, attributes) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

const short = (value) =>
  value >= 10000 ? `${(value / 1000).toFixed(0)}k` : value >= 100 ? value.toFixed(0) : `${+value.toFixed(value < 1 ? 2 : 1)}`;
const milliseconds = (value) => `${short(value * 1000)} ms`;

const KINDS = {
  challenges: { title: "Challenges a second", unit: short, series: () => ({ challenges: (s) => s.challenges }) },
  latency: {
    title: "Time to the 401",
    unit: milliseconds,
    series: () => ({ p50: (s) => s.p50, p99: (s) => s.p99 }),
  },
  registrations: {
    title: "Registered",
    unit: short,
    series: () => ({ registered: (s) => s.registered, waiting: (s) => s.sets.temporary || 0 }),
  },
  drops: {
    title: "Packets dropped",
    unit: short,
    series: (samples) => {
      const causes = Object.keys(samples.at(-1)?.drops || {}).sort();
      return Object.fromEntries(causes.slice(0, 6).map((cause) => [cause, (s) => s.drops[cause] || 0]));
    },
  },
};

export class Chart {
  constructor(figure) {
    this.kind = KINDS[figure.dataset.chart];
    this.caption = document.createElement("figcaption");
    this.title = document.createElement("span");
    this.title.textContent = this.kind.title;
    this.values = document.createElement("span");
    this.values.className = "values";
    this.caption.append(this.title, this.values);
    this.picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.top = document.createElement("span");
    this.top.className = "top";
    figure.replaceChildren(this.caption, this.picture, this.top);
    this.samples = [];
    this.at = null;
    this.picture.addEventListener("pointermove", (event) => {
      const box = this.picture.getBoundingClientRect();
      this.at = (event.clientX - box.left) / box.width;
      this.draw();
    });
    this.picture.addEventListener("pointerleave", () => {
      this.at = null;
      this.draw();
    });
  }

  show(samples) {
    this.samples = samples;
    this.draw();
  }

  draw() {
    const samples = this.samples;
    if (!samples.length) return;
    const end = samples.at(-1).at;
    const span = Math.min(LONGEST, Math.max(SHORTEST, end - samples[0].at));
    const x = (s) => WIDTH * (1 - (end - s.at) / span);
    const series = Object.entries(this.kind.series(samples));
    let top = 0;
    for (const [, read] of series) for (const s of samples) top = Math.max(top, read(s) ?? 0);
    top = top || 1;
    const y = (value) => HEIGHT - 3 - (HEIGHT - 8) * (value / top);
    const lines = series.map(([, read], index) => {
      let path = "";
      let down = false;
      for (const s of samples) {
        const value = read(s);
        if (value === null || value === undefined) {
          down = false;
          continue;
        }
        path += `${down ? "L" : "M"}${x(s).toFixed(1)} ${y(value).toFixed(1)}`;
        down = true;
      }
      return svg("path", { d: path || "M0 0", class: `line s${index}` });
    });
    let shown = samples.at(-1);
    if (this.at !== null) {
      const wanted = end - span * (1 - this.at);
      shown = samples.reduce((best, s) => (Math.abs(s.at - wanted) < Math.abs(best.at - wanted) ? s : best));
      lines.push(svg("path", { d: `M${x(shown).toFixed(1)} 0V${HEIGHT}`, class: "cursor" }));
    }
    this.picture.replaceChildren(...lines);
    const told = series.map(([name, read], index) => {
      const value = read(shown);
      const made = document.createElement("span");
      made.className = `value s${index}`;
      made.textContent = `${name} ${value === null || value === undefined ? "–" : this.kind.unit(value)}`;
      return made;
    });
    if (!told.length) told.push(Object.assign(document.createElement("span"), { className: "value", textContent: "none" }));
    this.values.replaceChildren(...told);
    this.top.textContent = this.kind.unit(top);
    this.picture.setAttribute("aria-label", `${this.kind.title}: ${told.map((each) => each.textContent).join(", ")}`);
  }
}
