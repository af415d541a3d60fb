/** Numbers as people read them: short, with a unit, and "" for a value that is not known. */

const known = (value: number | null): value is number => value !== null && Number.isFinite(value);

/** 0 B, 950 kB, 12.3 MB, 1.2 GB, in decimal units. */
export function formatBytes(bytes: number | null): string {
  if (!known(bytes)) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = Math.max(0, bytes);
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${units[unit] ?? ""}`;
}

/** "3.1 of 12.4 MB"; the unit is written once if both have the same. */
export function formatBytesOf(done: number | null, total: number | null): string {
  if (!known(done)) return "";
  if (!known(total)) return formatBytes(done);
  const [doneValue, doneUnit] = formatBytes(done).split(" ");
  const whole = formatBytes(total);
  if (done === total) return whole;
  return whole.endsWith(` ${doneUnit ?? ""}`)
    ? `${doneValue ?? ""} of ${whole}`
    : `${doneValue ?? ""} ${doneUnit ?? ""} of ${whole}`;
}

export function formatSpeed(bytesPerS: number | null): string {
  return known(bytesPerS) && bytesPerS > 0 ? `${formatBytes(bytesPerS)}/s` : "";
}

/** 42 ms, 1.3 s, 48 s, 2 min 5 s, 1 h 3 min. */
export function formatDuration(seconds: number | null): string {
  if (!known(seconds) || seconds < 0) return "";
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return whole % 60 === 0 ? `${minutes} min` : `${minutes} min ${whole % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Whole seconds, for a clock that counts: "0 s", "7 s", "1 min 4 s". */
export function formatClock(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  return whole < 10 ? `${whole} s` : formatDuration(whole);
}

export function formatRate(tokensPerS: number | null): string {
  if (!known(tokensPerS) || tokensPerS <= 0) return "";
  return `${tokensPerS < 9.95 ? tokensPerS.toFixed(1) : Math.round(tokensPerS)} tok/s`;
}

export function formatTokens(tokens: number | null): string {
  if (!known(tokens)) return "";
  return tokens === 1 ? "1 token" : `${tokens.toLocaleString("en-US")} tokens`;
}

/** 950, 1,234, 12.3k. */
export function formatCount(count: number): string {
  return count < 10_000 ? count.toLocaleString("en-US") : `${(count / 1000).toFixed(count < 99_950 ? 1 : 0)}k`;
}

/** A fraction between 0 and 1 as a percentage: "<1 %", "12 %". */
export function formatPercent(share: number): string {
  if (share > 0 && share < 0.01) return "<1 %";
  return `${Math.round(Math.min(1, Math.max(0, share)) * 100)} %`;
}

/** Joins the parts that are not empty. */
export function joinFacts(...parts: readonly string[]): string {
  return parts.filter((part) => part !== "").join(" · ");
}

/** A model's short name: the last part of its path, without a revision or a checksum. */
export function modelName(modelId: string): string {
  return modelId
    .split(", ")
    .map((id) => {
      const bare = /^(HF|PYPI):/.test(id) ? id.replace(/#sha256=.*$/, "") : id;
      const path = bare.startsWith("HF://") ? bare.replace(/@.*$/, "") : bare;
      return path.replace(/[/\\]+$/, "").split(/[/\\]/).at(-1) ?? "";
    })
    .join(", ");
}
