/**
 * A broker for tests on a real socket: it keeps sets like the real one, and can be told to fail or to lie.
 *
 * @module
 */
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethod,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { anyPack, timestampFromMs, type Any } from "@bufbuild/protobuf/wkt";
import {
  Metadata,
  Server,
  ServerCredentials,
  status,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServiceError,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";

import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../src/gen/google/rpc/status_pb.js";
import {
  KeyImportService,
  ParametersSource,
  WrappingAlgorithm,
  WrappingKeySpec,
  type GetParametersForImportResponse,
  type ImportKeyMaterialRequest,
} from "../src/gen/keyimport/v1/key_import_pb.js";
import { keyPair } from "./keys.js";

export const KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab";
export const KEY_ARN = `arn:aws:kms:us-east-1:111122223333:key/${KEY_ID}`;
export const MATERIAL_ID = "ab".repeat(32);

const { method } = KeyImportService;
type Lie<Output extends DescMessage> = Partial<Omit<MessageShape<Output>, "$typeName" | "$unknown">>;

export class FakeBroker implements AsyncDisposable {
  /** The names of the RPCs called, in order. */
  readonly calls: string[] = [];
  /** What each call said of itself, in order. */
  readonly headers: { authority: string; leftMs: number }[] = [];
  /** How the next calls of an RPC fail, each used once; `stall` is never answered. */
  readonly failures = new Map<string, (ServiceError | "stall")[]>();
  readonly imports: ImportKeyMaterialRequest[] = [];
  lie: Lie<typeof method.getParametersForImport.output> = {};
  /** The key of which imports, deletes and status are told. */
  keyArn = KEY_ARN;

  readonly #directory = mkdtempSync(join(tmpdir(), "keyimport-"));
  readonly #sets = new Map<string, GetParametersForImportResponse>();
  #server = new Server();

  get target(): string {
    return `unix:${join(this.#directory, "s")}`;
  }

  static async start(): Promise<FakeBroker> {
    const broker = new FakeBroker();
    await broker.listen();
    return broker;
  }

  /** Listens, on the unix socket if nothing else is said. @returns the port, if there is one. */
  async listen(address = this.target, credentials = ServerCredentials.createInsecure()): Promise<number> {
    this.#server = new Server();
    const service: UntypedServiceImplementation = {};
    const definitions = Object.fromEntries(
      KeyImportService.methods
        .filter((one) => one.methodKind === "unary")
        .map((one) => {
          service[one.name] = this.#handler(one);
          const definition = {
            path: `/${KeyImportService.typeName}/${one.name}`,
            requestStream: false,
            responseStream: false,
            requestSerialize: (value: MessageShape<DescMessage>) => Buffer.from(toBinary(one.input, value)),
            requestDeserialize: (bytes: Buffer) => fromBinary(one.input, bytes),
            responseSerialize: (value: MessageShape<DescMessage>) => Buffer.from(toBinary(one.output, value)),
            responseDeserialize: (bytes: Buffer) => fromBinary(one.output, bytes),
          };
          return [one.name, definition];
        }),
    );
    this.#server.addService(definitions, service);
    return new Promise((resolve, reject) => {
      this.#server.bindAsync(address, credentials, (error, port) => {
        if (error) {
          reject(error);
        } else {
          resolve(port);
        }
      });
    });
  }

  /** Ends as if killed. */
  stop(): void {
    this.#server.forceShutdown();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    rmSync(this.#directory, { recursive: true, force: true });
    return Promise.resolve();
  }

  fail(rpc: string, ...failures: (ServiceError | "stall")[]): void {
    this.failures.set(rpc, [...(this.failures.get(rpc) ?? []), ...failures]);
  }

  #handler(one: DescMethod) {
    return (call: ServerUnaryCall<MessageShape<DescMessage>, unknown>, answer: sendUnaryData<unknown>): void => {
      this.calls.push(one.name);
      this.headers.push({ authority: call.getHost(), leftMs: Number(call.getDeadline()) - Date.now() });
      const failure = this.failures.get(one.name)?.shift();
      if (failure === "stall") {
        return;
      }
      try {
        answer(failure ?? null, failure ? undefined : create(one.output, this.#answer(one.name, call.request)));
      } catch (error) {
        answer(error as ServiceError);
      }
    };
  }

  #answer(rpc: string, request: MessageShape<DescMessage>): MessageInitShape<DescMessage> {
    switch (rpc) {
      case method.getParametersForImport.name: {
        const asked = request as MessageShape<typeof method.getParametersForImport.input>;
        return { ...this.#set(asked.wrappingAlgorithm, asked.wrappingKeySpec), ...this.lie };
      }
      case method.importKeyMaterial.name: {
        const asked = request as ImportKeyMaterialRequest;
        if (!this.#sets.delete(Buffer.from(asked.importToken).toString("hex"))) {
          throw failure(status.FAILED_PRECONDITION, statusDetails(errorInfo("IMPORT_TOKEN_INVALID")));
        }
        this.imports.push(asked);
        return { keyArn: this.keyArn, keyMaterialId: MATERIAL_ID };
      }
      case method.deleteImportedKeyMaterial.name:
        return { keyArn: this.keyArn, keyMaterialId: MATERIAL_ID };
      case method.discardParameters.name: {
        const asked = request as MessageShape<typeof method.discardParameters.input>;
        this.#sets.delete(Buffer.from(asked.importToken).toString("hex"));
        return {};
      }
      default:
        return { keyArn: this.keyArn, keySpec: "SYMMETRIC_DEFAULT", keyState: "Enabled", externalOrigin: true };
    }
  }

  #set(algorithm: WrappingAlgorithm, spec: WrappingKeySpec): GetParametersForImportResponse {
    const known = [...this.#sets.values()][0];
    if (known) {
      return { ...known, source: ParametersSource.CACHE };
    }
    const wrappingKeySpec = spec || WrappingKeySpec.RSA_2048;
    const { publicKey } = keyPair(WrappingKeySpec[wrappingKeySpec] as Parameters<typeof keyPair>[0]);
    const importToken = randomBytes(1024);
    const made = create(method.getParametersForImport.output, {
      keyArn: KEY_ARN,
      publicKey,
      importToken,
      parametersValidTo: timestampFromMs(Date.now() + 86_400_000),
      wrappingAlgorithm: algorithm || WrappingAlgorithm.RSAES_OAEP_SHA_256,
      wrappingKeySpec,
      publicKeySha256: createHash("sha256").update(publicKey).digest(),
      source: ParametersSource.KMS,
    });
    this.#sets.set(importToken.toString("hex"), made);
    return made;
  }
}

/** A failed call, with the value of its grpc-status-details-bin. */
export function failure(code: status, blob?: Buffer): ServiceError {
  const metadata = new Metadata();
  if (blob) {
    metadata.set("grpc-status-details-bin", blob);
  }
  const details = "A sentence for the caller.";
  return Object.assign(new Error(details), { code, details, metadata });
}

/** The details as the value of grpc-status-details-bin. */
export function statusDetails(...details: Any[]): Buffer {
  return Buffer.from(toBinary(StatusSchema, create(StatusSchema, { details })));
}

export function errorInfo(reason: string, metadata: Record<string, string> = {}, domain = "keyimport"): Any {
  return anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain, metadata }));
}

export function retryInfo(seconds: number, nanos: number): Any {
  return anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: { seconds: BigInt(seconds), nanos } }));
}

export function badRequest(field: string): Any {
  return anyPack(BadRequestSchema, create(BadRequestSchema, { fieldViolations: [{ field }] }));
}
