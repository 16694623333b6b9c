/**
 * The client of keybroker: import your own key material into AWS KMS.
 *
 * <p>{@link com.example.keyimport.KeyImportClient} talks to a broker; {@link com.example.keyimport.Wrapping} wraps and
 * checks without one. Key material is wrapped in this process and leaves it only wrapped. What goes wrong is thrown as
 * a {@link com.example.keyimport.KeyImportException}, of one type for each reason.
 */
package com.example.keyimport;
