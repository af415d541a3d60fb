import { defineConfig } from "vitest/config";

export default defineConfig({
  // Deadlines only catch what hangs: the machine may be busy with other work.
  test: {
    environment: "happy-dom",
    include: ["test/**/*.test.ts"],
    testTimeout: 120_000,
    hookTimeout: 120_000,
  },
});
