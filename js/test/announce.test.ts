import { describe, expect, it } from "vitest";

import { Announcer, lastSentenceEnd } from "../src/announce.ts";

describe("sentences", () => {
  it.each([
    ["", 0], ["Hello", 0], ["Hello.", 6], ["It is 3.14", 0], ["One. Two", 4], ['He said "no."', 13], ["a\nb", 2],
  ])("%j", (text, end) => { expect(lastSentenceEnd(text)).toBe(end); });

  it("are looked for in what is new", () => {
    expect(lastSentenceEnd("One. Two. Three", 4)).toBe(9);
    expect(lastSentenceEnd("One. Two", 4)).toBe(4);
  });

  it("are announced once each, and the rest at the end", () => {
    const region = document.createElement("div");
    const announcer = new Announcer(region);
    const heard: string[] = [];
    const follow = (text: string, complete = false): void => {
      region.textContent = "";
      announcer.follow("a", text, complete);
      if (region.textContent) heard.push(region.textContent);
    };
    follow("He");
    follow("Hello. How");
    follow("Hello. How are");
    follow("Hello. How are you? Fine", true);
    expect(heard).toEqual(["Hello.", "How are you? Fine"]);
  });
});
