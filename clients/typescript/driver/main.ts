/**
 * The conformance driver: does with the library what it is told, a JSON object a line. See tests/conformance/DRIVER.md.
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

import * as keyimport from "../src/index.js";
import { aesKeyWrap } from "../src/wrapping.js";
import { unwrap } from "./unwrap.js";

/** A request; the library is left to find out whether its words are any. */
interface Request {
  readonly do: string;
  readonly target: string;
  readonly ca?: string;
  readonly certificate?: string;
  readonly private_key?: string;
  readonly key_id: string;
  readonly wrapping_algorithm?: keyimport.WrappingAlgorithm;
  readonly wrapping_key_spec?: keyimport.WrappingKeySpec;
  readonly min_remaining_seconds?: number;
  readonly sharing?: keyimport.Sharing;
  readonly key: string;
  readonly material: string;
  readonly valid_to?: string;
  readonly never_expires?: true;
  readonly import_type?: keyimport.ImportType;
  readonly key_material_id?: string;
  readonly key_material_description?: string;
  readonly encrypted_key_material: string;
  readonly import_token: string;
  readonly public_key: string;
  readonly wrapped: string;
  readonly timeout_ms?: number;
}

let connection: keyimport.KeyImportClient | undefined;

const verbs: Readonly<Record<string, (request: Request) => object | Promise<object>>> = {
  connect({ target, ca, certificate, private_key }) {
    const tls =
      ca === undefined && certificate === undefined && private_key === undefined
        ? undefined
        : { ca: file(ca), certificate: file(certificate), privateKey: file(private_key) };
    const next = new keyimport.KeyImportClient(target, { tls });
    connection?.close();
    connection = next;
    return {};
  },

  async get(request) {
    const { min_remaining_seconds: seconds, sharing } = request;
    const parameters = await client().getParameters(request.key_id, {
      ...choice(request),
      sharing,
      minRemainingValidityMs: seconds === undefined ? undefined : seconds * 1000,
    });
    return {
      key_arn: parameters.keyArn,
      public_key: base64(parameters.publicKey),
      import_token: base64(parameters.importToken),
      parameters_valid_to: instant(parameters.parametersValidTo),
      wrapping_algorithm: parameters.wrappingAlgorithm,
      wrapping_key_spec: parameters.wrappingKeySpec,
      public_key_sha256: parameters.fingerprint,
      source: parameters.source,
    };
  },

  async import(request) {
    const imported = await client().importKeyMaterial(request.key_id, bytes(request.material), {
      ...choice(request),
      ...expiration(request),
    });
    return { ...material(imported), public_key_sha256: Buffer.from(imported.publicKeySha256).toString("hex") };
  },

  async import_wrapped(request) {
    const { key_id, encrypted_key_material, import_token } = request;
    const imported = await client().importWrapped(key_id, bytes(encrypted_key_material), bytes(import_token), {
      timeoutMs: request.timeout_ms,
      ...expiration(request),
      importType: request.import_type,
      keyMaterialId: request.key_material_id,
      keyMaterialDescription: request.key_material_description,
    });
    return material(imported);
  },

  async delete({ key_id, key_material_id, timeout_ms }) {
    const options = { keyMaterialId: key_material_id, timeoutMs: timeout_ms };
    return material(await client().deleteImportedKeyMaterial(key_id, options));
  },

  async discard({ key_id, import_token, timeout_ms }) {
    await client().discard(key_id, bytes(import_token), { timeoutMs: timeout_ms });
    return {};
  },

  async status({ key_id, timeout_ms }) {
    const status = await client().status(key_id, { timeoutMs: timeout_ms });
    return {
      key_arn: status.keyArn,
      key_spec: status.keySpec,
      key_state: status.keyState,
      external_origin: status.externalOrigin,
      material_valid_to: status.materialValidTo && instant(status.materialValidTo),
      multi_region: status.multiRegion,
    };
  },

  wrap(request) {
    const under = { ...choice(request), publicKey: bytes(request.public_key) } as keyimport.WrappingKey;
    return { wrapped: base64(keyimport.wrap(bytes(request.material), under)) };
  },

  aes_key_wrap({ key, material }) {
    return { wrapped: base64(aesKeyWrap(bytes(key), bytes(material))) };
  },

  unwrap({ private_key = "", wrapping_algorithm, wrapped }) {
    return { material: base64(unwrap(bytes(wrapped), bytes(private_key), wrapping_algorithm ?? "")) };
  },
};

function client(): keyimport.KeyImportClient {
  if (connection === undefined) {
    throw new Error("nothing is connected");
  }
  return connection;
}

function choice(request: Request): keyimport.WrappingChoice & keyimport.CallOptions {
  return {
    wrappingAlgorithm: request.wrapping_algorithm,
    wrappingKeySpec: request.wrapping_key_spec,
    timeoutMs: request.timeout_ms,
  };
}

/** Whatever was chosen, be it both or neither. */
function expiration({ valid_to, never_expires }: Request): keyimport.Expiration {
  const validTo = valid_to === undefined ? undefined : new Date(valid_to);
  return { validTo, neverExpires: never_expires } as keyimport.Expiration;
}

function material({ keyArn, keyMaterialId }: keyimport.KeyMaterial): object {
  return { key_arn: keyArn, key_material_id: keyMaterialId };
}

/** The file's content, or what is as good as none. */
function file(path: string | undefined): Uint8Array {
  return path === undefined ? new Uint8Array() : readFileSync(path);
}

/** RFC 3339, in whole seconds where it is whole seconds. */
function instant(date: Date): string {
  return date.toISOString().replace(".000Z", "Z");
}

function bytes(text: string): Uint8Array {
  return Buffer.from(text, "base64");
}

function base64(value: Uint8Array): string {
  return Buffer.from(value).toString("base64");
}

function described(error: unknown): object {
  if (error instanceof keyimport.ArgumentError) {
    const { name, message } = error;
    return { type: name, reason: "", code: "", message, field: "", metadata: {}, retry_after_ms: null };
  }
  if (error instanceof keyimport.KeyImportError) {
    const { name, reason, code = "", message, field = "", metadata, retryAfterMs = null } = error;
    return { type: name, reason, code, message, field, metadata, retry_after_ms: retryAfterMs };
  }
  throw error;
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line) as Request;
  let answer;
  try {
    const verb = verbs[request.do];
    if (verb === undefined) {
      throw new Error(`there is no ${JSON.stringify(request.do)}`);
    }
    answer = { ok: await verb(request) };
  } catch (error) {
    answer = { error: described(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
connection?.close();
