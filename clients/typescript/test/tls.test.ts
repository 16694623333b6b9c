import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { ServerCredentials } from "@grpc/grpc-js";

import { ArgumentError, KeyImportClient, type TlsOptions } from "../src/index.js";
import { FakeBroker, KEY_ARN, KEY_ID } from "./broker.js";

/** A certificate that is its own CA, and its key. */
function identity(directory: string, name: string): TlsOptions {
  const file = (kind: string): string => join(directory, `${name}.${kind}`);
  execFileSync(
    "openssl",
    [
      ..."req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1".split(" "),
      ...["-subj", `/CN=${name}`, "-addext", `subjectAltName=DNS:localhost,URI:spiffe://corp.example/${name}`],
      ...["-keyout", file("key"), "-out", file("pem")],
    ],
    { stdio: "ignore" },
  );
  const certificate = readFileSync(file("pem"));
  return { ca: certificate, certificate, privateKey: readFileSync(file("key"), "utf8") };
}

describe("mutual TLS", () => {
  const directory = mkdtempSync(join(tmpdir(), "keyimport-"));
  const broker = new FakeBroker();
  let port: number, server: TlsOptions, client: TlsOptions, stranger: TlsOptions;

  before(async () => {
    [server, client, stranger] = [
      identity(directory, "broker"),
      identity(directory, "alice"),
      identity(directory, "eve"),
    ];
    const pair = { cert_chain: Buffer.from(server.certificate), private_key: Buffer.from(server.privateKey) };
    port = await broker.listen("127.0.0.1:0", ServerCredentials.createSsl(Buffer.from(client.ca), [pair], true));
  });

  after(async () => {
    await broker[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true });
  });

  async function ask(host: string, tls?: TlsOptions): Promise<string> {
    const connection = new KeyImportClient(`tcp:${host}:${port}`, { tls, timeoutMs: 10_000 });
    try {
      return (await connection.deleteImportedKeyMaterial(KEY_ID)).keyArn; // which is not tried again
    } finally {
      connection.close();
    }
  }

  test("reaches the broker", async () => {
    assert.equal(await ask("localhost", { ...client, ca: server.ca }), KEY_ARN);
  });

  test("reaches nobody whom the CAs do not vouch for by that name, or who does not know the client", async () => {
    const attempts: [host: string, tls?: TlsOptions][] = [
      ["localhost", { ...client, ca: stranger.ca }],
      ["127.0.0.1", { ...client, ca: server.ca }],
      ["localhost", { ...stranger, ca: server.ca }],
      ["localhost"],
    ];
    for (const attempt of attempts) {
      await assert.rejects(ask(...attempt), { name: "OutcomeUnknown", code: "UNAVAILABLE" });
    }
  });

  test("is not loosened by the environment", async () => {
    process.env["NODE_TLS_REJECT_UNAUTHORIZED"] = "0";
    try {
      await assert.rejects(ask("localhost", { ...client, ca: stranger.ca }), { code: "UNAVAILABLE" });
    } finally {
      delete process.env["NODE_TLS_REJECT_UNAUTHORIZED"];
    }
  });

  test("takes all three files, which belong together, and no unix socket", () => {
    const empty = { ca: "", certificate: "", privateKey: "" };
    for (const missing of ["ca", "certificate", "privateKey"] as const) {
      assert.throws(
        () => new KeyImportClient("tcp:x:1", { tls: { ...client, [missing]: empty[missing] } }),
        ArgumentError,
      );
      assert.throws(() => new KeyImportClient("tcp:x:1", { tls: { ...client, [missing]: "no PEM" } }), ArgumentError);
    }
    const mixed = { ...client, privateKey: stranger.privateKey };
    assert.throws(() => new KeyImportClient("tcp:x:1", { tls: mixed }), ArgumentError);
    assert.throws(() => new KeyImportClient("unix:/x", { tls: client }), ArgumentError);
  });
});
