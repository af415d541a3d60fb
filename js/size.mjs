// Says how large the built bundle is, and fails if it is too large. Run `npm run build` before.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT_KB = 600;
const files = ["widget.js", "widget.css", "loader.js"].map((name) =>
  readFileSync(new URL(`../mlc_widget/widget/static/${name}`, import.meta.url)));
const kilobytes = (count) => count / 1000;
const whole = kilobytes(files.reduce((sum, file) => sum + file.length, 0));
const packed = kilobytes(files.reduce((sum, file) => sum + gzipSync(file).length, 0));
console.log(`bundle: ${whole.toFixed(0)} kB of at most ${LIMIT_KB} kB (${packed.toFixed(0)} kB compressed)`);
if (whole > LIMIT_KB) process.exit(1);
