/** The progress of a map over a table: how far it is, how fast, its last rows, and its buttons. */

import { h, keepKeys, setAttribute, setText, show } from "../dom.ts";
import { formatClock, formatDuration, formatRate, joinFacts } from "../format.ts";
import type { Intent, MapRow, MapState } from "../protocol.ts";
import type { RenderProps } from "./load.ts";

const whole = (count: number): string => count.toLocaleString("en-US");
const rowsOf = ({ rows, total }: MapState): string =>
  total === null ? `${whole(rows)} rows` : `${whole(rows)} of ${whole(total)} rows`;
const isOver = ({ state }: MapState): boolean => state === "done" || state === "stopped" || state === "failed";

function titleOf(map: MapState, connected: boolean): string {
  if (!connected && !isOver(map)) return "Interrupted because the kernel has ended";
  switch (map.state) {
    case "running":
      return "Running";
    case "paused":
      return "Paused";
    case "stopping":
      return "Stopping";
    case "done":
      return "Done";
    case "stopped":
      return "Stopped; the rows that are done are kept";
    case "failed":
      return "Ended early; the rows that are done are in the cache";
  }
}

function rate(perS: number): string {
  return perS > 0 ? `${perS < 9.95 ? perS.toFixed(1) : whole(Math.round(perS))} rows/s` : "";
}

const counted = (count: number, word: string): string => (count > 0 ? `${whole(count)} ${word}` : "");

export function renderMapProgress({ store, el, signal }: RenderProps): void {
  const panel = new MapPanel(signal, (intent) => store.intents.send(intent, { signal }));
  el.append(panel.node);
  store.subscribe(({ map, connected }) => {
    panel.update(map, connected);
  }, signal);
}

