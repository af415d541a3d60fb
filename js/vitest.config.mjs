import { defineConfig } from "vitest/config";

export default defineConfig({
  // Deadlines only catch what hangs: the machine may be busy with other work.
  test: {
    environment: "happy-dom",
    include: ["test/**/*.test.ts"],
    // Each file gets a context of its own in a process that has imported happy-dom once. With one
    // worker, Vitest would give all files the same context.
    pool: "vmForks",
    maxWorkers: 2,
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
