// SPDX-License-Identifier: BSD-3-Clause
// node run_wasm.mjs program.wasm: runs a WebAssembly program that was compiled for WASI.
import { readFileSync } from "node:fs";
import { WASI } from "node:wasi";

const system = new WASI({ version: "preview1", returnOnExit: true });
const program = await WebAssembly.compile(readFileSync(process.argv[2]));
const instance = await WebAssembly.instantiate(program, { wasi_snapshot_preview1: system.wasiImport });
process.exitCode = system.start(instance);
