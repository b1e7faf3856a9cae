import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";

/** What gives a page shared memory, and the CPU device its threads. A host may send them too. */
const isolation = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

export default defineConfig({
  root: import.meta.dirname,
  // Relative, so that the built page works from any folder of any host.
  base: "./",
  resolve: { alias: { qkv: fileURLToPath(new URL("../src/index.ts", import.meta.url)) } },
  server: { headers: isolation },
  preview: { headers: isolation },
  // It finds its WebAssembly beside itself, where bundling ahead would not put it.
  optimizeDeps: { exclude: ["onnxruntime-web"] },
  worker: { format: "es" },
  build: {
    target: "es2022",
    modulePreload: { polyfill: false },
    // onnxruntime-web's WebAssembly, which nothing but its button loads, is larger than any limit.
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 800,
  },
});
