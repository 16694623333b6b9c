/**
 * The way to the broker: over which channel, and how one request goes over it.
 *
 * @module
 */
import { X509Certificate } from "node:crypto";
import { BlockList, isIPv4, isIPv6 } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { createSecureContext } from "node:tls";

import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import {
  Client,
  credentials,
  Metadata,
  type ChannelCredentials,
  type ChannelOptions,
  type ServiceError,
} from "@grpc/grpc-js";

import { ArgumentError, KeyImportError, OutcomeUnknown } from "./errors.js";
import { fromRpc, isServiceError } from "./refusals.js";
import { Retries, type Budget } from "./retries.js";

// A token and a ciphertext are at most 6 KiB each; whatever is far larger is no message of this API.
const MESSAGE_BYTES = 64 * 1024;
const CHANNEL_OPTIONS: ChannelOptions = {
  // An import is sent once. gRPC would otherwise send again by itself, or when a DNS record's service config says so.
  "grpc.enable_retries": 0,
  "grpc.service_config_disable_resolution": 1,
  // No proxy from the environment: it could answer in the broker's place.
  "grpc.enable_http_proxy": 0,
  "grpc.max_receive_message_length": MESSAGE_BYTES,
  "grpc.max_send_message_length": MESSAGE_BYTES,
  // A broker that is back is found as soon as a retry asks for it, and not up to two minutes later.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1_000,
  // Closing a client closes its connection.
  "grpc.use_local_subchannel_pool": 1,
};

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

/** What mutual TLS takes, each as PEM. */
export interface TlsOptions {
  /** The CAs one of which must have signed the broker's certificate; those of the system do not count. */
  readonly ca: string | Uint8Array;
  /** The client's certificate, and after it those between it and its CA. */
  readonly certificate: string | Uint8Array;
  /** The client's private key. */
  readonly privateKey: string | Uint8Array;
}

/** What the calls of one method of the client share. */
export interface Run {
  readonly budget: Budget;
  readonly signal: AbortSignal | undefined;
}

/** A gRPC channel that hides no retry and does not go where it was not told to. */
export class Connection {
  readonly #client: Client;
  #closed = false;

  /** @throws {@link ArgumentError} if the target is none, or TLS is missing where it is needed, or is none. */
  constructor(target: string, tls?: TlsOptions) {
    this.#client = new Client(grpcTarget(target, tls !== undefined), channelCredentials(tls), CHANNEL_OPTIONS);
  }

  /**
   * Sends a request, and again where {@link Retries} says so: the one place where that happens.
   *
   * @param changesKey - whether the call changes the key.
   */
  async call<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethodUnary<Input, Output>,
    request: MessageInitShape<Input>,
    { budget, signal }: Run,
    changesKey = false,
  ): Promise<MessageShape<Output>> {
    const message = encoded(method.input, request);
    const retries = new Retries(changesKey);
    for (;;) {
      signal?.throwIfAborted();
      if (this.#closed) {
        throw new Error("the client is closed");
      }
      const leftMs = budget.left;
      if (leftMs <= 0) {
        throw new KeyImportError("the time is up; the request was not sent", { code: "DEADLINE_EXCEEDED" });
      }
      let error: KeyImportError;
      try {
        return await this.#send(method, message, leftMs, signal);
      } catch (failure) {
        if (!isServiceError(failure)) {
          throw failure;
        }
        error = fromRpc(failure, changesKey);
      }
      if (!(error instanceof OutcomeUnknown)) {
        signal?.throwIfAborted();
      }
      const delayMs = retries.delayAfter(error, budget.left);
      if (delayMs === undefined) {
        throw error;
      }
      await sleep(Math.ceil(delayMs), undefined, { signal }).catch(() => signal?.throwIfAborted());
    }
  }

  /** Ends the connection. */
  close(): void {
    this.#closed = true;
    this.#client.close();
  }

  async #send<Input extends DescMessage, Output extends DescMessage>(
    method: DescMethodUnary<Input, Output>,
    message: Buffer,
    timeoutMs: number,
    signal: AbortSignal | undefined,
  ): Promise<MessageShape<Output>> {
    let cancel: (() => void) | undefined;
    try {
      return await new Promise((resolve, reject) => {
        const call = this.#client.makeUnaryRequest(
          `/${method.parent.typeName}/${method.name}`,
          (bytes: Buffer) => bytes,
          // A copy as plain Uint8Array: callers are promised those, and a Buffer differs in slice and toString.
          (bytes: Buffer) => fromBinary(method.output, new Uint8Array(bytes)),
          message,
          new Metadata(),
          { deadline: Date.now() + timeoutMs },
          (error: ServiceError | null, answer?: MessageShape<Output>) => {
            if (answer === undefined) {
              reject(error ?? new Error("gRPC gave neither an answer nor an error"));
            } else {
              resolve(answer);
            }
          },
        );
        cancel = () => {
          call.cancel();
        };
        signal?.addEventListener("abort", cancel, { once: true });
      });
    } finally {
      if (cancel) {
        signal?.removeEventListener("abort", cancel);
      }
    }
  }
}