class MapPanel {
  readonly node: HTMLElement;
  readonly #title = h("span", { class: "mlcw-map-title" });
  readonly #rows = h("span", { class: "mlcw-map-rows" });
  readonly #percent = h("span", { class: "mlcw-map-percent" });
  readonly #fill = h("div", { class: "mlcw-bar-fill" });
  readonly #bar = h(
    "div",
    { class: "mlcw-bar", role: "progressbar", "aria-label": "Rows", "aria-valuemin": "0" },
    this.#fill,
  );
  readonly #facts = h("span", { class: "mlcw-map-facts" });
  readonly #clock = h("span", { class: "mlcw-load-clock" });
  readonly #pause = h("button", { class: "mlcw-button", type: "button" });
  readonly #stop = h(
    "button",
    { class: "mlcw-button", type: "button", title: "Stop, and keep the rows that are done" },
    "Stop",
  );
  readonly #buttons = h("div", { class: "mlcw-map-buttons" }, this.#pause, this.#stop);
  readonly #error = h("div", { class: "mlcw-error-text" });
  readonly #head = h("tr");
  readonly #body = h("tbody");
  readonly #table = h(
    "div",
    { class: "mlcw-map-table", role: "region", "aria-label": "The last rows" },
    h("table", {}, h("thead", {}, this.#head), this.#body),
  );
  readonly #live = h("div", { class: "mlcw-sr", role: "status" });
  #map: MapState | null = null;
  #connected = true;
  #columns: readonly string[] | null = null;
  #reportedAt = 0;

  constructor(signal: AbortSignal, send: (intent: Intent) => Promise<void>) {
    this.node = h(
      "div",
      { class: "mlcw mlcw-map" },
      h("div", { class: "mlcw-map-head" }, this.#title, this.#rows, this.#percent),
      this.#bar,
      h("div", { class: "mlcw-load-below" }, this.#facts, this.#clock),
      this.#buttons,
      this.#error,
      this.#table,
      this.#live,
    );
    keepKeys(this.node, signal);
    const act = (button: HTMLButtonElement, intent: () => Intent): void => {
      button.addEventListener("click", () => {
        button.disabled = true;
        send(intent())
          .catch((error: unknown) => {
            setText(this.#error, error instanceof Error ? error.message : String(error));
            show(this.#error, true);
          })
          .finally(() => { button.disabled = false; });
      }, { signal });
    };
    act(this.#pause, () => ({ kind: this.#map?.state === "paused" ? "resume" : "pause" }));
    act(this.#stop, () => ({ kind: "stop" }));
    const ticker = setInterval(() => {
      this.#tick();
    }, 500);
    signal.addEventListener("abort", () => {
      clearInterval(ticker);
    });
  }

  update(map: MapState, connected: boolean): void {
    if (map === this.#map && connected === this.#connected) return;
    if (map !== this.#map) this.#reportedAt = performance.now();
    this.#map = map;
    this.#connected = connected;
    const over = isOver(map);
    const title = titleOf(map, connected);
    this.node.dataset["mlcwState"] = map.state;
    setText(this.#title, title);
    setText(this.#rows, rowsOf(map));
    this.#drawBar(map, over);
    const left = formatDuration(map.etaS);
    setText(
      this.#facts,
      joinFacts(
        rate(map.rowsPerS),
        formatRate(map.tokensPerS),
        !over && left ? `${left} left` : "",
        counted(map.errors, map.errors === 1 ? "error" : "errors"),
        counted(map.cached, "cached"),
        counted(map.skipped, "skipped"),
        counted(map.truncated, "cut off"),
      ),
    );
    this.#facts.classList.toggle("mlcw-map-has-errors", map.errors > 0);
    setText(this.#pause, map.state === "paused" ? "Resume" : "Pause");
    show(this.#pause, map.state !== "stopping");
    show(this.#buttons, !over && connected);
    setText(this.#error, map.firstError && `First error: ${map.firstError}`);
    show(this.#error, map.firstError !== "");
    this.#drawTable(map);
    // Announced when the state changes; the bar has the figures.
    setText(this.#live, over ? `${title}: ${rowsOf(map)}` : title);
    this.#tick();
  }

  #drawBar(map: MapState, over: boolean): void {
    const { total } = map;
    const share = total === null ? (over ? 1 : 0) : total === 0 ? 1 : Math.min(1, map.rows / total);
    const known = total !== null || over;
    this.#bar.classList.toggle("mlcw-bar-unknown", !known && this.#connected && map.state === "running");
    this.#fill.style.setProperty("--mlcw-share", String(share));
    setText(this.#percent, total === null ? "" : `${Math.floor(share * 100)} %`);
    setAttribute(this.#bar, "aria-valuemax", total === null ? null : String(total));
    setAttribute(this.#bar, "aria-valuenow", total === null ? null : String(Math.min(map.rows, total)));
    setAttribute(this.#bar, "aria-valuetext", rowsOf(map));
  }

  #drawTable(map: MapState): void {
    show(this.#table, map.last.length > 0);
    if (map.columns.join("\n") !== this.#columns?.join("\n")) {
      this.#columns = map.columns;
      this.#head.replaceChildren(
        ...["row", ...map.columns].map((name) => h("th", { scope: "col" }, name)),
      );
    }
    this.#body.replaceChildren(...map.last.map((row) => this.#drawRow(row)));
  }

  #drawRow(row: MapRow): HTMLElement {
    const width = this.#columns?.length ?? 0;
    const cells = Array.from({ length: width }, (_, index) => {
      const text = row.cells[index] ?? "";
      return h("td", { title: text, dir: "auto" }, text);
    });
    if (row.error !== null) {
      cells[Math.max(0, width - 1)] = h("td", { class: "mlcw-map-error", title: row.error }, row.error);
    }
    return h(
      "tr",
      row.cached ? { class: "mlcw-map-cached" } : {},
      h("th", { scope: "row" }, whole(row.index)),
      ...cells,
    );
  }

  #tick(): void {
    const map = this.#map;
    if (!map) return;
    const runs = map.state === "running" && this.#connected;
    const since = runs ? (performance.now() - this.#reportedAt) / 1000 : 0;
    setText(this.#clock, isOver(map) ? formatDuration(map.elapsed) : formatClock(map.elapsed + since));
  }
}
