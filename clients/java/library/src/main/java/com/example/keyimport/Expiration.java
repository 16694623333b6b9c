package com.example.keyimport;

import com.example.keyimport.v1.ImportKeyMaterialRequest;
import java.time.Instant;
import java.util.Objects;

/** When imported key material expires. There is no default: every import chooses one of the two. */
public final class Expiration {
    private static final Expiration NEVER = new Expiration(null);

    private final Instant validTo;

    private Expiration(Instant validTo) {
        this.validTo = validTo;
    }

    /**
     * The key material does not expire.
     *
     * @return that choice
     */
    public static Expiration never() {
        return NEVER;
    }

    /**
     * KMS deletes the key material at a time; the key is unusable from then on.
     *
     * @param validTo at most 365 days ahead
     * @return that choice
     */
    public static Expiration at(Instant validTo) {
        return new Expiration(Objects.requireNonNull(validTo, "validTo"));
    }

    void put(ImportKeyMaterialRequest.Builder request) {
        if (validTo == null) {
            request.setNeverExpires(true);
        } else {
            request.setValidTo(Times.timestamp(validTo));
        }
    }

    @Override
    public String toString() {
        return validTo == null ? "never" : validTo.toString();
    }
}
