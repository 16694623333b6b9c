/**
 * The client of keybroker: key material is wrapped in this process and leaves it only wrapped.
 *
 * @module
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt";

import { Connection, type Run } from "./connection.js";
import { ArgumentError, ImportTokenRefused, KeyImportError, OutcomeUnknown } from "./errors.js";
import {
  ImportTypeSchema,
  KeyImportService,
  SharingSchema,
  WrappingAlgorithmSchema,
  WrappingKeySpecSchema,
  type ImportKeyMaterialRequestSchema,
} from "./gen/keyimport/v1/key_import_pb.js";
import { dateOf, namesKey, Parameters } from "./parameters.js";
import { Budget } from "./retries.js";
import type {
  CallOptions,
  ClientOptions,
  GetOptions,
  ImportedKeyMaterial,
  ImportOptions,
  KeyImportStatus,
  KeyMaterial,
  ParametersOptions,
} from "./types.js";
import { numberOf } from "./words.js";
import { checkMaterial } from "./wrapping.js";

/**
 * A connection to a broker, made when it is first needed, until {@link KeyImportClient.close}.
 *
 * Keys are named by key id or key ARN. What the broker refuses is thrown as a {@link KeyImportError}, the misuse of a
 * method as an {@link ArgumentError}. Refusals that the broker says will pass are waited out within the timeout.
 */
export class KeyImportClient implements Disposable {
  readonly #connection: Connection;
  readonly #timeoutMs: number;

  /**
   * @param target - `unix:PATH` or `tcp:HOST:PORT`.
   * @throws {@link ArgumentError} if the target is none, or is neither on this machine nor to be reached by TLS.
   */
  constructor(target: string, { tls, timeoutMs = 30_000 }: ClientOptions = {}) {
    this.#timeoutMs = timeoutMs;
    this.#begin({}); // A timeout that is none is told now, not with the first call.
    this.#connection = new Connection(target, tls);
  }

