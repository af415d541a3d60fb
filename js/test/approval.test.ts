import { afterEach, beforeEach, expect, it, vi } from "vitest";

import type { Decision, Question } from "../src/protocol.ts";
import { ApprovalForm } from "../src/views/approval.ts";

const ask = (call: number, more: Partial<Question> = {}): Question =>
  ({ call, server: "files", tool: "read", arguments: '{\n  "path": "/a"\n}', ...more });

let page: AbortController;
let said: string[];
let decide: ReturnType<typeof vi.fn<(call: number, decision: Decision) => Promise<void>>>;
let form: ApprovalForm;
beforeEach(() => {
  page = new AbortController();
  said = [];
  decide = vi.fn(() => Promise.resolve());
  form = new ApprovalForm(decide, (text) => said.push(text), page.signal);
  document.body.replaceChildren(form.node);
});
afterEach(() => { page.abort(); });

const buttons = (): HTMLButtonElement[] => [...form.node.querySelectorAll("button")];

it("shows each call, and sends each decision once", () => {
  form.update([ask(0), ask(2)]);
  form.update([ask(0), ask(2)]);
  expect(form.node.querySelectorAll(".mlcw-approval")).toHaveLength(2);
  expect(form.node.querySelector("pre")?.textContent).toBe('{\n  "path": "/a"\n}');
  expect(said).toEqual(Array(2).fill("The model wants to call read of files. Allow it?"));
  for (const button of buttons().slice(3)) button.click();
  expect(decide.mock.calls).toEqual([[2, "once"], [2, "always"], [2, "never"]]);
});

it("shows names and arguments of hostile servers as text", () => {
  const hostile = '<img src=x onerror="alert(1)">';
  form.update([ask(0, { server: hostile, tool: hostile, arguments: hostile })]);
  expect(form.node.querySelector("img")).toBeNull();
  expect(form.node.textContent).toContain(hostile);
});

it("moves the focus to what the next call would send, where a key that is held decides nothing", () => {
  form.update([ask(0), ask(1)]);
  buttons()[0]?.focus();
  form.update([ask(1)]);
  expect(document.activeElement).toBe(form.node.querySelector("pre"));
  expect(buttons()).toHaveLength(3);
});

it("says why a decision was refused, and asks again", async () => {
  decide.mockRejectedValueOnce(new Error("call = 0: no decision about it is needed."));
  form.update([ask(0)]);
  buttons()[0]?.click();
  expect(form.node.querySelector(".mlcw-decided")).not.toBeNull();
  await vi.waitFor(() => { expect(form.node.querySelector("[role=alert]")?.textContent).toContain("no decision"); });
  expect(form.node.querySelector(".mlcw-decided")).toBeNull();
});
