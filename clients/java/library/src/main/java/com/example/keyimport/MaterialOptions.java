package com.example.keyimport;

import com.example.keyimport.v1.ImportType;

/**
 * What KMS is told of the key material of a symmetric encryption key; {@link #DEFAULT} tells it nothing.
 *
 * @param importType whether this is new or known key material; unspecified leaves it to KMS
 * @param keyMaterialId the id KMS gave to known key material, 64 lower-case hexadecimal digits, or an empty string
 * @param keyMaterialDescription a note stored with the key material, at most 256 characters, or an empty string
 */
public record MaterialOptions(ImportType importType, String keyMaterialId, String keyMaterialDescription) {
    /** Nothing. */
    public static final MaterialOptions DEFAULT = new MaterialOptions(ImportType.IMPORT_TYPE_UNSPECIFIED, "", "");

    /**
     * The same with another import type.
     *
     * @param value whether this is new or known key material
     * @return changed options
     */
    public MaterialOptions withImportType(ImportType value) {
        return new MaterialOptions(value, keyMaterialId, keyMaterialDescription);
    }

    /**
     * The same with another key material id.
     *
     * @param value the id KMS gave to known key material
     * @return changed options
     */
    public MaterialOptions withKeyMaterialId(String value) {
        return new MaterialOptions(importType, value, keyMaterialDescription);
    }

    /**
     * The same with another description.
     *
     * @param value a note stored with the key material
     * @return changed options
     */
    public MaterialOptions withKeyMaterialDescription(String value) {
        return new MaterialOptions(importType, keyMaterialId, value);
    }
}
