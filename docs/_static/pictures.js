/** Draws the Mermaid pictures in the page's colours, and again when these change. */
(() => {
  const sources = new Map();
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const isDark = () => {
    const chosen = document.body.dataset.theme;
    return chosen === "dark" || (chosen !== "light" && dark.matches);
  };

  const draw = async () => {
    mermaid.initialize({
      startOnLoad: false,
      securityLevel: "strict",
      theme: isDark() ? "dark" : "neutral",
      themeVariables: isDark() ? { noteBkgColor: "#3a3a3a", noteTextColor: "#eee" } : {},
      flowchart: { subGraphTitleMargin: { top: 4, bottom: 14 } },
      fontFamily: getComputedStyle(document.body).fontFamily,
    });
    for (const [picture, text] of sources) {
      picture.textContent = text;
      picture.removeAttribute("data-processed");
    }
    await mermaid.run({ nodes: [...sources.keys()] });
  };

  const start = () => {
    for (const picture of document.querySelectorAll("pre.mermaid")) sources.set(picture, picture.textContent);
    if (sources.size === 0) return;
    void draw();
    dark.addEventListener("change", draw);
    new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-theme"] });
  };

  if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
  else start();
})();
