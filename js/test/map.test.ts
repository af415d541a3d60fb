import { describe, expect, it, vi } from "vitest";

import { FakeModel } from "./fakes.ts";
import { box, frame, query, show } from "./page.ts";

const running = {
  rev: 1, state: "running", total: 40, rows: 10, cached: 2, skipped: 0, errors: 1, truncated: 0,
  rows_per_s: 12.34, tokens_per_s: 250, elapsed: 3, eta_s: 2.5, first_error: "row 3: a bug",
  columns: ["text", "reply"], last: [{ index: 9, cells: ["a", "b"], error: null, cached: true }],
};

function open(map: unknown): FakeModel {
  return show({ _view: "map", _map: map });
}
const button = (name: string): HTMLButtonElement => {
  const found = [...box.querySelectorAll("button")].find((item) => item.textContent === name);
  if (!found) throw new Error(`no button ${name}`);
  return found;
};

describe("map", () => {
  it("shows how far it is, how fast, and the last rows", () => {
    open(running);
    const bar = query('[role="progressbar"]');
    expect(["aria-valuenow", "aria-valuemax", "aria-valuetext"].map((name) => bar.getAttribute(name)))
      .toEqual(["10", "40", "10 of 40 rows"]);
    expect(query(".mlcw-map-facts").textContent)
      .toBe("12 rows/s · 250 tok/s · 2.5 s left · 1 error · 2 cached");
    expect(query(".mlcw-error-text").textContent).toBe("First error: row 3: a bug");
    expect([...box.querySelectorAll("thead th")].map((cell) => cell.textContent)).toEqual(["row", "text", "reply"]);
    expect([...box.querySelectorAll("tbody tr > *")].map((cell) => cell.textContent)).toEqual(["9", "a", "b"]);
    expect(query('[role="status"]').textContent).toBe("Running");
  });

  it("pauses, resumes and stops", async () => {
    const model = open(running);
    button("Pause").click();
    await vi.waitFor(() => { expect(model.sent).toHaveLength(1); });
    expect(model.sent).toMatchObject([{ intent: { kind: "pause" } }]);
    model.receive({ type: "ack", intent: (model.sent[0] as { id: string }).id });
    model.change("_map", { ...running, rev: 2, state: "paused" });
    await frame();
    await vi.waitFor(() => { expect(button("Resume").disabled).toBe(false); });
    button("Resume").click();
    button("Stop").click();
    await vi.waitFor(() => {
      expect(model.sent.slice(1)).toMatchObject([{ intent: { kind: "resume" } }, { intent: { kind: "stop" } }]);
    });
    model.change("_map", { ...running, rev: 3, state: "stopped" });
    await frame();
    expect(query(".mlcw-map-buttons").hidden).toBe(true);
    expect(query('[role="status"]').textContent).toBe("Stopped; the rows that are done are kept: 10 of 40 rows");
  });

  it("ignores an older state", async () => {
    const model = open({ ...running, rev: 5, rows: 20 });
    model.change("_map", { ...running, rev: 4 });
    await frame();
    expect(query(".mlcw-map-rows").textContent).toBe("20 of 40 rows");
  });

  it("shows text as text, and the reason of a failed row in place of its reply", () => {
    const hostile = '<img src=x onerror="alert(1)"><script>alert(1)</script>';
    const last = [
      { index: 0, cells: [hostile, hostile], error: null, cached: false },
      { index: 1, cells: ["a", ""], error: hostile, cached: false },
    ];
    open({ ...running, columns: ["a", hostile], last, first_error: hostile });
    expect(box.querySelector("img, script")).toBeNull();
    expect(query("tbody tr:first-child td").textContent).toBe(hostile);
    expect(query(".mlcw-map-error").textContent).toBe(hostile);
  });

  it.each([
    [null],
    [{ rev: "x", state: 5, total: -1, rows: Number.NaN, last: { length: 3 }, columns: [1, {}] }],
    [{ ...running, last: Array.from({ length: 5000 }, () => running.last[0]), columns: Array(5000).fill("c") }],
    [{ ...running, total: 0, rows: 3, last: [null, 5, { index: 2, cells: "no" }] }],
  ])("draws whatever a saved notebook holds", (map) => {
    open(map);
    expect(box.querySelectorAll("tbody tr").length).toBeLessThanOrEqual(20);
    expect(box.querySelectorAll("thead th").length).toBeLessThanOrEqual(13);
  });

  it("has no bar's end where the data does not tell it", () => {
    open({ ...running, total: null, eta_s: null });
    expect(query('[role="progressbar"]').hasAttribute("aria-valuenow")).toBe(false);
    expect(query(".mlcw-map-rows").textContent).toBe("10 rows");
  });
});
