/**
 * Key material imports into AWS KMS through keybroker: the material is wrapped in this process and leaves it only
 * wrapped.
 *
 * @packageDocumentation
 */
export { KeyImportClient } from "./client.js";
export type { TlsOptions } from "./connection.js";
export * from "./errors.js";
export type { Parameters } from "./parameters.js";
export type * from "./types.js";
export {
  checkMaterial,
  checkPublicKey,
  wrap,
  type WrappingAlgorithm,
  type WrappingChoice,
  type WrappingKey,
  type WrappingKeySpec,
} from "./wrapping.js";
