package com.example.keyimport;

import com.example.keyimport.v1.Sharing;
import com.example.keyimport.v1.WrappingAlgorithm;
import com.example.keyimport.v1.WrappingKeySpec;
import java.time.Duration;

/**
 * What a caller wants of a parameter set; {@link #DEFAULT} leaves all of it to the broker.
 *
 * @param wrappingAlgorithm how to wrap; unspecified means the strongest that policy and the key allow
 * @param wrappingKeySpec the size of the wrapping key; unspecified means the strongest that policy and the key allow
 * @param minRemainingValidity the least time, up to 23 hours, that the set must remain valid; null means the broker's
 *     setting
 * @param sharing whether other callers may be given the same set
 */
public record ParametersOptions(
        WrappingAlgorithm wrappingAlgorithm,
        WrappingKeySpec wrappingKeySpec,
        Duration minRemainingValidity,
        Sharing sharing) {
    /** Everything as the broker has it. */
    public static final ParametersOptions DEFAULT = new ParametersOptions(
            WrappingAlgorithm.WRAPPING_ALGORITHM_UNSPECIFIED,
            WrappingKeySpec.WRAPPING_KEY_SPEC_UNSPECIFIED,
            null,
            Sharing.SHARING_UNSPECIFIED);

    /**
     * The same with another wrapping algorithm.
     *
     * @param value how to wrap
     * @return changed options
     */
    public ParametersOptions withWrappingAlgorithm(WrappingAlgorithm value) {
        return new ParametersOptions(value, wrappingKeySpec, minRemainingValidity, sharing);
    }

    /**
     * The same with another wrapping key spec.
     *
     * @param value the size of the wrapping key
     * @return changed options
     */
    public ParametersOptions withWrappingKeySpec(WrappingKeySpec value) {
        return new ParametersOptions(wrappingAlgorithm, value, minRemainingValidity, sharing);
    }

    /**
     * The same with another least validity.
     *
     * @param value the least time that the set must remain valid
     * @return changed options
     */
    public ParametersOptions withMinRemainingValidity(Duration value) {
        return new ParametersOptions(wrappingAlgorithm, wrappingKeySpec, value, sharing);
    }

    /**
     * The same with another sharing.
     *
     * @param value whether other callers may be given the same set
     * @return changed options
     */
    public ParametersOptions withSharing(Sharing value) {
        return new ParametersOptions(wrappingAlgorithm, wrappingKeySpec, minRemainingValidity, value);
    }
}
