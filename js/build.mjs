// Bundles src/ into the Python package, where widget/bundle.py reads it.
// `--watch` rebuilds on every change.
import { context } from "esbuild";
import { fileURLToPath } from "node:url";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

const bundle = await context({
  entryPoints: [
    { in: at("src/index.ts"), out: "widget" },
    { in: at("src/loader.ts"), out: "loader" },
    { in: at("src/styles/index.css"), out: "widget" },
  ],
  outdir: at("../mlc_widget/widget/static/"),
  bundle: true,
  format: "esm",
  target: "es2022",
  minify: !process.argv.includes("--watch"),
  legalComments: "none",
  charset: "utf8",
  logLevel: "info",
});

if (process.argv.includes("--watch")) {
  await bundle.watch();
} else {
  await bundle.rebuild();
  await bundle.dispose();
}