/** Encoded here rather than by gRPC, for whom a misuse would look like a call that broke off. */
function encoded<Input extends DescMessage>(schema: Input, request: MessageInitShape<Input>): Buffer {
  try {
    return Buffer.from(toBinary(schema, create(schema, request)));
  } catch (cause) {
    throw new ArgumentError("an argument is not of its type", { cause });
  }
}

function grpcTarget(target: string, encrypted: boolean): string {
  if (/^unix:./.test(target)) {
    if (encrypted) {
      throw new ArgumentError("a unix socket takes no TLS");
    }
    return target;
  }
  const [, host, port] = /^(?:tcp:)?(\[[^[\]/]+\]|[^:[\]/]+):([0-9]+)$/.exec(target) ?? [];
  if (host === undefined || port === undefined || Number(port) > 65_535) {
    throw new ArgumentError(`${JSON.stringify(target)} is neither unix:PATH nor tcp:HOST:PORT`);
  }
  // Whoever can answer in the broker's place can have the key material wrapped for himself.
  if (!encrypted && !isLoopback(host.replace(/^\[|\]$/g, ""))) {
    throw new ArgumentError(`${JSON.stringify(target)} is not on this machine, so the connection needs TLS`);
  }
  return `dns:///${host}:${port}`;
}

function isLoopback(host: string): boolean {
  return (
    host === "localhost" || (isIPv4(host) && LOOPBACK.check(host)) || (isIPv6(host) && LOOPBACK.check(host, "ipv6"))
  );
}

function channelCredentials(tls: TlsOptions | undefined): ChannelCredentials {
  if (tls === undefined) {
    return credentials.createInsecure();
  }
  const { ca, certificate, privateKey } = tls;
  // A missing one would stand for the system's CAs, or for a client without an identity.
  if (!ca.length || !certificate.length || !privateKey.length) {
    throw new ArgumentError("mutual TLS takes ca, certificate and privateKey");
  }
  // In the words of node:tls.
  const pem = (value: string | Uint8Array): string | Buffer => (typeof value === "string" ? value : Buffer.from(value));
  let context;
  try {
    // Read here as well, because a context passes over a CA that is none, and then trusts nobody.
    new X509Certificate(ca);
    context = createSecureContext({
      ca: pem(ca),
      cert: pem(certificate),
      key: pem(privateKey),
      minVersion: "TLSv1.2",
    });
  } catch (cause) {
    throw new ArgumentError("ca, certificate and privateKey are no PEM, or do not belong together", { cause });
  }
  // Said, because the environment variable NODE_TLS_REJECT_UNAUTHORIZED would otherwise have a say.
  return credentials.createFromSecureContext(context, { rejectUnauthorized: true });
}
