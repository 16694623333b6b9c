package com.example.keyimport;

import java.time.Instant;
import java.util.Optional;

/**
 * What an import depends on and changes, as KMS tells it now.
 *
 * @param keyArn the key's ARN
 * @param keySpec the key's spec in KMS's words, such as SYMMETRIC_DEFAULT
 * @param keyState the key's state in KMS's words, such as PendingImport or Enabled
 * @param externalOrigin whether the key takes imported key material
 * @param materialValidTo when KMS deletes the key material; empty if it holds none, or holds it for ever
 * @param multiRegion whether it is a multi-Region key; each replica needs the same key material imported
 */
public record KeyStatus(
        String keyArn,
        String keySpec,
        String keyState,
        boolean externalOrigin,
        Optional<Instant> materialValidTo,
        boolean multiRegion) {}
