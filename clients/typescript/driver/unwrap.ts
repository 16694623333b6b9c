/**
 * Key material unwrapped as KMS does it, to see what the library has wrapped.
 *
 * @module
 */
import { constants, createDecipheriv, createPrivateKey, privateDecrypt } from "node:crypto";

const ALGORITHM = /^(RSAES_OAEP|RSA_AES_KEY_WRAP)_SHA_(1|256)$/;

/**
 * The key material in plain text.
 *
 * @param wrapped - what KMS calls EncryptedKeyMaterial.
 * @param privateKey - PKCS#8 DER.
 * @param algorithm - KMS's word for the wrapping algorithm.
 */
export function unwrap(wrapped: Uint8Array, privateKey: Uint8Array, algorithm: string): Uint8Array {
  const [, family, digest] = ALGORITHM.exec(algorithm) ?? [];
  if (digest === undefined) {
    throw new Error(`nothing is unwrapped with ${JSON.stringify(algorithm)}`);
  }
  const key = createPrivateKey({ key: Buffer.from(privateKey), format: "der", type: "pkcs8" });
  const block = family === "RSAES_OAEP" ? wrapped.length : (key.asymmetricKeyDetails?.modulusLength ?? 0) / 8;
  const opened = privateDecrypt(
    { key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: `sha${digest}` },
    wrapped.subarray(0, block),
  );
  if (family === "RSAES_OAEP") {
    return opened;
  }
  const decipher = createDecipheriv("id-aes256-wrap-pad", opened, Buffer.from("a65959a6", "hex"));
  return Buffer.concat([decipher.update(wrapped.subarray(block)), decipher.final()]);
}
