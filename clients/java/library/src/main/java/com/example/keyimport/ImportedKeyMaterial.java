package com.example.keyimport;

/**
 * What was imported.
 *
 * @param keyArn the key's ARN
 * @param keyMaterialId the id KMS gave to the key material; empty unless the key is a symmetric encryption key
 * @param publicKeySha256 SHA-256, as the broker's audit log shows it in hexadecimal, of the public key it was wrapped
 *     under; empty if it was wrapped elsewhere
 */
public record ImportedKeyMaterial(String keyArn, String keyMaterialId, String publicKeySha256) {}
