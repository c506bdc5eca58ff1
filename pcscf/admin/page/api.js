// The API: requests with the token, and the stream of events, which comes back by itself.

let token = sessionStorage.getItem("token") || "";

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export const setToken = (value) => {
  token = value;
  sessionStorage.setItem("token", value);
};

const headers = (more = {}) => ({ Authorization: `Bearer ${token}`, ...more });

const checked = async (answer) => {
  if (answer.ok) return answer;
  let detail = answer.statusText;
  try {
    detail = (await answer.json()).detail;
  } catch {
    // not problem details
  }
  throw new Refused(answer.status, detail);
};

export const get = async (path, query = {}) => {
  const wanted = Object.entries(query).filter(([, value]) => value !== "" && value !== undefined);
  const words = new URLSearchParams(wanted).toString();
  return (await checked(await fetch(words ? `${path}?${words}` : path, { headers: headers() }))).json();
};

export const send = async (method, path, body) => {
  const json = body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await checked(
    await fetch(path, { method, headers: headers(json), body: body === undefined ? undefined : JSON.stringify(body) }),
  );
  return answer.status === 204 ? null : answer.json();
};

export const download = async (path) => {
  const answer = await checked(await fetch(path, { headers: headers() }));
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") || "");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name ? name[1] : "download";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

export const ueUrl = (ue) => `/api/ues/${encodeURIComponent(ue)}`;

// One stream at a time. `on(type, payload)` hears its events; `state(live, why)` of its going and coming.
export class Stream {
  constructor(query, on, state) {
    this.query = query;
    this.on = on;
    this.state = state;
    this.gone = new AbortController();
    this.run();
  }

  close() {
    this.gone.abort();
  }

  async run() {
    let wait = 250;
    while (!this.gone.signal.aborted) {
      try {
        const words = new URLSearchParams(Object.entries(this.query).filter(([, value]) => value));
        const answer = await checked(
          await fetch(`/api/stream?${words}`, { headers: headers(), signal: this.gone.signal }),
        );
        this.state(true, "");
        wait = 250;
        await this.read(answer.body.getReader());
        this.state(false, "the P-CSCF has gone");
      } catch (error) {
        if (this.gone.signal.aborted) return;
        this.state(false, error instanceof Refused ? error.message : "the P-CSCF does not answer", error.status);
        if (error.status === 401) return;
      }
      await new Promise((resolve) => setTimeout(resolve, wait));
      wait = Math.min(wait * 2, 4000);
    }
  }

  async read(reader) {
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const line = part.split("\n").find((each) => each.startsWith("data: "));
        if (line) {
          const { type, payload } = JSON.parse(line.slice(6));
          this.on(type, payload);
        }
      }
    }
  }
}
