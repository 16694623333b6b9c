import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import ts from "typescript";

const ROOT = join(import.meta.dirname, "../..");
// What the reader has already.
const GIVEN = `
declare const keyId: string;
declare const material: Uint8Array;
declare const client: import("keyimport").KeyImportClient;
`;

test("what the README shows compiles, as strictly as the library itself", () => {
  const readme = readFileSync(join(ROOT, "README.md"), "utf8");
  const snippets = [...readme.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, snippet = ""]) => snippet);
  assert.equal(snippets.length, 2);
  const files = new Map([[join(ROOT, "test/given.d.ts"), GIVEN]]);
  for (const [index, snippet] of snippets.entries()) {
    files.set(join(ROOT, `test/snippet-${index}.ts`), snippet);
  }
  const config: unknown = ts.readConfigFile(join(ROOT, "tsconfig.json"), (path) => ts.sys.readFile(path)).config;
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, ROOT);
  Object.assign(options, { noEmit: true, incremental: false, tsBuildInfoFile: undefined });
  const host = ts.createCompilerHost(options);
  const onDisk = { ...host };
  host.fileExists = (path) => files.has(path) || onDisk.fileExists(path);
  host.readFile = (path) => files.get(path) ?? onDisk.readFile(path);

  const program = ts.createProgram([...files.keys()], options, host);

  const said = ts.getPreEmitDiagnostics(program).map(({ messageText }) => messageText);
  assert.deepEqual(said, []);
});