  /** Ends the connection. What is under way may fail, and nothing can be called from now on. */
  close(): void {
    this.#connection.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Gets a parameter set for a key, and checks it.
   *
   * @throws `WrappingKeyRejected` if the answer contradicts itself or the request.
   */
  async getParameters(keyId: string, options: GetOptions & CallOptions = {}): Promise<Parameters> {
    return this.#getParameters(keyId, options, this.#begin(options));
  }

  /**
   * Gets parameters, wraps the key material here, and imports it. A token that KMS does not accept (any more) is
   * answered once, by a new set and a new wrapping.
   *
   * @param keyId - a key id or key ARN.
   * @param material - AES and HMAC keys as their bytes, RSA and ECC private keys as PKCS#8 DER.
   * @throws `MaterialUnsuitable` if the material cannot be wrapped; nothing was imported.
   * @throws {@link OutcomeUnknown}: look at the key before trying again.
   */
  async importKeyMaterial(
    keyId: string,
    material: Uint8Array,
    options: ImportOptions & ParametersOptions & CallOptions,
  ): Promise<ImportedKeyMaterial> {
    const run = this.#begin(options);
    const common = importRequest(options);
    checkMaterial(material, options);
    const attempt = async (): Promise<ImportedKeyMaterial> => {
      const parameters = await this.#getParameters(keyId, options, run);
      const imported = await this.#import(
        {
          ...common,
          // The ARN rather than the caller's key id: what was checked is what is imported into.
          keyId: parameters.keyArn,
          importToken: parameters.importToken,
          encryptedKeyMaterial: parameters.wrap(material),
        },
        run,
      );
      return { ...imported, publicKeySha256: parameters.publicKeySha256 };
    };
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof ImportTokenRefused)) {
        throw error;
      }
      // The broker forgets a set when it learns this, so the next one is another.
      return attempt();
    }
  }

  /**
   * Imports key material that was wrapped elsewhere, such as in an HSM.
   *
   * @param keyId - a key id or key ARN.
   * @param encryptedKeyMaterial - wrapped under the public key of the set that `importToken` is of.
   * @param importToken - the set's token.
   * @throws {@link OutcomeUnknown}: look at the key before trying again.
   */
  async importWrapped(
    keyId: string,
    encryptedKeyMaterial: Uint8Array,
    importToken: Uint8Array,
    options: ImportOptions & CallOptions,
  ): Promise<KeyMaterial> {
    const run = this.#begin(options);
    return this.#import({ ...importRequest(options), keyId, importToken, encryptedKeyMaterial }, run);
  }

  /**
   * Deletes imported key material: the key is unusable until the same material is imported again.
   *
   * @param keyId - a key id or key ARN.
   * @param options - `keyMaterialId` says which material of a symmetric encryption key; by default the current one.
   * @throws {@link OutcomeUnknown}: look at the key before trying again.
   */
  async deleteImportedKeyMaterial(
    keyId: string,
    { keyMaterialId = "", ...options }: { readonly keyMaterialId?: string | undefined } & CallOptions = {},
  ): Promise<KeyMaterial> {
    const method = KeyImportService.method.deleteImportedKeyMaterial;
    const answer = await this.#connection.call(method, { keyId, keyMaterialId }, this.#begin(options), true);
    return ofKey(answer, keyId);
  }

  /** Reports a parameter set as spent or suspect, so that the broker hands it to no one any more. */
  async discard(keyId: string, importToken: Uint8Array, options: CallOptions = {}): Promise<void> {
    await this.#connection.call(
      KeyImportService.method.discardParameters,
      { keyId, importToken },
      this.#begin(options),
    );
  }

  /** Says what KMS tells of a key now, such as after an {@link OutcomeUnknown}. */
  async status(keyId: string, options: CallOptions = {}): Promise<KeyImportStatus> {
    const answer = await this.#connection.call(
      KeyImportService.method.getKeyImportStatus,
      { keyId },
      this.#begin(options),
    );
    const { keyArn, keySpec, keyState, externalOrigin, multiRegion } = answer;
    const materialValidTo = dateOf(answer.materialValidTo);
    if (!namesKey(keyArn, keyId)) {
      throw new KeyImportError(`the broker answered for ${JSON.stringify(keyArn)}, not for ${JSON.stringify(keyId)}`);
    }
    if (answer.materialValidTo && !materialValidTo) {
      throw new KeyImportError("the broker's answer is refused: the material's expiry is no date");
    }
    return { keyArn, keySpec, keyState, externalOrigin, materialValidTo, multiRegion };
  }

  #begin({ timeoutMs = this.#timeoutMs, signal }: CallOptions): Run {
    return { budget: new Budget(timeoutMs), signal };
  }

  async #getParameters(keyId: string, options: GetOptions, run: Run): Promise<Parameters> {
    const { wrappingAlgorithm, wrappingKeySpec, sharing, minRemainingValidityMs } = options;
    if (minRemainingValidityMs !== undefined && !Number.isFinite(minRemainingValidityMs)) {
      throw new ArgumentError("minRemainingValidityMs is no number of milliseconds");
    }
    const request = {
      keyId,
      wrappingAlgorithm: numberOf(WrappingAlgorithmSchema, wrappingAlgorithm),
      wrappingKeySpec: numberOf(WrappingKeySpecSchema, wrappingKeySpec),
      sharing: numberOf(SharingSchema, sharing),
      ...(minRemainingValidityMs !== undefined && { minRemainingValidity: durationFromMs(minRemainingValidityMs) }),
    };
    const answer = await this.#connection.call(KeyImportService.method.getParametersForImport, request, run);
    return new Parameters(answer, { keyId, wrappingAlgorithm, wrappingKeySpec });
  }

  async #import(
    request: MessageInitShape<typeof ImportKeyMaterialRequestSchema> & { readonly keyId: string },
    run: Run,
  ): Promise<KeyMaterial> {
    return ofKey(
      await this.#connection.call(KeyImportService.method.importKeyMaterial, request, run, true),
      request.keyId,
    );
  }
}

/** The request, still without key, token and material. */
function importRequest(options: ImportOptions): MessageInitShape<typeof ImportKeyMaterialRequestSchema> {
  const { validTo, neverExpires, importType, keyMaterialId = "", keyMaterialDescription = "" } = options;
  // The compiler sees to it as well, where there is one.
  if ((validTo !== undefined) === (neverExpires === true)) {
    throw new ArgumentError("choose exactly one of validTo and neverExpires");
  }
  if (validTo !== undefined && !Number.isFinite(validTo.getTime())) {
    throw new ArgumentError("validTo is no date");
  }
  return {
    expiration: validTo
      ? { case: "validTo", value: timestampFromDate(validTo) }
      : { case: "neverExpires", value: true },
    importType: numberOf(ImportTypeSchema, importType),
    keyMaterialId,
    keyMaterialDescription,
  };
}

/** The answer to an import or delete, if it is about the key that was asked for. */
function ofKey({ keyArn, keyMaterialId }: KeyMaterial, keyId: string): KeyMaterial {
  if (!namesKey(keyArn, keyId)) {
    const [answered, asked] = [JSON.stringify(keyArn), JSON.stringify(keyId)];
    throw new OutcomeUnknown(`the broker answered for ${answered}, not for ${asked}; look at both keys`);
  }
  return { keyArn, keyMaterialId };
}
