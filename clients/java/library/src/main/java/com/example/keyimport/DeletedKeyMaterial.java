package com.example.keyimport;

/**
 * What was deleted.
 *
 * @param keyArn the key's ARN
 * @param keyMaterialId the id of the key material; empty unless the key is a symmetric encryption key
 */
public record DeletedKeyMaterial(String keyArn, String keyMaterialId) {}
